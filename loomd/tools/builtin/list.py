"""list(path)"""

from __future__ import annotations

import os
import posixpath

from loomd.tools.builtin import _checkout
from loomd.tools.contract import Context, ToolError, tool

LIMIT = 2000


@tool(access="read", name="list")
def list_(ctx: Context, path: str = ".") -> str:
    """Lists a folder of the checkout, one name per line; folders end in `/`.

    Args:
        path: relative to the checkout
    """
    place = _checkout.resolve(ctx, path)
    shown = _checkout.shown(ctx, place)
    shown = "" if shown == "." else shown
    try:
        with os.scandir(place) as entries:
            names = sorted(
                entry.name + ("/" if entry.is_dir() else "")
                for entry in entries
                if entry.name not in (".git", "__pycache__")
                and not ctx.barred.left_out(posixpath.join(shown, entry.name))
            )
    except FileNotFoundError:
        raise ToolError(f"{path} does not exist", "not_found") from None
    except NotADirectoryError:
        raise ToolError(f"{path} is a file: use read", "bad_args") from None
    except OSError as error:
        raise ToolError(f"{path} cannot be listed: {error.strerror}") from None
    text = "\n".join(names[:LIMIT])
    if len(names) > LIMIT:
        text += f"\n[{len(names) - LIMIT} more names not shown]"
    return text
