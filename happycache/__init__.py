"""happycache: remember which file pages were in the page cache, and bring them back.

A package of its own: it imports nothing of flashboot and can be installed alone.
"""

__version__ = "0.1.0"
