"""`demo`: the main job on a small repo made for it, with a coder killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from loomctl import render
from loomctl.client import Client
from loomctl.commands import jobs
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError
from loomd.wire.models import OFFLINE

GOAL = "rename parse_cfg to parse_config"

FILES = {
    "README.md": "# tiny-server\n\nReads settings (see `settings/parser.py`) and serves them.\n",
    "pytest.ini": "[pytest]\ntestpaths = tests\npythonpath = .\n",
    "settings/__init__.py": (
        '"""Settings of the tiny server."""\n\n'
        "from settings.parser import ParseError, parse_cfg\n\n"
        '__all__ = ["ParseError", "parse_cfg"]\n'
    ),
    "settings/parser.py": '''"""The format: one `key = value` a line, `#` starts a comment."""


class ParseError(ValueError):
    """A line that is neither a comment nor `key = value`."""


def parse_cfg(text):
    """The settings in `text`, as a dict of strings."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise ParseError(f"line {number}: no '=' (parse_cfg)")
        found[key.strip()] = value.strip()
    return found


def parse_many(texts):
    """Later settings win."""
    merged = {}
    for one in map(parse_cfg, texts):
        merged.update(one)
    return merged
''',
    "settings/loader.py": '''"""Reads settings from files."""

from pathlib import Path

from settings import parser
from settings.parser import parse_cfg as read


def load(path):
    return read(Path(path).read_text())


def load_all(paths):
    return [parser.parse_cfg(Path(path).read_text()) for path in paths]
''',
    "server/__init__.py": "",
    "server/app.py": '''"""The server's own corner of the settings."""

from settings import parse_cfg

DEFAULTS = parse_cfg("port = 8080\\nhost = localhost")


class App:
    def __init__(self, text=""):
        self.settings = {**DEFAULTS, **parse_cfg(text)}

    def describe(self, parse_cfg=None):
        """The parameter has the function's name, and is another thing."""
        note = f" ({parse_cfg})" if parse_cfg else ""
        return f"{self.settings['host']}:{self.settings['port']}{note}"
''',
    "server/cli.py": '''"""Prints what a settings file says."""

import settings


def show(text):
    lines = [f"{key}={value}" for key, value in settings.parse_cfg(text).items()]
    return "\\n".join(lines)
