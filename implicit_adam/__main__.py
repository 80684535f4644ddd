"""`python -m implicit_adam`."""

import sys

from implicit_adam.cli import main

if __name__ == "__main__":
    sys.exit(main())
