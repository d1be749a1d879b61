"""Takes a goal apart, gives the work out, and answers for the outcome. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loomd.gateway.offline import goals
from loomd.gateway.offline.coder import coder
from loomd.gateway.offline.researcher import researcher
from loomd.gateway.offline.results import Tests, tests
from loomd.gateway.offline.talk import (
    Memory,
    Move,
    Result,
    Talk,
    Turn,
    data_of,
    plural,
    with_data,
    without_data,
)
from loomd.wire.bodies import Failed, FinalAnswer

# No caches: a test run must not look like a change of the repo.
TESTS = "python -B -m pytest -q -p no:cacheprovider"

FILES_TOLD = 100
MAX_CODERS = 4
PART_FILES = 60
PART_CHARS = 800_000
"""Of one coder's task: agents have a limited number of turns."""
HINT = (
    'for anything else configure a real model in config.toml: [models] default = "provider/model", '
    "and under [providers.PROVIDER] api_key_env (or api_base for a local server)"
)


def lead(talk: Talk, memory: Memory, results: list[Result], said: list[str]) -> Move:
    """In a team of one nobody can be spawned: the lead does their tasks by their rules."""
    alone = memory.get("alone")
    if alone is None:
        move = _lead(talk, memory, results, said)
    else:
        move = _alone(talk, {**alone, "said": [*alone["said"], *said]}, results)
    while isinstance(move, Turn) and talk.team_size == 1 and "alone" not in move.memory:
        spawns = [args for name, args in move.calls if name == "spawn"]
        if not spawns:
            break
        others = [(name, args) for name, args in move.calls if name != "spawn"]
        alone = {"base": move.memory, "queue": spawns, "done": [], "said": [], "mine": {}}
        alone["others"] = len(others)
        begun = _alone(talk, alone, [])
        if isinstance(begun, Turn) and "alone" in begun.memory:
            begun = Turn([*others, *begun.calls], move.text, begun.memory)
        move = begun
    return move


def _alone(talk: Talk, alone: Memory, results: list[Result]) -> Move:
    """One step of a task that the lead does itself. `base`: what the lead remembers, `done`: the
    results for it, `mine`: what the role in hand remembers, `others`: calls of the lead's own."""
    count = alone["others"] if results else 0
    done = [*alone["done"], *([r.name, r.args, r.text, r.ok] for r in results[:count])]
    mine, results = alone["mine"], results[count:]
    queue = list(alone["queue"])
    while queue:
        role, task = queue[0]["role"], queue[0]["task"]
        said = [] if mine else [task]
        if role == "coder":
            move = coder(talk, mine, results, said)
        else:
            move = researcher(mine, results, said)
        if isinstance(move, Turn):
            begun = not results and not alone["mine"]
            memory = {**alone, "queue": queue, "done": done, "mine": move.memory}
            memory["others"] = alone["others"] if begun else 0
            return Turn(move.calls, move.text, {"alone": memory})
        text = move.text if isinstance(move, FinalAnswer) else f"{move.kind}: {move.detail}"
        done.append(["spawn", queue.pop(0), text, isinstance(move, FinalAnswer)])
        mine, results = {}, []
    return _lead(talk, alone["base"], [Result(*one) for one in done], alone["said"])


def _lead(talk: Talk, memory: Memory, results: list[Result], said: list[str]) -> Move:
    """Goals are done one after the other; what is said meanwhile waits if it is one."""
    waiting = [text for text in said if goals.parse(text) is not None]
    if not memory:
        if not waiting:
            return _unknown(said)
        memory = {"goals": waiting, "answers": [], "stage": ""}
    elif waiting:
        memory = {**memory, "goals": [*memory["goals"], *waiting]}
    move = _goal(talk, memory, results)
    while isinstance(move, FinalAnswer) and len(memory["goals"]) > 1:
        answers = [*memory["answers"], move.text]
        memory = {"goals": memory["goals"][1:], "answers": answers, "stage": ""}
        move = _goal(talk, memory, [])
    if isinstance(move, FinalAnswer) and memory["answers"]:
        return FinalAnswer(text="\n\n".join([*memory["answers"], move.text]))
    return move