''',
    "tests/test_settings.py": """import pytest

from server.app import App
from server.cli import show
from settings import ParseError, parse_cfg
from settings.parser import parse_many


def test_reads_keys_and_values():
    assert parse_cfg("a = 1 # one\\n\\nb=2") == {"a": "1", "b": "2"}


def test_says_where_a_line_is_wrong():
    with pytest.raises(ParseError, match="line 2"):
        parse_cfg("a = 1\\nnonsense")


def test_later_settings_win():
    assert parse_many(["a = 1", "a = 2"]) == {"a": "2"}


def test_app_describes_itself():
    assert App("port = 1").describe() == "localhost:1"
    assert App().describe(parse_cfg="note") == "localhost:8080 (note)"


def test_show():
    assert show("a = 1\\nb = 2") == "a=1\\nb=2"
""",
}


def make_repo(root: Path) -> Path:
    """A git repo with one commit."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git = ["git", "-c", "user.name=demo", "-c", "user.email=demo@localhost"]
    for args in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["commit", "-q", "-m", "A tiny server"],
    ):
        try:
            subprocess.run([*git, *args], cwd=root, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise LoomError("failed", "git is not installed", "install git") from None
        except subprocess.CalledProcessError as error:
            raise LoomError("failed", f"git {args[0]}: {error.stderr.strip()}", "") from None
    return root


def run_tests(root: Path) -> dict[str, Any]:
    """The repo's own tests, by its Python: {ok, text}; ok is None where pytest is missing."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env=env, timeout=120
    )
    if "No module named pytest" in done.stderr:
        return {"ok": None, "text": "pytest is not installed"}
    return {
        "ok": done.returncode == 0,
        "text": render.short((done.stdout.strip().splitlines() or [done.stderr])[-1]),
    }


@dataclass
class Crash:
    """Kills the first coder that is at work, and watches its successor."""

    client: Client
    session: str
    victim: str = ""
    pid: int = 0
    at: float = 0.0
    restarted: float = 0.0
    on: float = 0.0
    requests: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)

    def see(self, event: dict[str, Any]) -> bool:
        """Takes note of an event; True if it killed somebody on it."""
        data = event.get("data") or {}
        agent = str(data.get("agent") or event["actor"])
        match event["type"]:
            case "model_request":
                self.requests.add(str(data.get("request")))
            case "model_outcome":
                self.outcomes[str(data.get("request"))] += 1
            case "actor_restarted" if data.get("name") == self.victim and not self.restarted:
                self.restarted = event["ts"]
        if self.victim:
            mine = event["actor"] == self.victim and event["type"] != "actor_restarted"
            if mine and self.restarted and not self.on:
                self.on = event["ts"]
            return False
        if event["type"] == "tool_call" and "/coder" in agent:
            return self._kill(agent)
        return False

    def _kill(self, name: str) -> bool:
        before = time.time()
        try:
            killed = self.client.request("kill", name=name, signal=9)
        except LoomError as error:
            if error.code in ("not_found", "not_running", "no_such_actor"):
                return False  # it was quicker; the next coder will do
            raise
        self.victim, self.pid, self.at = name, int(killed["pid"]), before
        return True

    def result(self, paid: int) -> dict[str, Any]:
        return {
            "victim": self.victim or None,
            "pid": self.pid or None,
            "signal": 9,
            "restarted_ms": _ms(self.at, self.restarted),
            "went_on_ms": _ms(self.at, self.on),
            "model_calls": paid,
            "model_calls_repeated": max(0, paid - len(self.requests)),
            "outcomes_doubled": sum(count - 1 for count in self.outcomes.values()),
        }


def _ms(start: float, end: float) -> float | None:
    return round((end - start) * 1000, 1) if start and end else None


@click.command()
@click.option("--team", type=click.IntRange(5, 64), default=6, show_default=True)
@click.option("--timeout", type=click.FloatRange(min=1), default=300.0, show_default=True)
@pass_context
def demo(context: Context, team: int, timeout: float) -> int:
    """The main job on a small repo made for it, with a coder killed on the way.

    The daemon that it starts if none runs stays, as with `run`: loomctl daemon stop ends it.
    """
    root = make_repo(Path(tempfile.mkdtemp(prefix="loom-demo-")).resolve())
    started = time.time()
    say = (lambda text: None) if context.json else _say(context)
    say(f"repo    {root}")
    before = run_tests(root)
    say(f"tests   before: {before['text']}")
    say(f"goal    {GOAL}\n")
    env = jobs.opener_env()
    # The repo's tests run under the Python that has loomd, which has pytest after `.[test]`.
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    with context.client() as client:
        session = client.request(
            "open_session",
            repo=str(root),
            goal=GOAL,
            model=OFFLINE,
            team=team,
            yes=True,
            budget_usd=None,
            timeout_s=timeout,
            env=env,
        )["session"]
        crash = Crash(client, session)

        def on_event(event: dict[str, Any]) -> None:
            line = render.event_line(event)
            if line is not None and not context.json:
                context.stream(line)
            if crash.see(event) and not context.json:
                context.err.print(
                    f"\n   kill -9 {crash.pid}   ({crash.victim})\n", style="bold red"
                )

        ended = jobs.follow(client, session, on_event, time.monotonic() + timeout)
        if not ended:
            client.request("control", session=session, op="stop")
            jobs.settle(client, session, 5.0)
        result = jobs.report(client, session, started)
    after = run_tests(root)
    crashed = crash.result(int(result["usage"]["calls"]))
    result |= {"repo": str(root), "crash": crashed, "tests": {"before": before, "after": after}}
    problems = _problems(result)
    result["problems"] = problems

    def human() -> None:
        render.outcome(context.out, result)
        context.out.print("")
        for label, text in (
            ("killed", f"{crashed['victim']} (pid {crashed['pid']}) with SIGKILL while at work"),
            ("back", f"its successor ran after {crashed['restarted_ms']} ms and went on after "
                     f"{crashed['went_on_ms']} ms"),
            ("paid", f"{render.counted(crashed['model_calls'], 'model call')}, "
                     f"{crashed['model_calls_repeated']} of them repeated"),
            ("tests", f"before: {before['text']}; after: {after['text']}"),
            ("repo", f"{root} (yours to look at: git -C {root} diff)"),
            ("daemon", "runs on, as after any run; to end it: loomctl daemon stop"),
        ):  # fmt: skip
            context.out.print(f"{label:<7} ", style="bold", end="")
            context.out.print(render.plain(text))
        for problem in problems:
            context.out.print(problem, style="red")

    context.show(result, human)
    if not ended:
        return 124
    return 1 if problems else jobs.exit_code(result)


def _say(context: Context) -> Any:
    return lambda text: context.err.print(text)


def _problems(result: dict[str, Any]) -> list[str]:
    """What the demo promised and did not show."""
    found: list[str] = []
    crash, tests = result["crash"], result["tests"]
    if result["state"] != "done":
        found.append(f"the session ended as {result['state']} {result['kind']}")
    if len(result["agents"]) < 5:
        found.append(f"only {len(result['agents'])} agents took part")
    if crash["victim"] is None:
        found.append("no coder was killed: all were quicker")
    elif crash["went_on_ms"] is None:
        found.append(f"{crash['victim']} was killed and did not go on")
    if crash["model_calls_repeated"] or crash["outcomes_doubled"]:
        found.append("a model call was repeated")
    if tests["after"]["ok"] is False:
        found.append("the repo's tests fail after the job")
    return found
