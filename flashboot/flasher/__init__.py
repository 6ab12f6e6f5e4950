"""The engine that puts an image onto a device, and the phases of a flash in the RAM OS.

`flashboot image write` uses the same engine on a device that is not the root.
"""
