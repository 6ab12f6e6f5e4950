"""The command line: one verb a file; options in, one call, result out.

A verb's module offers `register(verbs)` and `run(arguments) -> int`. Its top imports only what
parsing needs; what does the work is imported in `run`, so that `flashboot --help` stays quick.
"""
