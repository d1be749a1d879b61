"""`python -m loomd.bench.bound PARENT`: a daemon that is told to end when PARENT dies, however.

A bench that is killed with SIGKILL can stop nothing any more; the kernel does it in its place.
"""

from __future__ import annotations

import os
import signal
import sys

from loomd.supervise import kernel

if __name__ == "__main__":
    if not kernel.die_with(int(sys.argv[1]), signal.SIGTERM):
        sys.exit(1)  # it is gone already
    os.execv(sys.executable, [sys.executable, "-m", "loomd"])
