"""The course of an upgrade: new code everywhere, with nobody interrupted.

    preflight -> (execute) -> templates -> hub -> actors -> done

The new code is tried first, in a process of its own that is handed the frozen root (`handover`): if
it refuses, nothing has changed. Then the root executes itself, unless only the actors shall move;
forms new templates beside the old ones; and has every process leave between two inputs, the hub
first, for a successor on the new code. Who fails there before its first commit is started on the
previous template (`generations`), and that is the upgrade's error; a hub that fails takes the whole
generation back. The course itself is part of what is frozen, so it goes on in the new image.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from loomd.supervise import spec as s
from loomd.supervise import tree as t
from loomd.supervise.crash import crash_point
from loomd.supervise.generations import Generations

if TYPE_CHECKING:
    from loomd.supervise.process import Process
    from loomd.supervise.root import Root

PREFLIGHT: Final = "preflight"
PREFLIGHT_S: Final = 60.0

AT_ONCE: Final = 32
"""Processes that are on their way to new code at the same time."""

MOVE_S: Final = 180.0
"""How long a move may take, until the successor runs: longer than a tool host waits for its
calls."""

KEEP_S: Final = 300.0
"""How long after an upgrade the previous templates are kept for those who have not yet made their
first commit on the new code."""

EVENTS: Final = {"done": "upgraded", "failed": "upgrade_failed", "refused": "upgrade_refused"}
"""What the log calls the end of an upgrade."""

MAX_REASON: Final = 2000

_FAULTS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
_OWN_KILLS = frozenset({"hung", "start time-out"})
_ORDERLY = frozenset({s.NORMAL, s.FENCED, s.UPGRADED, s.ASLEEP})

Phase = Literal["preflight", "execute", "templates", "hub", "actors"]


@dataclass
class Course:
    """One upgrade under way.

    key      of who asked for it: the same key again joins in
    execute  the root moves too
    waiting  names that are on their way: templates not yet up, processes told to leave
    kept     name -> why it stays on the older code
    """

    key: str
    execute: bool
    generation: int
    phase: Phase = "preflight"
    waiting: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    errors: list[dict[str, str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # {code, reason, hint} of the preflight
    spoke: bool = False  # the preflight has given its verdict

    def result(self) -> dict[str, Any]:
        """What whoever asked is answered."""
        return {
            "key": self.key,
            "generation": self.generation,
            "moved": sorted(self.moved),
            "kept": sorted(self.kept),
            "errors": self.errors,
            "refused": self.refused,
        }


class Upgrade:
    """One per root; most of the time there is no course."""

    def __init__(self, root: Root, number: int = 1) -> None:
        self._root = root
        self.generations = Generations(number)
        self.course: Course | None = None
        self.frozen_fd = -1  # what the preflight reads
        self._last: dict[str, Any] | None = None
        self._said: dict[str, str] | None = None  # `outcome` of the last one
        self._asked: list[Any] = []  # the hub's ids of the questions that wait for the end
        self._calls: dict[int, Callable[[str], None]] = {}
        self._next_call = 0
        self._again = False  # a signal has asked for another one after this
        self._after_preflight: Callable[[], None] | None = None
        self._keep_until = 0.0

    # --- what is asked -------------------------------------------------------------------------

    def ask(self, key: str, *, execute: bool, id: Any) -> None:
        """The hub asks for one, or, after a change of hubs, for what became of it."""
        if self._last is not None and self._last["key"] == key:
            self._answer(id, self._last)
        elif self.course is not None and self.course.key != key:
            why = {
                "code": "bad_state",
                "reason": "an upgrade is under way",
                "hint": "ask again when it is done: the log says `upgraded`, or `upgrade_failed`",
            }
            self._answer(id, Course(key, execute, self.generations.number, refused=why).result())
        else:
            self._asked.append(id)
            if self.course is None:
                self._begin(key, execute=execute)

    def by_signal(self) -> None:
        """SIGHUP: what `systemctl reload` sends. The code on disk may be newer than what an upgrade
        under way has read: then there is another one after it."""
        if self.course is None:
            self._begin(f"signal-{time.monotonic_ns()}", execute=True)
        else:
            self._again = True

    def hub_gone(self) -> None:
        """Its questions died with it; its clients ask its successor again."""
        self._asked.clear()

    def reply(self, action: t.Reply) -> None:
        """The policy's answer to a call of ours: those have negative numbers."""
        then = self._calls.pop(action.call, None)
        if then is not None:
            then(action.error)

    def _call(self, then: Callable[[str], None]) -> int:
        self._next_call -= 1
        self._calls[self._next_call] = then
        return self._next_call

    def _answer(self, id: Any, result: dict[str, Any]) -> None:
        self._root.hubline.pieces(id, json.dumps(result))

    # --- preflight -----------------------------------------------------------------------------

    def _begin(self, key: str, *, execute: bool) -> None:
        root = self._root
        self.course = Course(key, execute, self.generations.number + 1)
        root.log.line("info", "upgrade_begins", generation=self.course.generation)
        root.notify.reloading()
        if not root.config.preflight:
            self.course.spoke = True
            self._go_on("")
            return
        self.frozen_fd = root.frozen()
        with contextlib.suppress(OSError):
            os.unlink(root.births.output(PREFLIGHT))  # what it says is this one's
        start = s.Start(command=root.config.preflight, ready_s=PREFLIGHT_S, nice=10)
        spec = s.WorkerSpec(PREFLIGHT, start, restart="temporary", shutdown_s=1.0)
        root.tell(t.StartChild(self._call(self._tried), root.policy.root.id, spec))

    def verdict(self, message: Mapping[str, Any]) -> None:
        """The preflight's word: ok, or {code, reason, hint}. Its `ready` comes after it."""
        if self.course is None or self.course.phase != "preflight":
            return
        self.course.spoke = True
        if not message.get("ok"):
            self.course.refused = {
                "code": str(message.get("code") or "failed"),
                "reason": str(message.get("reason"))[:4000],
                "hint": str(message.get("hint") or ""),
            }

    def _tried(self, error: str) -> None:
        """It is ready, that is, done, or it could not start. Goes on when it has ended."""
        os.close(self.frozen_fd)
        self.frozen_fd = -1
        self._after_preflight = lambda: self._go_on(error)
        self._root.tell(t.Forget(PREFLIGHT))
        if PREFLIGHT not in self._root.processes:
            self._root.after(0.0, self._preflight_gone)

    def _preflight_gone(self) -> None:
        then, self._after_preflight = self._after_preflight, None
        if then is not None:
            then()

    def _go_on(self, error: str) -> None:
        course = self.course
        assert course is not None
        if not course.spoke:
            said = _last_line(self._root.births.output(PREFLIGHT)) or error or "it said nothing"
            course.refused = {"code": "failed", "reason": f"the new code does not start: {said}"}
        if course.refused:
            self._finish()
        elif course.execute:
            course.phase = "execute"
        else:
            self._form()

    # --- execute -------------------------------------------------------------------------------

    @property
    def executes(self) -> bool:
        """The root shall execute itself at its next quiet moment."""
        return self.course is not None and self.course.phase == "execute"

    def not_executed(self, reason: str) -> None:
        """The kernel has refused: the old image goes on."""
        assert self.course is not None
        self.course.refused = {"code": "failed", "reason": f"cannot execute: {reason}"}
        self._finish()

    def resume(self) -> None:
        """In the new image."""
        self._schedule()
        if self.course is not None and self.course.phase == "execute":
            self._form()

    # --- templates -----------------------------------------------------------------------------

    def _form(self) -> None:
        """New templates beside the old ones, which take all births until the new ones are up."""
        course = self.course
        assert course is not None
        crash_point("root.before_templates")
        course.phase = "templates"
        course.generation = self.generations.begin()
        for spec in self._static():
            if spec.start.serves:
                course.waiting.append(spec.id)
        for spec in self._static():
            if spec.start.serves:
                self._form_one(spec)
        if not course.waiting:
            self._formed()

    def _static(self) -> list[s.WorkerSpec]:
        """The workers that stand directly below the root, as the newest code wants them."""
        tree = self._root.config.tree
        if self._root.config.retree is not None:
            tree = self._root.config.retree(self.generations.births)
        return [child for child in tree.children if isinstance(child, s.WorkerSpec)]

    def _form_one(self, spec: s.WorkerSpec) -> None:
        """Starts a template; it is waited for, so that no birth waits for its imports later."""
        root = self._root
        waited = replace(spec, start=replace(spec.start, ready="link"))

        def then(error: str) -> None:
            root.tell(t.Respec(spec))
            course = self.course
            if course is None or course.phase != "templates":
                return
            course.waiting.remove(spec.id)
            if error:
                course.errors.append({"name": spec.id, "error": error})
            if not course.waiting:
                self._formed()

        call = self._call(then)
        node, process = root.policy.nodes.get(spec.id), root.processes.get(spec.id)
        if node is None:
            root.tell(t.StartChild(call, root.policy.root.id, waited))
        elif process is not None and process.pid and node.state == "up" and not node.stop:
            old = f"{spec.id}@{process.generation}"
            root.rename(process, old)
            root.tell(t.Supplant(call, waited, old))
        else:  # it is being started, from the new code already: its place gets the new spec
            root.tell(t.Respec(spec))
            root.tell(t.Bounce(call, spec.id))

    def _formed(self) -> None:
        course = self.course
        assert course is not None
        if course.errors:
            if not self._served():
                self._all_there_is()
            self._finish()
            return
        course.phase = "hub"
        self.generations.take()
        for spec in self._static():
            if not spec.start.serves:
                self._root.tell(t.Respec(spec))
        self._root.births.place_anew()
        hub = self._root.processes.get(self._root.config.hub)
        if hub is not None and hub.spec.start.template and self._behind(hub):
            course.waiting.append(hub.name)
            self._order(hub)
        else:
            self._move_all()

    # --- moving --------------------------------------------------------------------------------

    def _behind(self, process: Process) -> bool:
        """It runs on older code, and shall not."""
        return (
            bool(process.spec.start.template)
            and process.generation != self.generations.of(process.name)
            and not process.dead
            and not process.told
        )

    def _order(self, process: Process) -> None:
        crash_point("root.before_move", process.name)
        process.told = True
        self._root.send(process, {"op": "upgrade", "generation": self.generations.births})
        course = self.course
        self._root.after(MOVE_S, lambda: self._late(course, process.name))

    def _late(self, course: Course | None, name: str) -> None:
        """It, or its successor, is stopped or stuck: the course ends without it."""
        if course is None or course is not self.course or name not in course.waiting:
            return
        course.waiting.remove(name)
        course.kept[name] = f"did not move within {MOVE_S:.0f} s"
        if course.phase == "hub":
            course.errors.append({"name": name, "error": course.kept[name]})
            self._withdraw()
            self._finish()
        else:
            self._advance()

    def _move_all(self) -> None:
        course, root = self.course, self._root
        assert course is not None
        course.phase = "actors"
        for spec in self._static():
            if spec.id not in root.policy.nodes:
                root.tell(
                    t.StartChild(self._call(self._started(spec.id)), root.policy.root.id, spec)
                )
        self._advance()

    def _started(self, name: str) -> Callable[[str], None]:
        def then(error: str) -> None:
            if error and self.course is not None:
                self.course.errors.append({"name": name, "error": error})

        return then

    def _advance(self) -> None:
        """Tells the next ones to leave; ends the course when all have moved."""
        course = self.course
        if course is None or course.phase != "actors":
            return
        static = {spec.id for spec in self._static()}
        for process in list(self._root.processes.values()):
            if len(course.waiting) >= AT_ONCE:
                return
            if self._behind(process) and not self._ends_itself(process, static):
                course.waiting.append(process.name)
                self._order(process)
        if not course.waiting:
            self._finish()

    def _ends_itself(self, process: Process, static: Container[str]) -> bool:
        """It is no more in the tree of the newest code, and ends when it has done what it has."""
        node = self._root.policy.nodes.get(process.name)
        return node is None or (
            process.name not in static
            and (node.parent is self._root.policy.root or process.spec.start.keys)
        )

    def ready(self, process: Process) -> None:
        """Somebody has started. One on trial still has to load what is saved, and says so."""
        if not process.trial:
            self.loaded(process)

    def loaded(self, process: Process) -> None:
        """Somebody runs; perhaps one that was on its way."""
        course = self.course
        if course is None or process.name not in course.waiting or process.spec.start.serves:
            return
        if process.generation != self.generations.of(process.name):
            return
        course.waiting.remove(process.name)
        if process.name not in course.kept:
            course.moved.append(process.name)
        if course.phase == "hub":
            self._move_all()
        else:
            self._advance()

    def gone(self, action: t.Gone) -> None:
        """Somebody has ended: for good, or its successor is on its way."""
        if not action.final:
            return
        if action.name == PREFLIGHT:
            self._preflight_gone()
            return
        self.generations.unpin(action.name)
        course = self.course
        if course is not None and action.name in course.waiting and course.phase == "actors":
            course.waiting.remove(action.name)
            self._advance()
        self.retire()

    def settled(self, process: Process) -> None:
        """Its first commit on this code is on disk."""
        process.settled = True
        self.retire()

    # --- falling back --------------------------------------------------------------------------

    def judged(self, process: Process, event: t.Exited) -> t.Exited:
        """What this death is to the policy: one of new code on trial is nobody's crash."""
        if event.status == s.UPGRADED and not process.told:
            return replace(event, status=1, reason="left for new code, unasked")
        if not self._failed(process, event):
            return event
        name, error = process.name, {"name": process.name, "error": event.reason}
        course = self.course
        self._root.log.line("error", "new_code_failed", name=name, reason=event.reason)
        if course is not None:
            course.errors.append(error)
            course.kept[name] = event.reason
        if name == self._root.config.hub:
            self._withdraw()
            if course is not None:
                self._root.after(0.0, self._withdrawn)
        else:
            self.generations.pin(name)
        return replace(event, status=s.UPGRADED, blame=None)

    def _failed(self, process: Process, event: t.Exited) -> bool:
        """Whether it is the new code that failed, with an older one to go back to."""
        node = self._root.policy.nodes.get(process.name)
        if not process.trial or process.settled or node is None or node.stop or not node.want:
            return False
        if process.generation != self.generations.number or not self.on_trial(process):
            return False
        if process.killed:
            return process.killed in _OWN_KILLS
        if event.signal:
            return event.signal in _FAULTS
        if event.status == s.COULD_NOT_START:
            return bool(process.crash)  # else the world was in the way: no hub, no room
        return event.status not in _ORDERLY

    def on_trial(self, process: Process) -> bool:
        """Whether it has an older template to fall back to."""
        older = self.generations.fallback(process.name)
        line = (process.spec.start.template, older)
        return bool(older) and self._root.births.template(line) is not None

    def _withdraw(self) -> None:
        """Births and specs are again those of the generation before."""
        self.generations.withdraw()
        for spec in self._static():
            if not spec.start.serves:
                self._root.tell(t.Respec(spec))

    def _withdrawn(self) -> None:
        """The hub is back on the code before; nobody else has moved."""
        if self.course is not None:
            self._finish()

    def lost(self, line: tuple[str, int]) -> None:
        """A template is gone for good: whoever counted on it is born from the newest code."""
        for name, generation in list(self.generations.pins.items()):
            if generation == line[1]:
                self.generations.unpin(name)
        forming = self.course is not None and self.course.phase == "templates"
        if line[1] == self.generations.births != self.generations.number and not forming:
            self._all_there_is()

    def _served(self) -> bool:
        """Whether somebody can be born."""
        births = self.generations.births
        return any(
            p.spec.start.serves and p.generation == births and not p.dead
            for p in self._root.processes.values()
        )

    def _all_there_is(self) -> None:
        """The templates that births had gone back to are lost: the newest code has to do."""
        self.generations.births = self.generations.number
        self._root.births.place_anew()
        self._refill()

    def _refill(self) -> None:
        """A place for every template, until there is one."""
        root = self._root

        def then(error: str) -> None:
            if error:
                root.after(1.0, self._refill)

        for spec in self._static():
            if spec.start.serves and spec.id not in root.policy.nodes:
                root.tell(t.StartChild(self._call(then), root.policy.root.id, spec))

    # --- the end -------------------------------------------------------------------------------

    def _finish(self) -> None:
        course, self.course = self.course, None
        assert course is not None
        if course.refused or self.generations.births != self.generations.number:
            course.generation = self.generations.births
        if not course.refused:
            static = {spec.id for spec in self._static()}
            for process in self._root.processes.values():
                older = process.generation != self.generations.births
                if process.spec.start.template and older and not self._ends_itself(process, static):
                    course.kept.setdefault(process.name, "")
        self._last = course.result()
        taken = self.generations.births == self.generations.number
        said = outcome(course, taken=taken)
        self._root.log.line(
            "error" if said["reason"] else "info",
            EVENTS[said["state"]],
            generation=course.generation,
            moved=len(course.moved),
            kept=len(course.kept) or None,
            errors=len(course.errors) or None,
            reason=said["reason"] or None,
        )
        self._said = said
        self.tell_hub()
        self._root.notify.note("" if taken and not course.refused else _line(said))
        self._root.notify.ready("running")
        asked, self._asked = self._asked, []
        for id in asked:
            self._answer(id, self._last)
        self._keep_until = time.monotonic() + KEEP_S
        self._schedule()
        self.retire()
        if self._again:
            self._again = False
            self._root.after(0.0, self._root.hung_up)

    def tell_hub(self) -> None:
        """How the last one ended: for `daemon status`, where whoever asked by a signal sees it."""
        if self._said is not None:
            self._root.hubline.note({"op": "upgraded", **self._said})

    def _schedule(self) -> None:
        left = self._keep_until - time.monotonic()
        if left > 0:
            self._root.after(left, self.retire)

    def retire(self) -> None:
        """Ends the templates that nobody will be born from any more."""
        if self.course is not None:
            return
        living = [p for p in self._root.processes.values() if not p.dead]
        waits = time.monotonic() < self._keep_until and any(
            p.spec.start.template and (p.trial and not p.settled) for p in living
        )
        needed = self.generations.needed(on_trial=waits)
        for process in living:
            if process.spec.start.serves and process.generation not in needed:
                self._root.tell(t.Forget(process.name))

    # --- handing on ----------------------------------------------------------------------------

    def freeze(self) -> dict[str, Any]:
        return {
            "generations": self.generations.freeze(),
            "course": None if self.course is None else asdict(self.course),
            "last": self._last,
            "said": self._said,
            "asked": self._asked,
            "keep_until": self._keep_until,
            "again": self._again,
            "next_call": self._next_call,
        }

    def thaw(self, frozen: Mapping[str, Any]) -> None:
        self.generations = Generations.thaw(frozen["generations"])
        self.course = None if frozen["course"] is None else Course(**frozen["course"])
        self._last = frozen["last"]
        self._said = frozen.get("said")
        self._asked = list(frozen["asked"])
        self._keep_until = frozen["keep_until"]
        self._again = bool(frozen.get("again"))
        # A call of before that is still open must not be taken for one of ours.
        self._next_call = int(frozen.get("next_call", 0))


def outcome(course: Course, *, taken: bool) -> dict[str, str]:
    """For people: {state: done | failed | refused, reason}. `taken`: the new code is in force; what
    has failed on it is the reason all the same."""
    if course.refused:
        return {"state": "refused", "reason": course.refused["reason"][:MAX_REASON]}
    reason = "; ".join(f"{error['name']}: {error['error']}" for error in course.errors)
    return {"state": "done" if taken else "failed", "reason": reason[:MAX_REASON]}


def _line(said: Mapping[str, str]) -> str:
    return f"last reload {said['state']}: {' '.join(said['reason'].split())}"[:200]


def _last_line(path: str) -> str:
    """The last line that a process has printed; "" if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:1000] if lines else ""
