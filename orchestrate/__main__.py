"""``python -m orchestrate`` does what the ``orchestrate`` command does."""

import sys

from orchestrate.cli import main

if __name__ == "__main__":
    sys.exit(main())
