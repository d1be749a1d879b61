"""`python -m loomd`."""

import sys

from loomd.boot import main

if __name__ == "__main__":
    sys.exit(main())
