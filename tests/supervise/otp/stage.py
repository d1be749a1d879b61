"""A stage for the policy: plays the processes of a tree, on a clock that only the test moves."""

from __future__ import annotations

from typing import Any

from loomd.supervise import policy as p
from loomd.supervise import spec as s
from loomd.supervise import tree as t

START = {"command": ["toy"]}


def worker(id: str, restart: str = "permanent", **more: Any) -> dict[str, Any]:
    return {"id": id, "restart": restart, "start": START, **more}


def workers(*ids: str, **more: Any) -> list[dict[str, Any]]:
    return [worker(id, **more) for id in ids]


def significant(id: str, restart: str = "transient") -> dict[str, Any]:
    return worker(id, restart, significant=True)


def sup(id: str, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "supervisor", "children": list(children), **more}


class Stage:
    """Does what the policy says, unless a test says otherwise; checks the tree after each event.

    refuse   name -> the statuses with which its next starts end before they are ready
    slow     names whose processes do not get ready by themselves
    stuck    names whose processes do not end when they are told to
    log      what was done, in order: "+a" started, "-a" told to stop, "!a" killed
    answers  call -> error; each call is answered once at most
    """

    def __init__(
        self, tree: dict[str, Any], boot: bool = True, check: bool = True, **config: Any
    ) -> None:
        self.policy = p.Policy(s.parse_supervisor(tree), **config)
        self.check = check
        self.now = 1000.0
        self.live: dict[str, int] = {}
        self.log: list[str] = []
        self.out: list[t.Action] = []
        self.refuse: dict[str, list[int]] = {}
        self.slow: set[str] = set()
        self.stuck: set[str] = set()
        self.answers: dict[int, str] = {}
        self.calls = 0
        self.finish: t.Finish | None = None
        if boot:
            self.tell(t.Boot())

    def tell(self, event: t.Event) -> list[t.Action]:
        """One event and everything that follows from it; the actions of all of it."""
        made: list[t.Action] = []
        events = [event]
        while events:
            for action in self.policy.handle(events.pop(0), self.now):
                made.append(action)
                events.extend(self._play(action))
            if self.check:
                self.policy.validate()
        self.out.extend(made)
        return made

    def _play(self, action: t.Action) -> list[t.Event]:
        match action:
            case t.StartProcess(name, incarnation):
                assert name not in self.live, f"two of {name}"
                self.log.append(f"+{name}")
                if self.refuse.get(name):
                    return [t.Exited(name, incarnation, self.refuse[name].pop(0))]
                self.live[name] = incarnation
                born = t.Born(name, incarnation, incarnation % 1000 + 1)
                return [born] if name in self.slow else [born, t.Ready(name, incarnation)]
            case t.StopProcess(name, incarnation):
                assert self.live[name] == incarnation
                self.log.append(f"-{name}")
                return [] if name in self.stuck else self._end(name, 0)
            case t.KillProcess(name, incarnation):
                assert self.live[name] == incarnation
                self.log.append(f"!{name}")
                return self._end(name, -1, 9)
            case t.Reply(call, error):
                assert 0 < call <= self.calls and call not in self.answers
                self.answers[call] = error
            case t.Finish():
                assert not self.live and self.finish is None
                self.finish = action
        return []

    def _end(self, name: str, status: int, signal: int = 0) -> list[t.Event]:
        return [t.Exited(name, self.live.pop(name), status, signal)]

    # --- what happens to processes ---

    def exit(self, name: str, status: int = 0, signal: int = 0, blame: Any = None) -> None:
        self.tell(t.Exited(name, self.live.pop(name), status, signal, blame))

    def crash(self, name: str) -> None:
        self.exit(name, 1)

    def kill(self, name: str) -> None:
        self.exit(name, -1, 9)

    def ready(self, name: str) -> None:
        self.tell(t.Ready(name, self.live[name]))

    def after(self, seconds: float) -> None:
        """Lets time pass, with every timer that falls due."""
        end = self.now + seconds
        while True:
            due = sorted((at, key) for key, at in self.policy.timers.items() if at <= end)
            if not due:
                break
            self.now = max(self.now, due[0][0])
            self.tell(t.TimerFired(due[0][1]))
        self.now = end

    def shutdown(self) -> None:
        self.tell(t.Shutdown())

    # --- calls: "" is ok, None: no answer yet ---

    def start(self, supervisor: str, child: dict[str, Any]) -> str | None:
        return self._call(t.StartChild(self._number(), supervisor, s.parse(child)))

    def terminate(self, name: str) -> str | None:
        return self._call(t.TerminateChild(self._number(), name))

    def restart(self, name: str) -> str | None:
        return self._call(t.RestartChild(self._number(), name))

    def delete(self, name: str) -> str | None:
        return self._call(t.DeleteChild(self._number(), name))

    def bounce(self, name: str) -> str | None:
        return self._call(t.Bounce(self._number(), name))

    def _number(self) -> int:
        self.calls += 1
        return self.calls

    def _call(self, event: Any) -> str | None:
        self.tell(event)
        return self.answers.get(event.call)

    # --- what there is to see ---

    def took(self) -> str:
        """The log since the last time."""
        log, self.log = self.log, []
        return " ".join(log)

    def node(self, name: str) -> Any:
        return self.policy.nodes[name]

    def state(self, name: str) -> str | None:
        node = self.policy.nodes.get(name)
        return None if node is None else node.state

    def which(self, name: str = "root") -> dict[str, Any]:
        """id -> "pid", "restarting" or None; newest first."""
        listed = t.which_children(self.node(name))
        return {id: "pid" if isinstance(pid, int) else pid for id, pid, _ in listed}

    def count(self, name: str = "root") -> list[int]:
        """OTP's order: specs, active, supervisors, workers."""
        counts = t.count_children(self.node(name))
        return [counts[key] for key in ("specs", "active", "supervisors", "workers")]

    @property
    def running(self) -> set[str]:
        return set(self.live)

    def ended(self) -> bool:
        """The tree has ended by itself, and everything in it."""
        return self.finish is not None and not self.finish.ok and not self.live

    def reports(self, context: str) -> list[str]:
        return [a.offender for a in self.out if isinstance(a, t.Report) and a.context == context]

    def gave_up(self) -> list[str]:
        return [a.supervisor for a in self.out if isinstance(a, t.GaveUp)]
