"""``python -m memorycluster``: the command line."""

import sys

from memorycluster.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
