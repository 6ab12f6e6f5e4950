"""`python -m happycache` is the same program as `happycache`."""

import sys

from happycache.cli import main

if __name__ == "__main__":
    sys.exit(main())
