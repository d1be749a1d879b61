"""`loomctl`: the verbs. Parses, opens a client, prints; every verb's body is in `commands/`.

Contract with scripts: with `--json` (before or after the verb) exactly one JSON value goes to
stdout (streams: one object a line), diagnostics go to stderr, and errors keep their exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from loomctl.commands import NOT_YET, VERBS
from loomctl.context import Context
from loomctl.render import plain
from loomd.wire.endpoints import instance
from loomd.wire.errors import LoomError


class Verbs(click.Group):
    """Lists verbs in the order of the contract, and says "not yet" for those to come."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in NOT_YET:
            raise LoomError("not_yet", f"`loomctl {args[0]}` is not there yet", NOT_YET[args[0]])
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="loomd", prog_name="loomctl")
@click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout, whatever happens.")
@click.option("--no-start", is_flag=True, help="Refuse rather than start a daemon.")
@click.pass_context
def loomctl(ctx: click.Context, as_json: bool, no_start: bool) -> None:
    """Attach to loomd, the daemon that runs teams of AI coding agents.

    \b
    First steps:
      loomctl demo                          the main job on a small repo, with a crash on the way
      loomctl run "rename a to b" --yes     a job on the repo in this directory
      loomctl ps                            what runs
    """
    ctx.obj = Context(instance=instance(), json=as_json, start=not no_start)


for verb in VERBS:
    loomctl.add_command(verb)


def _lift_flags(argv: Sequence[str]) -> list[str]:
    """`--json` and `--no-start` may stand anywhere before a `--`; click wants them first."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    head, tail = list(argv[:end]), list(argv[end:])
    flags = [flag for flag in ("--json", "--no-start") if flag in head]
    return flags + [arg for arg in head if arg not in ("--json", "--no-start")] + tail


def _is_text(arg: str) -> bool:
    try:
        arg.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(error: LoomError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.as_json()), flush=True)
    else:
        click.echo(f"loomctl: {plain(error.message)}", err=True)
        if error.hint:
            click.echo(f"  {plain(error.hint)}", err=True)
    return error.exit_code


def run(argv: Sequence[str]) -> int:
    """One command line; returns the exit code."""
    if sys.stdout is None:  # started with it closed: what we say has nowhere to go
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    args = _lift_flags(argv)
    as_json = args[:1] == ["--json"]
    try:
        for arg in args:
            if not _is_text(arg):
                raise LoomError("usage", f"{arg!r} is no UTF-8", "check the terminal's encoding")
        result: Any = loomctl.main(args=args, prog_name="loomctl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except LoomError as error:
        return _fail(error, as_json)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f"see: {error.ctx.command_path} --help"
        return _fail(LoomError("usage", error.format_message(), hint), as_json)
    except (KeyboardInterrupt, click.Abort):
        return _fail(LoomError("interrupted", "interrupted"), as_json)
    except BrokenPipeError:
        # The reader (head, less) has gone. Keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is not None:  # a file, or a program to run: not our stdout
            message = f"{error.filename}: {error.strerror}"
            return _fail(LoomError("failed", message), as_json)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _fail(LoomError("failed", f"cannot write the answer: {error.strerror}"), False)


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
