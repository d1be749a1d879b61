"""`loomctl`, its imports done once: a JSON array of arguments a line on stdin, an answer a line.

An answer is [exit status, stdout, stderr]. Each command line is parsed and run by the real `cli`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from loomctl import cli


def main() -> None:
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(json.loads(line))
        print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)


if __name__ == "__main__":
    main()
