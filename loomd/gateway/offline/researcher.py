"""Finds out: where a name is used, what a rename must change, what a module holds. Pure.

A search for the word tells which files matter; each is read whole, described, and forgotten but
for its record; then the records are joined (`project`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from loomd.gateway.offline.modules import Modules, is_python
from loomd.gateway.offline.outline import outline
from loomd.gateway.offline.project import Candidate, Conflict, Plan, Project
from loomd.gateway.offline.rename import chosen, left_of
from loomd.gateway.offline.results import (
    cut_off,
    hit_paths,
    not_searched,
    python_paths,
    whole,
)
from loomd.gateway.offline.symbols import Record, compact, describe
from loomd.gateway.offline.talk import (
    MEMORY_LIMIT,
    Memory,
    Move,
    Result,
    Turn,
    data_of,
    pack,
    plural,
    with_data,
)
from loomd.wire.bodies import Failed, FinalAnswer

BATCH = 24
"""Files read in one turn."""

PATHS = 500
"""Paths of files kept in mind; where there are more they are listed again at the end."""

PAGE = 100_000
ANSWER_LIMIT = 36_000
SHOWN = 300
FILES_TOLD = 40


def researcher(memory: Memory, results: list[Result], said: list[str]) -> Move:
    if not memory:
        return _begin(said)
    if memory["job"] == "outline":
        return _outline(memory, results)
    return _search(memory, results)


def _begin(said: list[str]) -> Turn | Failed:
    for text in said:
        for job in ("find_rename", "find_uses", "outline"):
            task = data_of(text, job)
            if task is not None:
                return _first_turn(task)
    return Failed(
        kind="unknown_task",
        detail="this researcher knows the tasks that the lead of offline/rules gives",
    )


def _first_turn(task: dict[str, Any]) -> Turn:
    memory: Memory = {**task, "stage": "search"}
    if task["job"] == "outline":
        return Turn(
            [("glob", {"pattern": "**/*.py"}), ("glob", {"pattern": "**/*.pyi"})],
            f"Looking for `{task['target']}`.",
            memory,
        )
    word = re.escape(task["old"])
    return Turn(
        [
            ("grep", {"pattern": rf"\b{word}\b", "path": "."}),
            ("grep", {"pattern": r"import\s+\*", "path": "."}),
            ("glob", {"pattern": "**/*.py"}),
            ("glob", {"pattern": "**/*.pyi"}),
        ],
        f"Looking for every `{task['old']}`.",
        memory,
    )


# --- a name ------------------------------------------------------------------------------------


def _search(memory: Memory, results: list[Result]) -> Turn | FinalAnswer | Failed:
    match memory["stage"]:
        case "search":
            words, stars, *listings = results
            if not words.ok:
                return Failed(kind="search_failed", detail=words.text[:500])
            paths = _listed(listings)
            hits = hit_paths(words.text)
            wanted = {path for path in [*hits, *hit_paths(stars.text)] if is_python(path)}
            if cut_off(words.text) or cut_off(stars.text):
                wanted |= set(paths)
            memory = {
                **memory,
                "todo": sorted(wanted),
                "by_star": sorted(wanted - set(hits)),
                "elsewhere": sorted(path for path in hits if not is_python(path)),
                "paths": paths if len(paths) <= PATHS else None,
                "records": {},
                "unread": {},
                "shut": not_searched(words.text),
            }
        case "read":
            memory = _take(memory, results)
        case _:
            return _ended(memory, results)
    if memory["todo"]:
        return _read_more(memory)
    return _last_look(memory)


def _listed(results: Sequence[Result]) -> list[str]:
    return sorted({path for result in results for path in python_paths(result.text)})


def _last_look(memory: Memory) -> Turn | FinalAnswer:
    """What is still to be known: classes that inherit a member without naming it, whose own heirs
    may use it; and the repo's files, where they are too many to be kept in mind."""
    calls: list[tuple[str, dict[str, Any]]] = []
    if not memory.get("heirs"):
        families = Project(memory["records"], (), memory["old"]).families()
        names = sorted({c[1].rpartition(".")[2] for family in families for c in family})
        if names:
            words = "|".join(re.escape(name) for name in names)
            pattern = rf"class\s+\w+\(.*\b({words})\b"
            calls.append(("grep", {"pattern": pattern, "path": "."}))
    if memory["paths"] is None:
        pattern = "**/*.{py,pyi}" if calls or not memory.get("heirs") else "**/*.py{,i}"
        calls.append(("glob", {"pattern": pattern}))
    memory = {**memory, "stage": "last", "heirs": True}
    if not calls:
        return _joined(memory, memory["paths"])
    return Turn(calls, "Looking for what inherits it, and at what there is.", memory)


