"""flashboot: an in-memory flash bootloader for cloud instances."""

__version__ = "0.1.0"
