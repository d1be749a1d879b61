"""`loomd` with a tree of toys: everything of boot, nothing of the hub.

`python booted.py FOLDER`; what the toys tell goes to FOLDER.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from loomd import boot


def main() -> int:
    folder = sys.argv.pop(1)

    def tree(settings: Any, hub_args: dict[str, Any], generation: int = 1) -> dict[str, Any]:
        def toy(id: str, do: str, **start: Any) -> dict[str, Any]:
            return {
                "id": id,
                "start": {
                    "template": "actors",
                    "entry": "tests.children.toys:main",
                    "args": {"folder": folder, "do": do},
                    **start,
                },
            }

        return {
            "id": "root",
            "type": "supervisor",
            "children": [
                {"id": "template", "start": {"serves": "actors"}},
                toy("a", "live", lock=True),
                toy("gateway-1", "keys", keys=True),
                *([toy("b", "brood")] if os.environ.get("LC_BROOD") else []),
            ],
        }

    boot.tree = tree
    boot.LOCK_WAIT_S = 60.0  # the daemon before may take its time to end on a busy machine
    return boot.main()


if __name__ == "__main__":
    # Hiding the keys executes the same command line again: put back what was taken from it.
    sys.exit(main())