def _ended(memory: Memory, results: list[Result]) -> Turn | FinalAnswer:
    found = {path for r in results if r.name == "grep" for path in hit_paths(r.text)}
    known = {*memory["records"], *memory["unread"], *memory.get("heirs_read", ())}
    todo = sorted(path for path in found - known if is_python(path))
    if todo:
        return _read_more({**memory, "todo": todo, "heirs_read": todo})
    paths = memory["paths"]
    if paths is None:
        paths = _listed([result for result in results if result.name == "glob"])
    return _joined(memory, paths)


def _read_more(memory: Memory) -> Turn:
    calls = []
    for path in memory["todo"][:BATCH]:
        calls.append(("read", {"path": path, "offset": 1, "limit": PAGE}))
    n = len(memory["todo"])
    return Turn(calls, f"{plural(n, 'file')} to read.", {**memory, "stage": "read"})


def _take(memory: Memory, results: list[Result]) -> Memory:
    records, unread = dict(memory["records"]), dict(memory["unread"])
    for result in results:
        path, text = result.args["path"], whole(result.text)
        if not result.ok or text is None:
            unread[path] = "is too long" if result.ok else result.text.strip()[:200]
            continue
        record = describe(path, text, memory["old"], memory.get("new", ""))
        if _worth(record):
            records[path] = compact(record)
    read = {result.args["path"] for result in results}
    todo = [path for path in memory["todo"] if path not in read]
    return _slim({**memory, "records": records, "todo": todo, "unread": unread})


def _slim(memory: Memory) -> Memory:
    """Of a very large search the texts of lines are forgotten first, then what is not code, then
    all places but the first and the last of each sort in a file: the coder finds them again."""
    for level in (1, 2, 3):
        if memory.get("slim", 0) < level and len(pack(memory)) > MEMORY_LIMIT * 3 // 4:
            memory = {**memory, "slim": level}
        if memory.get("slim", 0) >= level:
            records = {path: _slimmed(r, level) for path, r in memory["records"].items()}
            memory = {**memory, "records": records}
    return memory


def _slimmed(record: Record, level: int) -> Record:
    if "error" in record:
        return record
    if level == 1:
        strings = [[n, kind, ""] for n, kind, _ in record.get("strings", ())]
        return {**record, "code": {}, "strings": strings}
    if level == 2:
        return {**record, "strings": []}
    sorts: dict[str, list[Any]] = {}
    for place in record.get("places", ()):
        sorts.setdefault(repr(place[2:]), []).append(place)
    kept = [place for sort in sorts.values() for place in (sort[:1] + sort[1:][-1:])]
    return {**record, "places": sorted(kept, key=lambda place: (place[0], place[1]))}


def _worth(record: Record) -> bool:
    return bool(
        record.get("places")
        or record.get("strings")
        or record.get("stars")
        or record.get("classes")
        or record.get("mentions")
    )


def _joined(memory: Memory, paths: Sequence[str]) -> FinalAnswer:
    project = Project(memory["records"], paths, memory["old"], memory.get("new", ""))
    if memory["job"] == "find_rename":
        return _rename_answer(memory, project)
    return _uses_answer(memory, project)


def _notes(memory: Memory) -> list[str]:
    notes = []
    if memory["elsewhere"]:
        shown = ", ".join(memory["elsewhere"][:8])
        more = len(memory["elsewhere"]) - 8
        notes.append(
            f"other files mention `{memory['old']}` and were left: {shown}"
            + (f" and {more} more" if more > 0 else "")
        )
    if memory.get("slim", 0) > 2:
        notes.append("there are so many places that not all of them were listed")
    if memory.get("slim", 0) > 1:
        notes.append("strings and comments that mention it were left, too many to be listed")
    notes += [f"{path} was left unread: {why}" for path, why in memory["unread"].items()]
    notes += [f"{path} was not searched: {why}" for path, why in memory.get("shut", {}).items()]
    return notes


