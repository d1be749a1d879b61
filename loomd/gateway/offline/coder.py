"""Renames in the files it was given: claim, read, edit; again where an edit did not go. Pure."""

from __future__ import annotations

from typing import Any

from loomd.gateway.offline.rename import Renamed, edit_of, fits, rename
from loomd.gateway.offline.results import whole
from loomd.gateway.offline.talk import Memory, Move, Result, Talk, Turn, data_of, plural, with_data
from loomd.gateway.offline.text import CannotRead
from loomd.wire.bodies import Failed, FinalAnswer

BATCH = 24
"""Files read, then changed, in one turn each."""

TURN_LIMIT = 200_000
"""Bytes of all edits of one turn; one that is longer goes alone."""

EDIT_LIMIT = 110_000
TRIES = 3
PAGE = 100_000


def coder(talk: Talk, memory: Memory, results: list[Result], said: list[str]) -> Move:
    if not memory:
        return _begin(talk, said)
    match memory["stage"]:
        case "claim":
            return _next(talk, memory)
        case "read":
            return _edit(talk, memory, results)
        case _:
            return _edited(talk, memory, results)


def _begin(talk: Talk, said: list[str]) -> Turn | FinalAnswer | Failed:
    task = next((t for t in (data_of(text, "rename") for text in said) if t is not None), None)
    if task is None:
        return Failed(
            kind="unknown_task",
            detail="this coder knows the task that the lead of offline/rules gives: a rename",
        )
    memory: Memory = {
        "stage": "claim",
        "old": task["old"],
        "new": task["new"],
        "refs": {file["path"]: file["refs"] for file in task["files"]},
        "todo": [file["path"] for file in task["files"]],
        "tries": {},
        "done": [],
        "failed": [],
        "open": {},  # per path: changes still to be made, and how many of them the edit out makes
    }
    if not talk.has("claim"):
        return _next(talk, memory)
    calls = [
        ("claim", {"path": file["path"], "region": f"{file['first']}-{file['last']}"})
        for file in task["files"]
    ]
    return Turn(calls, f"Claiming {plural(len(calls), 'place')}.", memory)


def _next(talk: Talk, memory: Memory) -> Turn | FinalAnswer:
    batch = memory["todo"][:BATCH]
    if not batch:
        return _report(memory)
    calls: list[tuple[str, dict[str, Any]]] = []
    for path in batch:
        # Each time another limit: the same call again and again is taken for a loop.
        limit = PAGE + len(memory["done"]) + sum(memory["tries"].values())
        limit += sum(len(plan["changes"]) for plan in memory["open"].values())
        calls.append(("read", {"path": path, "offset": 1, "limit": limit}))
    return Turn(calls, "", {**memory, "stage": "read"})


def _edit(talk: Talk, memory: Memory, results: list[Result]) -> Turn | FinalAnswer:
    """One edit for each file that was read."""
    memory = {**memory, "stage": "edit"}
    reason = f"rename `{memory['old']}` to `{memory['new']}`"
    calls: list[tuple[str, dict[str, Any]]] = []
    size = 0
    for result in results:
        path = result.args["path"]
        text = whole(result.text)
        if not result.ok or text is None:
            memory = _given_up(memory, path, "it is too long" if result.ok else result.text)
            continue
        planned = _planned(memory, path, text)
        if path not in planned["open"]:
            memory = planned
            continue
        old, new, n = edit_of(text, planned["open"][path]["changes"], EDIT_LIMIT)
        size += len(old.encode()) + len(new.encode())
        if calls and size > TURN_LIMIT:
            continue  # stays in todo, and is read again
        memory = planned
        memory["open"][path]["n"] = n
        args: dict[str, Any] = {"path": path, "old": old, "new": new}
        if talk.takes("edit", "reason"):
            args["reason"] = reason
        calls.append(("edit", args))
    if not calls:
        return _next(talk, memory)
    return Turn(calls, f"R{reason[1:]} in {plural(len(calls), 'file')}.", memory)


def _planned(memory: Memory, path: str, text: str) -> Memory:
    """What is to be changed in a file as it stands."""
    left = memory["open"].get(path)
    if left is not None:
        # Half of it is done, so that its scopes are of two minds: only the rest, as planned.
        if fits(text, left["changes"], memory["old"]):
            return memory
        return _given_up(memory, path, "it was changed by another when half of it was done")
    try:
        renamed = rename(text, memory["old"], memory["new"], set(memory["refs"][path]), path)
    except CannotRead as error:
        return _given_up(memory, path, str(error))
    if not renamed.changes:
        nothing = {"path": path, "places": 0, "notes": ["nothing was left to do"]}
        return _done(memory, path, nothing)
    opened = {
        "changes": [list(change) for change in renamed.changes],
        "begun": False,
        "summary": _summary(path, renamed),
    }
    return {**memory, "open": {**memory["open"], path: opened}}


def _summary(path: str, renamed: Renamed) -> dict[str, Any]:
    return {
        "path": path,
        "places": len(renamed.changes),
        "lines": sorted({change[0] for change in renamed.changes})[:50],
        "left": len(renamed.left),
        "notes": list(renamed.notes)[:5],
    }


def _done(memory: Memory, path: str, summary: dict[str, Any]) -> Memory:
    return {**_closed(memory, path), "done": [*memory["done"], summary]}


def _given_up(memory: Memory, path: str, why: str) -> Memory:
    failed = {"path": path, "why": why.strip()[:300]}
    return {**_closed(memory, path), "failed": [*memory["failed"], failed]}


def _closed(memory: Memory, path: str) -> Memory:
    return {
        **memory,
        "todo": [other for other in memory["todo"] if other != path],
        "open": {other: plan for other, plan in memory["open"].items() if other != path},
    }


def _edited(talk: Talk, memory: Memory, results: list[Result]) -> Turn | FinalAnswer:
    for result in results:
        path = result.args["path"]
        plan = memory["open"][path]
        if result.ok:
            rest = plan["changes"][plan["n"] :]
            if rest:
                opened = {**plan, "changes": rest, "begun": True}
                memory = {**memory, "open": {**memory["open"], path: opened}}
            else:
                memory = _done(memory, path, plan["summary"])
            continue
        tries = memory["tries"].get(path, 0) + 1
        memory = {**memory, "tries": {**memory["tries"], path: tries}}
        if tries >= TRIES:
            memory = _given_up(memory, path, result.text)
        elif not plan["begun"]:
            others = {other: p for other, p in memory["open"].items() if other != path}
            memory = {**memory, "open": others}
    return _next(talk, memory)


def _report(memory: Memory) -> FinalAnswer:
    old, new, done, failed = memory["old"], memory["new"], memory["done"], memory["failed"]
    changed = [file for file in done if file["places"]]
    lines = [
        f"Renamed `{old}` to `{new}` in {plural(sum(f['places'] for f in changed), 'place')} of "
        f"{plural(len(changed), 'file')}."
    ]
    for file in done:
        shown = ", ".join(map(str, file.get("lines", ())))
        places = f"{plural(file['places'], 'place')} (lines {shown})" if file["places"] else "none"
        left = f"; left {file['left']} in strings, comments or of other things" \
            if file.get("left") else ""  # fmt: skip
        notes = "".join(f"; {note}" for note in file["notes"])
        lines.append(f"- {file['path']}: {places}{left}{notes}")
    lines += [f"- NOT changed: {file['path']}: {file['why']}" for file in failed]
    data = {"job": "renamed", "old": old, "new": new, "files": done, "failed": failed}
    return FinalAnswer(text=with_data("\n".join(lines), data))
