"""`python -m loomd.bench [NAME..] [--agents N] [--json] [--parent PID]`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from loomd.bench.figures import FIGURES, LONG
from loomd.bench.instance import running
from loomd.bench.report import HEAD, line, text
from loomd.supervise import kernel
from loomd.wire.errors import LoomError

AGENTS = 100

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: measured (missed goals are a result, not an error); 2: no such figure."""
    known = FIGURES | LONG
    parser = argparse.ArgumentParser(prog="loomctl bench", description="figures of this machine")
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(known))
    parser.add_argument("--agents", type=int, default=AGENTS, help="how many actors (100)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--parent", type=int, default=0, help="ends when this process does")
    args = parser.parse_args(argv)
    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    if args.parent and not kernel.die_with(args.parent, signal.SIGTERM):
        return 1
    unknown = [name for name in args.names if name not in known]
    if unknown or not 1 <= args.agents <= 5000:
        message = f"no figure {unknown[0]!r}" if unknown else "--agents is 1 to 5000"
        return _failed(LoomError("usage", message, "there are: " + " ".join(known)), args.json)
    lines = []
    try:
        with running() as bench:
            if not args.json:
                print(HEAD, flush=True)
            for name in args.names or FIGURES:
                for figure in known[name](bench, args.agents):
                    lines.append(line(figure))
                    if not args.json:
                        print(text(lines[-1]), flush=True)
    except LoomError as error:
        return _failed(error, args.json)
    if args.json:
        print(json.dumps([one.as_json() for one in lines]))
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """What was started is stopped on the way out, which nobody interrupts again."""
    for one in ENDS:
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _failed(error: LoomError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.as_json()))
    else:
        print(f"{error.message} ({error.hint})" if error.hint else error.message, file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
