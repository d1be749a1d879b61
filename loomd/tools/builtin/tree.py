"""tree(path, depth)"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool

LIMIT: Final = 1000
"""Lines; beyond it folders are shown less deep, each with the number of its files."""


@tool(access="read")
def tree(ctx: Context, path: str = ".", depth: int = 3) -> str:
    """The folders and files below a folder as an indented tree; what git ignores is left out. A
    folder that is not shown whole says how many files it holds.

    Args:
        path: a folder, relative to the checkout
        depth: so many levels are shown
    """
    if not 1 <= depth <= 50:
        raise ToolError("`depth` is 1 to 50", "bad_args")
    place = _checkout.resolve(ctx, path)
    if not place.exists():
        raise _checkout.missing(ctx, path, place)
    if not place.is_dir():
        raise ToolError(f"{path} is a file: use read", "bad_args")
    below = _checkout.shown(ctx, place)
    shut: list[OSError] = []
    names = _checkout.listed(ctx, below, shut)
    start = 0 if below == "." else len(below) + 1
    root = _nest(name[start:].split("/") for name in names)
    lines = _lines(root, depth)
    while len(lines) > LIMIT and depth > 1:
        depth -= 1
        lines = _lines(root, depth)
    said = [f"{'.' if below == '.' else below}/  ({_files(len(names))})", *lines[:LIMIT]]
    if len(lines) > LIMIT:
        said.append(f"[{len(lines) - LIMIT} more names not shown]")
    said += [f"[not looked into: {error.filename}/: {error.strerror}]" for error in shut]
    return "\n".join(said)


Folder: TypeAlias = dict[str, "Folder | None"]
"""Name -> what is in it; None: a file."""


def _nest(paths: Iterable[list[str]]) -> Folder:
    root: Folder = {}
    for parts in paths:
        folder = root
        for part in parts[:-1]:
            inner = folder.setdefault(part, {})
            assert inner is not None  # a name is a file or a folder
            folder = inner
        folder[parts[-1]] = None
    return root


def _lines(folder: Folder, depth: int, indent: str = "  ") -> list[str]:
    """Folders first, each kind by name."""
    said = []
    for name in sorted(folder, key=lambda name: (folder[name] is None, name)):
        inner = folder[name]
        if inner is None:
            said.append(f"{indent}{name}")
        elif depth > 1:
            said.append(f"{indent}{name}/")
            said += _lines(inner, depth - 1, indent + "  ")
        else:
            said.append(f"{indent}{name}/  ({_files(_count(inner))})")
    return said


def _count(folder: Folder) -> int:
    return sum(1 if inner is None else _count(inner) for inner in folder.values())


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
