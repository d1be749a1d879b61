"""Renames in the files it was given: claim, read, edit; again where an edit did not go. Pure."""

from __future__ import annotations

from typing import Any

from loomd.gateway.offline.rename import Renamed, block, rename
from loomd.gateway.offline.results import page
from loomd.gateway.offline.talk import Memory, Result, Talk, Turn, data_of, plural, with_data
from loomd.gateway.offline.text import CannotRead
from loomd.wire.bodies import Failed, FinalAnswer

BATCH = 12
"""Files read, then changed, in one turn each."""

TURN_LIMIT = 60_000
"""Characters of all edits of one turn; one that is longer goes alone."""

EDIT_LIMIT = 65_000
TRIES = 3
PAGE = 100_000


def coder(talk: Talk, memory: Memory, results: list[Result], said: list[str]) -> Any:
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
        "sent": {},
        "done": [],
        "failed": [],
        "parts": {},
        "waiting": [],
    }
    if not talk.has("claim"):
        return _next(talk, memory)
    calls = [
        ("claim", {"path": file["path"], "region": f"{file['first']}-{file['last']}"})
        for file in task["files"]
    ]
    return Turn(calls, f"Claiming {plural(len(calls), 'place')}.", memory)


def _next(talk: Talk, memory: Memory) -> Turn | FinalAnswer:
    batch = list(memory["parts"]) or memory["todo"][:BATCH]
    if not batch:
        return _report(memory)
    calls: list[tuple[str, dict[str, Any]]] = []
    for path in batch:
        part = memory["parts"].get(path)
        # Each try reads with another limit: the same call again and again is taken for a loop.
        limit = PAGE + memory["tries"].get(path, 0)
        calls.append(("read", {"path": path, "offset": part[1] if part else 1, "limit": limit}))
    return Turn(calls, "", {**memory, "stage": "read"})


def _edit(talk: Talk, memory: Memory, results: list[Result]) -> Turn | FinalAnswer:
    """Files read whole are changed; of those that are longer the next page is read."""
    old, new = memory["old"], memory["new"]
    memory = {**memory, "stage": "edit", "sent": {}, "parts": dict(memory["parts"])}
    memory["failed"], memory["done"] = list(memory["failed"]), list(memory["done"])
    memory["todo"] = list(memory["todo"])
    calls: list[tuple[str, dict[str, Any]]] = []
    size = 0
    for result in results:
        path = result.args["path"]
        if not result.ok:
            _give_up(memory, path, result.text)
            continue
        read = page(result.text)
        before, offset = memory["parts"].pop(path, ("", 1))
        text = before + read.text
        if read.next is not None and read.next > offset:
            memory["parts"][path] = (text, read.next)
            continue
        try:
            renamed = rename(text, old, new, set(memory["refs"][path]), path)
        except CannotRead as error:
            _give_up(memory, path, str(error))
            continue
        if not renamed.places:
            memory["todo"].remove(path)
            memory["done"].append({"path": path, "places": 0, "notes": ["nothing was left to do"]})
            continue
        before_block, after_block = block(text, renamed.source)
        length = len(before_block) + len(after_block)
        if length > EDIT_LIMIT * 2:
            _give_up(memory, path, "the change spans too much text for one edit")
            continue
        if calls and size + length > TURN_LIMIT:
            continue  # stays in todo: the next round reads it again
        size += length
        args: dict[str, Any] = {"path": path, "old": before_block, "new": after_block}
        if talk.takes("edit", "reason"):
            args["reason"] = f"rename `{old}` to `{new}`"
        calls.append(("edit", args))
        memory["sent"][path] = _summary(path, renamed)
    if calls:
        return Turn(calls, f"Rename `{old}` to `{new}` in {plural(len(calls), 'file')}.", memory)
    return _next(talk, memory)


def _summary(path: str, renamed: Renamed) -> dict[str, Any]:
    return {
        "path": path,
        "places": len(renamed.places),
        "lines": sorted({line for line, _ in renamed.places})[:50],
        "left": len(renamed.left),
        "notes": list(renamed.notes)[:5],
    }


def _give_up(memory: Memory, path: str, why: str) -> None:
    memory["todo"].remove(path)
    memory["failed"].append({"path": path, "why": why.strip()[:300]})


def _edited(talk: Talk, memory: Memory, results: list[Result]) -> Turn | FinalAnswer:
    memory = {**memory, "tries": dict(memory["tries"]), "todo": list(memory["todo"])}
    memory["done"], memory["failed"] = list(memory["done"]), list(memory["failed"])
    for result in results:
        path = result.args["path"]
        tries = memory["tries"][path] = memory["tries"].get(path, 0) + 1
        if result.ok:
            memory["todo"].remove(path)
            memory["done"].append(memory["sent"][path])
        elif tries >= TRIES:
            _give_up(memory, path, result.text)
    memory["sent"] = {}
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
