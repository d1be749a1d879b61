"""What linters say of files, in one shape; and files that do not even parse. Pure."""

from __future__ import annotations

import ast
import json
import re
import tomllib
import warnings
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, order=True)
class Finding:
    """line, column: from 1; 0 where it is not told."""

    path: str
    line: int
    column: int
    severity: str
    text: str
    rule: str = ""
    by: str = ""

    def shown(self) -> str:
        where = f"{self.path}:{self.line}" + (f":{self.column}" if self.column else "")
        rule = f" [{self.rule}]" if self.rule else ""
        return f"{where}: {self.severity}: {self.text}{rule} ({self.by})"


def of_ruff(output: bytes, root: str) -> list[Finding]:
    """Of `--output-format json`. ValueError: it is none."""
    made = []
    for one in _list(json.loads(output)):
        rule = str(one.get("code") or "")
        at = one.get("location") or {}
        severity = "error" if not rule or rule == "invalid-syntax" else "warning"
        made.append(
            Finding(_within(one["filename"], root), _number(at.get("row")),
                    _number(at.get("column")), severity, _line(one["message"]), rule, "ruff")
        )  # fmt: skip
    return made


def of_pyright(output: bytes, root: str) -> list[Finding]:
    """Of `--outputjson`. ValueError: it is none."""
    made = []
    for one in _list(_map(json.loads(output)).get("generalDiagnostics")):
        start = (one.get("range") or {}).get("start") or {}
        made.append(
            Finding(_within(one["file"], root), _number(start.get("line")) + 1,
                    _number(start.get("character")) + 1, str(one.get("severity", "error")),
                    _line(one["message"]), str(one.get("rule") or ""), "pyright")
        )  # fmt: skip
    return made


_MYPY: Final = re.compile(
    r"(?P<path>[^:\n]+):(?P<line>\d+):(?:(?P<column>\d+):)? (?P<severity>error|warning|note): "
    r"(?P<text>.*?)(?:  \[(?P<rule>[\w-]+)\])?"
)


def of_mypy(output: bytes, root: str) -> list[Finding]:
    made = []
    for line in output.decode("utf-8", "replace").splitlines():
        if match := _MYPY.fullmatch(line):
            made.append(
                Finding(_within(match["path"], root), int(match["line"]), int(match["column"] or 0),
                        match["severity"], match["text"], match["rule"] or "", "mypy")
            )  # fmt: skip
    return made


def unparsed(path: str, data: bytes) -> Finding | None:
    """The error of a Python, JSON or TOML file that is none."""
    by = path.rpartition(".")[2].lower()
    try:
        if by in ("py", "pyi"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(data, path)
        elif by == "json":
            json.loads(data.decode("utf-8-sig"))
        elif by == "toml":
            tomllib.loads(data.decode("utf-8"))
    except SyntaxError as error:
        return Finding(
            path, error.lineno or 0, error.offset or 0, "error", error.msg, "", "compile"
        )
    except json.JSONDecodeError as error:
        return Finding(path, error.lineno, error.colno, "error", error.msg, "", "json")
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+), column (\d+)", str(error))
        line, column = (int(at[1]), int(at[2])) if at else (0, 0)
        return Finding(path, line, column, "error", str(error), "", "toml")
    except (ValueError, RecursionError, MemoryError) as error:
        return Finding(path, 0, 0, "error", str(error) or "nested too deep", "", by)
    return None


def _within(path: Any, root: str) -> str:
    return str(path).removeprefix(root.rstrip("/") + "/").removeprefix("./")


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("not a list of findings")
    return value


def _map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
