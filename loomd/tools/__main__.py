"""`python -m loomd.tools FOLDER`: what lies in a folder of tool files, as one JSON object.

For a look while no session runs: {tools: [toolset row], errors: [{module, error}]}. The files are
imported by this process.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from loomd.tools.generation import load
from loomd.tools.places import LIMITS


def main() -> int:
    with contextlib.redirect_stdout(sys.stderr):  # what a tool file prints is no part of it
        formed = load(Path(sys.argv[1]).resolve(), import_s=LIMITS["import_s"])
    print(json.dumps({"tools": formed.rows, "errors": formed.errors}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
