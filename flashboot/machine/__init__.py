"""The computer: one typed door per danger.

The only home of ctypes, fcntl, subprocess, /proc and /sys.
"""