def _rename_answer(memory: Memory, project: Project) -> FinalAnswer:
    old, new = memory["old"], memory["new"]
    data: dict[str, Any] = {"job": "places", "old": old, "new": new, "files": [], "others": []}
    data["notes"] = _notes(memory)
    data["conflicts"] = []
    try:
        candidate = project.pick(memory.get("qualifier", ""), memory.get("kind", ""))
        plan = project.plan(candidate)
    except Conflict as conflict:
        data["conflicts"] = [{"kind": conflict.kind, "text": conflict.text}]
        return FinalAnswer(text=with_data(conflict.text, data))
    data["label"], data["where"] = candidate.label, list(candidate.where)
    data["notes"] += plan.notes
    objections = project.objections(plan) + [
        f"{path} mentions `{old}` and could not be read: {why}"
        for path, why in memory["unread"].items()
        if path not in memory["by_star"]
    ]
    objections += [
        f"{path} could not be searched for `{old}` ({why}); only what git ignores may be left out"
        for path, why in memory.get("shut", {}).items()
    ]
    data["conflicts"] = [{"kind": "conflict", "text": text} for text in objections]
    for path in sorted(project.records):
        record, refs = project.records[path], plan.refs.get(path)
        left = left_of(record, refs or ())
        if refs:
            data["files"].append(_file(path, record, refs, left))
        elif left:
            data["others"].append({"path": path, "skipped": left})
    _fit(data)
    return FinalAnswer(text=with_data(_told(data, candidate), data))


def _file(path: str, record: Record, refs: set[str], left: list[dict[str, Any]]) -> dict[str, Any]:
    places = [[p[0], p[1]] for p in record["places"] if chosen(p, refs)]
    return {
        "path": path,
        "refs": sorted(refs),
        "occurrences": places,
        "count": len(places),
        "first": places[0][0],
        "last": places[-1][0],
        "chars": record["chars"],
        "skipped": left,
    }


def _fit(data: dict[str, Any]) -> None:
    """Keeps an answer within what an agent may report: texts go first, then lists."""

    def size() -> int:
        return len(with_data("", data))

    every = [*data["files"], *data["others"]]
    data["left"] = sum(len(file["skipped"]) for file in every)
    if size() > ANSWER_LIMIT:
        for file in every:
            for item in file["skipped"]:
                item["text"] = item["text"][:40]
    if size() > ANSWER_LIMIT:
        for file in every:
            file["skipped"] = file["skipped"][:3]
    if size() > ANSWER_LIMIT:
        data["others"] = data["others"][:10]
        for file in data["files"]:
            file["occurrences"] = file["occurrences"][:1]
            file["skipped"] = []


def _told(data: dict[str, Any], candidate: Candidate) -> str:
    count = sum(file["count"] for file in data["files"])
    where = ", ".join(candidate.where[:5])
    lines = [
        f"`{data['old']}` ({candidate.label}, defined at {where}) stands in "
        f"{plural(count, 'place')} of {plural(len(data['files']), 'file')}."
    ]
    lines += [
        f"- {file['path']}: {plural(file['count'], 'place')}, lines {file['first']}-{file['last']}"
        for file in data["files"][:FILES_TOLD]
    ]
    if len(data["files"]) > FILES_TOLD:
        lines.append(f"- and {len(data['files']) - FILES_TOLD} more files")
    if data["left"]:
        lines.append(
            f"{plural(data['left'], 'place')} of that word are not it (strings, comments, "
            f"attributes of other objects, other scopes)."
        )
    lines += [f"Note: {note}" for note in data["notes"][:20]]
    lines += [f"Conflict: {conflict['text']}" for conflict in data["conflicts"][:20]]
    return "\n".join(lines)