def _unknown(said: Sequence[str]) -> Failed:
    jobs = "; ".join(f"`{example}`" for example in goals.EXAMPLES)
    asked = " ".join(said[-1].split())[:120] if said else ""
    return Failed(
        kind="unknown_goal",
        detail=f"offline/rules does not know how to do {asked!r}. It knows: {jobs}",
        hint=HINT,
    )


def _goal(talk: Talk, memory: Memory, results: list[Result]) -> Turn | FinalAnswer | Failed:
    goal = goals.parse(memory["goals"][0])
    match goal:
        case goals.Bad(reason=reason):
            return Failed(kind="bad_goal", detail=reason)
        case goals.Rename():
            return _Rename(talk, memory, goal).go(results)
        case goals.Uses():
            task = {
                "job": "find_uses",
                "old": goal.name,
                "qualifier": goal.qualifier,
                "kind": goal.kind,
            }
            return _look(talk, memory, results, f"Find every use of `{goal.name}`.", task, "uses")
        case goals.Outline():
            task = {"job": "outline", "target": goal.target}
            return _look(talk, memory, results, f"Outline `{goal.target}`.", task, "outlined")
    return _unknown(memory["goals"])


def _decide(talk: Talk, title: str, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    return [("decide", {"title": title, **more})] if talk.has("decide") else []


def no_report(report: Result | None) -> Failed:
    """The researcher ended without one. A limit that was reached is told as what it is."""
    limits = ("limit", "repeats", "budget", "timeout")
    kind = report.error if report and report.error in limits else "research_failed"
    return Failed(kind=kind, detail=report.text if report else "no report")


def _result(results: Sequence[Result], name: str) -> Result | None:
    return next((result for result in results if result.name == name), None)


# --- jobs that only look -----------------------------------------------------------------------


def _look(
    talk: Talk,
    memory: Memory,
    results: list[Result],
    title: str,
    task: dict[str, Any],
    job: str,
) -> Turn | FinalAnswer | Failed:
    if not memory["stage"]:
        spawn = ("spawn", {"role": "researcher", "task": with_data(title, task)})
        decide = _decide(talk, title, kind="action", text="A researcher reads; nothing is changed.")
        return Turn([*decide, spawn], title, {**memory, "stage": "looking"})
    report = _result(results, "spawn")
    if report is None or not report.ok:
        return no_report(report)
    data = data_of(report.text, job) or {}
    text = without_data(report.text)
    if job == "outlined" and not data.get("found", True):
        return Failed(kind="not_found", detail=text)
    if job == "uses" and not data.get("known", True) and not data.get("mentioned"):
        return Failed(kind="not_found", detail=text)
    return FinalAnswer(text=text)


# --- rename ------------------------------------------------------------------------------------


class _Rename:
    def __init__(self, talk: Talk, memory: Memory, goal: goals.Rename) -> None:
        self.talk = talk
        self.memory = memory
        self.goal = goal
        self.title = f"Rename `{goal.old}` to `{goal.new}`"

    def go(self, results: list[Result]) -> Turn | FinalAnswer | Failed:
        match self.memory["stage"]:
            case "":
                return self.begin()
            case "research":
                return self.researched(results)
            case "code":
                return self.coded(results)
            case "test":
                return self.tested(results)
        return self.answer()

    def begin(self) -> Turn:
        goal = self.goal
        task = {
            "job": "find_rename",
            "old": goal.old,
            "new": goal.new,
            "qualifier": goal.qualifier,
            "kind": goal.kind,
        }
        calls = _decide(
            self.talk,
            f"{self.title}: find every use first",
            kind="action",
            text="By scopes and imports, not by text; the tests are run before and after.",
        )
        if self.talk.has("shell"):
            calls.append(("shell", {"command": TESTS}))
        text = f"Find every use of `{goal.old}` for a rename to `{goal.new}`."
        calls.append(("spawn", {"role": "researcher", "task": with_data(text, task)}))
        return Turn(calls, f"{self.title}: first the uses, and the tests as they are.",
                    {**self.memory, "stage": "research"})  # fmt: skip

    def researched(self, results: list[Result]) -> Turn | Failed:
        shell = _result(results, "shell")
        before = tests(shell.text, shell.ok) if shell else Tests("unknown", "no shell")
        report = _result(results, "spawn")
        if report is None or not report.ok:
            return no_report(report)
        data = data_of(report.text, "places")
        if data is None:
            return Failed(kind="research_failed", detail="the researcher's report has no places")
        if data["conflicts"]:
            kinds = {conflict["kind"] for conflict in data["conflicts"]}
            detail = "; ".join(conflict["text"] for conflict in data["conflicts"][:6])
            kind = "conflict" if "conflict" in kinds else kinds.pop()
            return Failed(kind=kind, detail=f"nothing was changed: {detail}")
        if not data["files"]:
            return Failed(kind="not_found", detail=f"no use of `{self.goal.old}` was found")
        first, *later = partition([_brief(f) for f in data["files"]], self.talk.team_size)
        files = {file["path"]: _brief(file) for file in data["files"]}
        memory = {
            **self.memory,
            "stage": "code",
            "before": [before.state, before.line, before.failed, before.passed],
            "label": data["label"],
            "files": files,
            "left": _left(data),
            "notes": data["notes"],
            "done": {},
            "failed": {},
            "rounds": 1,
            "later": later,
        }
        decide = _decide(
            self.talk,
            f"{self.title} in {plural(len(files), 'file')} by {plural(len(first), 'coder')}",
            kind="decision",
            text=without_data(report.text)[:2000],
            options=["replace the word everywhere", "rename by scope and import"],
            chosen="rename by scope and import",
            because="the word also stands for other things, and in strings and comments"
            if data["left"]
            else "what a name means is told by its scope",
        )
        return Turn([*decide, *self.spawns(first)],
                    f"{self.title}: {plural(len(first), 'coder')}.", memory)  # fmt: skip

    def spawns(self, parts: list[list[dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
        made = []
        for part in parts:
            task = {"job": "rename", "old": self.goal.old, "new": self.goal.new, "files": part}
            names = ", ".join(file["path"] for file in part)
            text = (
                f"{self.title} in {names}: only the places that mean it, nothing in strings or "
                f"comments. Claim them, edit, report what was left."
            )
            made.append(("spawn", {"role": "coder", "task": with_data(text, task)}))
        return made

    def coded(self, results: list[Result]) -> Turn | FinalAnswer | Failed:
        memory = {**self.memory, "done": dict(self.memory["done"])}
        memory["failed"] = dict(memory["failed"])
        lost = ""
        for result in results:
            if result.name != "spawn":
                continue
            data = data_of(result.text, "renamed")
            if data is None:
                lost = result.text.strip()[:200] or "no report"
                continue
            for file in data["files"]:
                path = file["path"]
                if file["places"]:
                    memory["done"][path] = [file["places"], file["notes"]]
                elif path not in memory["done"]:  # by a coder that was lost before it could say so
                    memory["done"][path] = [memory["files"][path]["count"], []]
            for file in data["failed"]:
                memory["failed"][file["path"]] = file["why"]
        if memory["later"]:
            parts, *memory["later"] = memory["later"]
            return Turn(self.spawns(parts), f"Next: {plural(len(parts), 'coder')}.", memory)
        for path in memory["files"]:
            if path not in memory["done"] and path not in memory["failed"]:
                memory["failed"][path] = f"its coder failed: {lost}"
        if memory["failed"] and memory["rounds"] < 2:
            again = [memory["files"][path] for path in memory["failed"]]
            memory["rounds"] += 1
            memory["failed"] = {}
            parts, *memory["later"] = partition(again, self.talk.team_size)
            return Turn(self.spawns(parts), f"Once more for {plural(len(again), 'file')}.", memory)
        memory["stage"] = "test"
        self.memory = memory
        if self.talk.has("shell"):
            return Turn([("shell", {"command": TESTS})], "The tests again.", memory)
        return self.tested([])

    def tested(self, results: list[Result]) -> Turn | FinalAnswer | Failed:
        shell = _result(results, "shell")
        after = tests(shell.text, shell.ok) if shell else Tests("unknown", "no shell")
        memory = {
            **self.memory,
            "stage": "end",
            "after": [after.state, after.line, after.failed, after.passed],
        }
        self.memory = memory
        bad = self.trouble()
        title = f"{self.title}: {'failed' if bad else 'done'}"
        text = bad.detail if bad else self.words()
        decide = _decide(self.talk, title, kind="outcome", text=text[:2000])
        if not decide:
            return self.answer()
        return Turn(decide, title, memory)

    def trouble(self) -> Failed | None:
        before, after = Tests(*self.memory["before"]), Tests(*self.memory["after"])
        if self.memory["failed"]:
            files = "; ".join(f"{p}: {why}" for p, why in self.memory["failed"].items())
            return Failed(
                kind="incomplete",
                detail=f"{plural(len(self.memory['failed']), 'file')} could not be changed: {files}"
                + (f". Changed: {', '.join(self.memory['done'])}" if self.memory["done"] else ""),
                hint="look at `loomctl diff` before going on",
            )
        if after.state == "failed" and after.failed > before.failed:
            return Failed(
                kind="tests_failed",
                detail=f"{self.words()}\nThe tests fail now ({after.said()}); before: "
                f"{before.said()}",
                hint="a string may name it (a patch target, an entry point): see what was left",
            )
        return None

    def answer(self) -> FinalAnswer | Failed:
        return self.trouble() or FinalAnswer(text=self.words())

    def words(self) -> str:
        memory = self.memory
        before, after = Tests(*memory["before"]), Tests(*memory["after"])
        changed = {path: done for path, done in memory["done"].items() if done[0]}
        count = sum(done[0] for done in changed.values())
        lines = [
            f"Renamed `{self.goal.old}` to `{self.goal.new}` ({memory['label']}): "
            f"{plural(count, 'place')} in {plural(len(changed), 'file')}."
        ]
        for path, (places, notes) in sorted(changed.items())[:FILES_TOLD]:
            said = "".join(f"; {note}" for note in notes)
            lines.append(f"- {path}: {plural(places, 'place')}{said}")
        if len(changed) > FILES_TOLD:
            lines.append(f"- and {len(changed) - FILES_TOLD} more files")
        if memory["left"]:
            lines.append("Not touched, because it is not that name:")
            lines += [f"- {line}" for line in memory["left"]]
        lines += [f"Note: {note}" for note in memory["notes"]]
        lines.append(f"Tests before: {before.said()}. After: {after.said()}.")
        return "\n".join(lines)


def _brief(file: dict[str, Any]) -> dict[str, Any]:
    """What a coder must know of a file."""
    return {key: file[key] for key in ("path", "refs", "count", "first", "last", "chars")}


LEFT_SHOWN = 20
_WHY = {
    "string": "in a string",
    "docstring": "in a docstring",
    "comment": "in a comment",
    "annotation": "in an annotation that is a string",
    "attribute": "an attribute of another object",
    "keyword": "a keyword argument",
    "other-scope": "another variable of that name",
    "module": "a module's name",
}


def _left(data: dict[str, Any]) -> list[str]:
    """Lines on what keeps the old name, and why."""
    every = [(file["path"], item) for file in [*data["files"], *data["others"]]
             for item in file["skipped"]]  # fmt: skip
    lines = [
        f"{path}:{item['line']} ({_WHY.get(item['kind'], item['kind'])}): {item['text'][:100]}"
        for path, item in every
    ]
    lines = list(dict.fromkeys(lines))
    more = max(data["left"], len(lines)) - LEFT_SHOWN
    return lines[:LEFT_SHOWN] + ([f"and {more} more"] if more > 0 else [])


def coders(files: int, team_size: int) -> int:
    """How many work at once: the team's others are lead, researcher and reviewer. Two where there
    are two files and places for them (the researcher has ended by then, and the reviewer is not
    counted)."""
    return max(1, min(MAX_CODERS, max(team_size - 3, 2), team_size - 1, files))


def partition(files: list[dict[str, Any]], team_size: int) -> list[list[list[dict[str, Any]]]]:
    """Waves of parts, one part per coder, about even by places. A part is what one coder can do
    within its turns."""
    count = coders(len(files), team_size)
    size = sum(file["chars"] for file in files)
    waves = max(-(-len(files) // (PART_FILES * count)), -(-size // (PART_CHARS * count)), 1)
    parts: list[list[dict[str, Any]]] = [[] for _ in range(count * waves)]
    loads = [0] * len(parts)
    for file in sorted(files, key=lambda f: (-f["count"], f["path"])):
        least = loads.index(min(loads))
        parts[least].append(file)
        loads[least] += int(file["count"])
    kept = [sorted(part, key=lambda f: str(f["path"])) for part in parts if part]
    return [kept[i : i + count] for i in range(0, len(kept), count)]
