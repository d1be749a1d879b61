"""A request's view, read from the state, and the same as chat messages.

`resolve` reads (short transactions of the reader it is given), `chat` is pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from loomd.actor.behaviour import Reader
from loomd.gateway.types import Resolved, ToolSchema
from loomd.store.schema import name_key
from loomd.wire.bodies import Call, Entry, ModelRequest
from loomd.wire.errors import LoomError

GO_ON = "Go on."
NO_RESULT = "(this call has no result in what you see)"


def toolset(reader: Reader, session: str) -> Mapping[str, Any] | None:
    """The session's current toolset row; None before the tool host has made one."""
    for _, row in reader.rows("toolsets", name_key(session)):
        return row if isinstance(row, Mapping) else None
    return None


def schemas(row: Mapping[str, Any] | None, names: tuple[str, ...] | None) -> tuple[ToolSchema, ...]:
    """What the request may call. A name that the toolset lacks is left out: a model must not be
    offered what nobody can answer; with no toolset at all the names stand bare."""
    if row is None:
        return tuple(ToolSchema(name) for name in names or ())
    known = {tool["name"]: tool for tool in row.get("tools") or ()}
    # In an order that stays: providers keep what they have read only if it comes again as it was.
    wanted = tuple(sorted(known)) if names is None else tuple(n for n in names if n in known)
    return tuple(_schema(known[name]) for name in wanted)


def _schema(tool: Mapping[str, Any]) -> ToolSchema:
    parameters = tool.get("parameters") or tool.get("schema")
    if not isinstance(parameters, dict):
        return ToolSchema(tool["name"], tool.get("description") or "")
    return ToolSchema(tool["name"], tool.get("description") or "", parameters)


def resolve(reader: Reader, request: ModelRequest, model: str) -> Resolved:
    """Raises LoomError `bad_request` if the view refers to what the state does not hold."""
    entries: list[Entry] = []
    for span in request.view.spans:
        found = 0
        for _, entry in reader.entries(span.log, span.first, span.last):
            found += 1
            entries.append(_whole(reader, entry))
        wanted = max(0, span.last - span.first + 1)
        if found != wanted:
            raise LoomError(
                "bad_request",
                f"the view refers to entries {span.first}-{span.last} of {span.log}, "
                f"of which {found} exist",
            )
    tools: tuple[ToolSchema, ...] = ()
    if request.tools != ():
        tools = schemas(toolset(reader, request.session), request.tools)
    return Resolved(
        role=request.role,
        pinned=request.view.pinned,
        entries=tuple(entries),
        tools=tools,
        model=model,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        agent=request.agent,
        session=request.session,
        task=request.task,
        purpose=request.purpose,
        request=request.id,
        shared=request.view.shared,
        repo=str((reader.row("sessions", name_key(request.session)) or {}).get("repo") or ""),
    )


def _whole(reader: Reader, entry: Entry) -> Entry:
    if not entry.blob:
        return entry
    text = reader.blob(entry.blob).decode("utf-8", "replace")
    return msgspec.structs.replace(entry, text=text, blob="")


# --- as chat messages --------------------------------------------------------------------------


def chat(resolved: Resolved) -> list[dict[str, Any]]:
    """The conversation in the chat form that every provider's adapter takes. Pure.

    Strictly paired: each assistant message with calls is followed at once by exactly one result
    per call, in call order, whatever order the log has. A result whose call is not in view becomes
    a user's line, a call without a result gets a stand-in: providers refuse anything else.
    """
    messages: list[dict[str, Any]] = []
    if resolved.pinned:
        messages.append({"role": "system", "content": "\n\n".join(resolved.pinned)})
    results: dict[str, Entry] = {}
    called = {call.id for entry in resolved.entries for call in entry.calls}
    for entry in resolved.entries:
        if entry.role == "tool" and entry.call in called:
            results.setdefault(entry.call, entry)
    ids = _provider_ids(resolved.entries)
    spoken = False
    for entry in resolved.entries:
        made = list(_messages(entry, results, called, ids))
        messages += made
        spoken = spoken or any(message["role"] == "user" for message in made)
    if not spoken or messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": GO_ON})
    return messages


def _messages(
    entry: Entry, results: Mapping[str, Entry], called: set[str], ids: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    match entry.role:
        case "user":
            text = entry.text
            if entry.sender and entry.sender != "user" and "/" in entry.sender:
                text = f"[from {entry.sender}] {text}"
            yield {"role": "user", "content": text}
        case "note":
            yield {"role": "user", "content": f"[note] {entry.text}"}
        case "tool":
            if entry.call not in called:
                name = entry.name or "a tool"
                yield {
                    "role": "user",
                    "content": f"[result of an earlier call of {name}] {entry.text}",
                }
        case "assistant":
            if not entry.calls:
                if entry.text:
                    yield {"role": "assistant", "content": entry.text}
                return
            yield {
                "role": "assistant",
                "content": entry.text or None,
                "tool_calls": [_call(call, ids[call.id]) for call in entry.calls],
            }
            for call in entry.calls:
                yield {
                    "role": "tool",
                    "tool_call_id": ids[call.id],
                    "name": _name(call),
                    "content": _result(call, results.get(call.id)),
                }


def _name(call: Call) -> str:
    """Providers refuse other names, and a model may have called what is no tool."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", call.name)[:64] or "unknown"


def _call(call: Call, id: str) -> dict[str, Any]:
    arguments = json.dumps(call.args, ensure_ascii=False)
    return {
        "id": id,
        "type": "function",
        "function": {"name": _name(call), "arguments": arguments},
    }


def _result(call: Call, entry: Entry | None) -> str:
    if entry is None:
        return call.error or NO_RESULT
    text = entry.text if entry.ok else f"error: {entry.text}"
    return text or "(empty)"


def _provider_ids(entries: tuple[Entry, ...]) -> dict[str, str]:
    """The model's own ids where they are unique in this conversation (some servers count from
    zero in each turn), else ours: plain characters only, as some providers refuse others."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for entry in entries:
        for call in entry.calls:
            id = call.provider_id
            if not id or id in taken:
                id = f"call_{len(ids) + 1:06d}"
                while id in taken:
                    id += "x"
            taken.add(id)
            ids[call.id] = id
    return ids