def _uses_answer(memory: Memory, project: Project) -> FinalAnswer:
    old = memory["old"]
    every = project.candidates()
    if memory.get("qualifier"):
        every = project._qualified(every, memory["qualifier"])
    lines: list[str] = []
    seen: set[tuple[str, int, int]] = set()
    plans = [project.plan(candidate) for candidate in every]
    for plan in plans:
        lines += _uses_of(project, plan, seen)
    if not plans:
        lines.append(f"No definition of `{old}` was found in the repo.")
    rest = []
    for path, record in sorted(project.records.items()):
        for place in record["places"]:
            if (path, place[0], place[1]) not in seen:
                rest.append(f"{path}:{place[0]}: {record['code'].get(str(place[0]), '')}")
    if rest:
        lines += ["", f"Other places of a name `{old}`, not told to be these:", *rest[:SHOWN]]
    words = [
        f"{path}:{n}: ({kind}) {text}"
        for path, record in sorted(project.records.items())
        for n, kind, text in record["strings"]
    ]
    if words:
        lines += ["", "In strings and comments:", *words[:SHOWN]]
    notes = [n for plan in plans for n in plan.notes] + _notes(memory)
    if notes:
        lines += ["", *(f"Note: {note}" for note in dict.fromkeys(notes))]
    data = {"job": "uses", "old": old, "found": len(seen), "known": bool(plans)}
    data["mentioned"] = bool(rest or words)
    text = "\n".join(lines)
    if len(text.encode()) > ANSWER_LIMIT:
        text = text.encode()[:ANSWER_LIMIT].decode("utf-8", "ignore") + "\n(cut here)"
    return FinalAnswer(text=with_data(text, data))


def _uses_of(project: Project, plan: Plan, seen: set[tuple[str, int, int]]) -> list[str]:
    lines = []
    for path, refs in sorted(plan.refs.items()):
        record = project.records[path]
        for place in record["places"]:
            if chosen(place, refs):
                seen.add((path, place[0], place[1]))
                word = " (definition)" if f"{path}:{place[0]}" in plan.candidate.where else ""
                lines.append(f"{path}:{place[0]}: {record['code'].get(str(place[0]), '')}{word}")
    label, count = plan.candidate.label, len(lines)
    lines = list(dict.fromkeys(lines))
    files = plural(len(plan.refs), "file")
    return [f"`{label}`: {plural(count, 'place')} in {files}", *lines[:SHOWN], ""]


# --- a module ----------------------------------------------------------------------------------


def _outline(memory: Memory, results: list[Result]) -> Turn | FinalAnswer | Failed:
    target = memory["target"]
    if memory["stage"] == "search":
        paths = [path for result in results for path in python_paths(result.text)]
        path = _find(target, paths)
        if path is None:
            data = {"job": "outlined", "found": False}
            close = [p for p in paths if target.rpartition(".")[2].rpartition("/")[2] in p][:5]
            hint = f" Close: {', '.join(close)}." if close else ""
            text = (
                f"No module `{target}` was found among {plural(len(paths), 'Python file')}.{hint}"
            )
            return FinalAnswer(text=with_data(text, data))
        memory = {**memory, "stage": "read", "path": path}
    else:
        source = whole(results[0].text)
        if not results[0].ok or source is None:
            data = {"job": "outlined", "found": False}
            why = "it is too long" if results[0].ok else results[0].text[:300]
            return FinalAnswer(text=with_data(f"{memory['path']} cannot be read: {why}", data))
        text = outline(memory["path"], source)
        if len(text.encode()) > ANSWER_LIMIT:
            text = text.encode()[:ANSWER_LIMIT].decode("utf-8", "ignore") + "\n(cut here)"
        data = {"job": "outlined", "found": True, "path": memory["path"]}
        return FinalAnswer(text=with_data(text, data))
    args = {"path": memory["path"], "offset": 1, "limit": PAGE}
    return Turn([("read", args)], f"Reading {memory['path']}.", memory)


def _find(target: str, paths: list[str]) -> str | None:
    plain = target.removeprefix("./")
    if plain in paths:
        return plain
    ending = [p for p in paths if p.endswith("/" + plain)]
    if ending:
        return min(ending, key=len)
    modules = Modules(paths)
    found = modules.resolve(plain.replace("/", ".").strip("."), "")
    if found is not None:
        return found
    ending = [p for p in paths if any(n.endswith("." + plain) for n in modules.names(p))]
    return min(ending, key=len) if ending else (plain if is_python(plain) and not paths else None)
