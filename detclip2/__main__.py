"""``python -m detclip2``: the command ``detclip2``."""

import sys

from detclip2.cli import main

if __name__ == "__main__":
    sys.exit(main())
