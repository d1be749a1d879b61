"""Recordings of sessions: what was asked and answered, so that a session runs again without a
model. Pure.

A recording is a file of JSON lines: a head, then one line per request with its outcome. Where a
request is asked again is its `Place`; its answer is looked for, in this order:

- under the same words: the whole conversation is the same but for its names. What is numbered as it
  comes (sessions, agents, tasks, edits: `s-4f2a1c`, `coder-1`, `t-2`, `e-1`) is named in the order
  of its first mention, and the answer has the names of today in it, and the place of the checkout;
- as the same turn of the same agent at the same task: what commands print may differ;
- as the same turn of the same agent, once the lead has had its answer: agents that run beside each
  other may meet in another order. The lead itself is never answered for another goal.

An answer that is not found under the same words has a note that says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import msgspec

from loomd.gateway.storable import odd
from loomd.gateway.types import Resolved
from loomd.wire.bodies import Failed, Outcome, Usage
from loomd.wire.errors import LoomError

VERSION: Final = 1
MARK: Final = "loom_recording"


NAME: Final = re.compile(r"(?<![\w-])(?:s-[a-z0-9]{6}|[a-z]+-\d+)(?![\w-])")

LEAD: Final = "lead"

HERE: Final = "\0repo"
"""Stands for the path of the checkout."""

SHOWN: Final = 200
"""Characters of a goal, for the one who asks why it is not answered."""


@dataclass(frozen=True)
class Place:
    """agent: its name in the session; turn: the number at the end of the request's id, from 1;
    asked, task: digests of the conversation and of its first message; names: in the conversation,
    in the order of their first mention; goal: how the first message begins; repo: the checkout."""

    agent: str
    role: str
    purpose: str
    turn: int
    asked: str
    task: str
    names: tuple[str, ...] = ()
    goal: str = ""
    repo: str = ""

    def __str__(self) -> str:
        return f"turn {self.turn} of {self.agent} ({self.purpose})"


def turn_of(request: str) -> int:
    """`s-1/lead:3` -> 3; 1 for an id that counts nothing."""
    found = re.search(r"(\d+)\Z", request)
    return int(found[1]) if found else 1


def place(resolved: Resolved) -> Place:
    said = [(e.role, e.sender, e.name, e.text, [(c.name, c.args) for c in e.calls])
            for e in resolved.entries]  # fmt: skip
    first = next((entry.text for entry in resolved.entries if entry.role == "user"), "")
    task, _ = _digest(first, resolved.repo)
    asked, names = _digest([resolved.session, resolved.pinned, said], resolved.repo)
    return Place(
        agent=resolved.agent.rpartition("/")[2],
        role=resolved.role,
        purpose=resolved.purpose,
        turn=turn_of(resolved.request),
        asked=asked,
        task=task,
        names=names,
        goal=first[:SHOWN],
        repo=resolved.repo,
    )


def _digest(value: Any, repo: str) -> tuple[str, tuple[str, ...]]:
    """Of everything that is said in it, wherever the checkout is, and the names."""
    names: dict[str, str] = {}
    hash = hashlib.sha256()
    for text in _texts(value):
        plain = _moved(text, repo)
        plain = NAME.sub(lambda found: names.setdefault(found[0], f"\0{len(names)}"), plain)
        hash.update(plain.encode("utf-8", "replace") + b"\x1f")
    return hash.hexdigest()[:32], tuple(names)


def _moved(text: str, repo: str) -> str:
    """`text` with `HERE` in the place of the checkout's path, where that is a path's beginning: of
    `/app`, neither `src/app/x` nor `/app-2` nor `/app.py` is a part. `/` is in everything."""
    if repo in ("", "/") or repo not in text:
        return text
    return re.sub(rf"(?<![\w.~*)}}\]-]){re.escape(repo)}(?![\w~+@-]|\.\w)", lambda _: HERE, text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key)
            yield from _texts(value[key])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    else:
        yield str(value)


# --- writing -----------------------------------------------------------------------------------


def head(session: str) -> str:
    return json.dumps({MARK: VERSION, "session": session})


def line(where: Place, model: str, outcome: Outcome, usage: Usage) -> str:
    """One request and what came of it. A failure that was the end of its request is not worth
    another try when it is played back; how an answer was found, if it was played itself, is not
    part of it."""
    outcome = msgspec.structs.replace(outcome, note="")
    if isinstance(outcome, Failed):
        outcome = msgspec.structs.replace(outcome, retryable=False, retry_after=None)
    said = {
        **asdict(where),
        "model": model,
        "outcome": msgspec.to_builtins(outcome),
        "usage": msgspec.to_builtins(usage),
    }
    return json.dumps(said, ensure_ascii=False)


# --- reading and matching ----------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    place: Place
    outcome: Outcome
    usage: Usage


@dataclass
class Recording:
    """What `parse` has read. `session`: the one that was recorded."""

    session: str = ""
    by_words: dict[str, list[Recorded]] = field(default_factory=dict)
    by_turn: dict[tuple[str, int], Recorded] = field(default_factory=dict)

    def add(self, one: Recorded) -> None:
        self.by_words.setdefault(one.place.asked, []).append(one)
        self.by_turn.setdefault((one.place.agent, one.place.turn), one)

    def place(self, resolved: Resolved) -> Place:
        """As this recording has places: one in which no checkout is named has the path of its
        checkout in the digests."""
        named = any(one.place.repo for one in self.by_turn.values())
        return place(resolved if named else replace(resolved, repo=""))

    def find(self, where: Place) -> tuple[Recorded, bool] | None:
        """(what answers it, whether by the same words). Where the same was said more than once,
        the same agent's and the same turn's comes first."""
        same = self.by_words.get(where.asked)
        if same:
            return max(same, key=lambda one: _nearness(one.place, where)), True
        turn = self.by_turn.get((where.agent, where.turn))
        if turn is None or (turn.place.task != where.task and where.role == LEAD):
            return None
        return turn, False

    def _differs(self, where: Place) -> str:
        """Why nothing is found."""
        mine = [one.place for (agent, _), one in self.by_turn.items() if agent == where.agent]
        if not mine:
            agents = ", ".join(sorted({agent for agent, _ in self.by_turn})) or "nobody"
            return f"there is no {where.agent} in it, only {agents}"
        if where.role == LEAD and all(one.task != where.task for one in mine):
            return f"it was made of another goal, {mine[0].goal!r}, and this is {where.goal!r}"
        last = max(one.turn for one in mine)
        return f"it has {len(mine)} of its turns, the last is turn {last}"

    def answer(self, where: Place, session: str) -> tuple[Outcome, Usage]:
        """Tokens are told as they were counted then; this time they have cost nothing."""
        found = self.find(where)
        if found is None:
            detail = f"the recording has no answer for {where}: {self._differs(where)}"
            hint = "run the same goal on the same state of the repo, or record the session again"
            return Failed(kind="malformed", detail=detail, hint=hint), Usage(cost_usd=0.0, calls=1)
        one, same = found
        names = {self.session: session}
        if same:
            names |= dict(zip(one.place.names, where.names, strict=False))
        moved = (one.place.repo, where.repo) if where.repo else ("", "")
        plain = _renamed(msgspec.to_builtins(one.outcome), names, moved)
        outcome: Outcome = msgspec.convert(plain, Outcome)
        if not same:
            outcome = msgspec.structs.replace(outcome, note=_other_words(one.place, where))
        return outcome, msgspec.structs.replace(one.usage, cost_usd=0.0)


def _other_words(one: Place, where: Place) -> str:
    """Said of an answer that was found by its turn alone."""
    said = f"the recording's answer of {where}, to other words"
    if one.task != where.task:
        return f"{said}: it was given to the task {one.goal!r}, and this is {where.goal!r}"
    return f"{said}: the task is the same, what was said since is not"


def _nearness(one: Place, where: Place) -> tuple[bool, bool]:
    return one.agent == where.agent, one.turn == where.turn


def _renamed(value: Any, names: Mapping[str, str], moved: tuple[str, str]) -> Any:
    match value:
        case str():
            before, now = moved
            text = _moved(value, before)  # a path is no name, whatever it is made of
            return NAME.sub(lambda found: names.get(found[0], found[0]), text).replace(HERE, now)
        case list() | tuple():
            return [_renamed(one, names, moved) for one in value]
        case dict():
            return {key: _renamed(one, names, moved) for key, one in value.items()}
        case _:
            return value


def parse(text: str) -> Recording:
    """Raises LoomError(config) that names the line."""
    lines = [(n, raw) for n, raw in enumerate(text.splitlines(), 1) if raw.strip()]
    if not lines or _object(*lines[0]).get(MARK) != VERSION:
        raise LoomError(
            "config",
            f"line 1: no recording of version {VERSION}",
            "make one: loomctl record SESSION FILE",
        )
    recording = Recording(str(_object(*lines[0]).get("session") or ""))
    for number, raw in lines[1:]:
        recording.add(_recorded(number, _object(number, raw)))
    return recording


def _object(number: int, raw: str) -> Mapping[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LoomError("config", f"line {number}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise LoomError("config", f"line {number}: not an object")
    return value


def _recorded(number: int, value: Mapping[str, Any]) -> Recorded:
    if said := odd(value, -8):  # the arguments stand that deep in it
        raise LoomError("config", f"line {number}: it holds {said}")
    try:
        where = msgspec.convert(value, Place)
        outcome: Outcome = msgspec.convert(value.get("outcome"), Outcome)
        usage = msgspec.convert(value.get("usage") or {}, Usage)
    except msgspec.ValidationError as error:
        raise LoomError("config", f"line {number}: {error}") from None
    if len(set(where.names)) != len(where.names):
        raise LoomError("config", f"line {number}: a name twice in names")
    return Recorded(where, outcome, usage)
