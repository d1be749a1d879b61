"""outline(path)"""

from __future__ import annotations

from typing import Final

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool
from loomd.tools.symbols import Symbol, language_of, symbols

FILES: Final = 200
LINES: Final = 2_000


@tool(access="read")
def outline(path: str, ctx: Context) -> str:
    """What a file defines (classes, functions, methods, headings, ...), each with its lines as
    `first-last`, indented as it is nested. Of a folder: the top of each of its files.

    Args:
        path: a file or a folder, relative to the checkout
    """
    place = _checkout.resolve(ctx, path)
    if not place.exists():
        raise _checkout.missing(ctx, path, place)
    if place.is_dir():
        return _folder(ctx, path, _checkout.listed(ctx, _checkout.shown(ctx, place)))
    text = _checkout.text_of(_checkout.content(ctx, path, place)).removeprefix("\ufeff")
    try:
        found = symbols(place.name, text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ToolError(f"{path} is no valid Python: {_said(error)}") from None
    if found is None:
        raise ToolError(f"{path} is of no language that is known here: use read or grep")
    if not found:
        return "[it defines nothing]"
    return _shown([_line(one, one.depth) for one in found])


def _folder(ctx: Context, path: str, names: list[str]) -> str:
    known = [name for name in names if language_of(name) not in ("", "ini", "markdown")]
    if not known:
        raise ToolError(f"no file in {path} is of a language that is known here", "not_found")
    said = []
    for name in known[:FILES]:
        said.append(name)
        try:
            data = _checkout.content(ctx, name, ctx.repo.resolve() / name)
            found = symbols(name, _checkout.text_of(data).removeprefix("\ufeff")) or []
        except ToolError as error:
            said.append(f"  [{error.text}]")
        except (SyntaxError, ValueError, RecursionError) as error:
            said.append(f"  [no valid Python: {_said(error)}]")
        else:
            said += [_line(one, 1) for one in found if one.depth == 0 and one.kind != "variable"]
    if len(known) > FILES:
        said.append(f"[{len(known) - FILES} more files not shown]")
    return _shown(said)


def _line(symbol: Symbol, depth: int) -> str:
    return f"{'  ' * depth}{symbol.first}-{symbol.last}: {symbol.head}"


def _said(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    return str(error) or type(error).__name__


def _shown(lines: list[str]) -> str:
    text = "\n".join(lines[:LINES])
    return text + (f"\n[{len(lines) - LINES} more lines]" if len(lines) > LINES else "")
