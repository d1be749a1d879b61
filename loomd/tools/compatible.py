"""Whether a call that waits means the same under a new version of its tool. Pure.

A person is asked about one call of one tool: what they allow must be what runs; and a call that
waits for its turn has been accepted. So new code waits while there is a call that it would not
take, or that it would take for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


def clash(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, args: Mapping[str, Any]
) -> str:
    """Why a call with `args`, accepted under toolset row `old`, cannot run under `new`; "": it
    can."""
    if new is None:
        return "it is gone"
    if old is not None and old["access"] != new["access"]:
        return f"its access changes from {old['access']} to {new['access']}"
    shape = new["parameters"]
    known = shape.get("properties") or {}
    before = ((old or {}).get("parameters") or {}).get("properties") or {}
    said = [
        f"`{name}` would be missing" for name in shape.get("required") or () if name not in args
    ]
    for name, value in args.items():
        if name not in known:
            said.append(f"`{name}` would be unknown")
        elif _bare(known[name]) != _bare(before.get(name)) and not fits(known[name], value):
            said.append(f"`{name}` would be of another type")
    return "; ".join(said)


def wrong(schema: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """What can be told without the function: nobody is asked about a call that cannot be made."""
    known = schema.get("properties") or {}
    said = [f"`{name}` is missing" for name in schema.get("required") or () if name not in args]
    said += [f"`{name}` is unknown" for name in args if name not in known]
    if not said:
        return ""
    return f"{'; '.join(said)}. It takes: {', '.join(known)}"


def fits(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value is of a parameter's schema."""
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kind = schema.get("type")
    if kind is None:
        return True
    if isinstance(value, bool) and kind != "boolean":
        return False
    if not isinstance(value, _TYPES[kind]):
        return False
    items = schema.get("items") or {}
    return not isinstance(value, list | tuple) or all(fits(items, one) for one in value)


def _bare(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Without what changes no call: description and default."""
    return {k: v for k, v in (schema or {}).items() if k not in ("description", "default")}
