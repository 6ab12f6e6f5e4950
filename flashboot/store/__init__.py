"""Where an image's bytes live: one protocol, a directory, S3, and a wrapper that retries.

This room makes no clients and opens no devices: programs pass in a client made by cloud/.
Only `store.s3` imports botocore, so that a program which reads a directory never pays for it.
"""
