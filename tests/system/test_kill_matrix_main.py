"""kill -9 of any one process at each phase of the main job, and at each named instant: the job ends
right, nothing is lost or doubled, nothing is paid twice, nothing is left running."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import BOUND_S, Client, Daemon, TestInstance, eventually
from tests.system.mainjob import QUICK, Job, make_repo, strike
from tests.system.upgrading import DEATHS

LENIENT = "[supervision]\nintensity = 1000\nperiod_s = 1\n"
"""One daemon is given more kills here than it would forgive; giving up is tested elsewhere."""


def first(type, **data):
    def holds(event):
        return event["type"] == type and all(
            str(event["data"].get(name)).endswith(value) for name, value in data.items()
        )

    return holds


PHASES = {
    "opened": first("session_opened"),
    "researching": first("agent_started", role="researcher"),
    "grepping": first("tool_call", name="grep"),
    "keeping": first("keeper_started"),
    "spawning": first("agent_started", role="coder"),
    "claiming": first("claim_granted"),
    "proposing": first("edit_proposed"),
    "reviewing": first("tool_call", name="review"),
    "approving": first("edit_approved"),
    "applying": first("edit_applied"),
    "reporting": first("agent_ended", role="coder"),
    "testing": first("tool_call", agent="/lead", name="shell", call=":3.1"),
}

ACTORS = ("lead", "researcher-1", "coder-1", "reviewer", "keeper-1", "team", "tools")
SHARED = ("models", "hub", "template")
VICTIMS = (*ACTORS, *SHARED)


class Plan:
    """One process to be killed per phase, at the first event of the phase, if it lives then.
    `always`: who is waited for, since it always comes back."""

    def __init__(self, job: Job, victims: dict[str, str], *always: str) -> None:
        self.job = job
        self.always = always
        self.victims = dict(victims)
        self.hit: list[tuple[str, str]] = []

    def __call__(self, event) -> None:
        for phase in [phase for phase in self.victims if PHASES[phase](event)]:
            victim = self.victims.pop(phase)
            name = f"{self.job.session}/{victim}" if victim in ACTORS else victim
            if self.job.kill(name) or (name in self.always and self._once_back(name)):
                self.hit.append((phase, victim))

    def _once_back(self, name: str) -> bool:
        """The phases before may lie so near that it is not yet born again."""
        return eventually(lambda: self.job.kill(name), what=f"{name} again")


@pytest.fixture
def lenient(instance: TestInstance) -> Iterator[Daemon]:
    """A daemon that forgives; with crash points, if a test writes them into `env` and starts it."""
    instance.config.write_text(LENIENT)
    daemon = Daemon(instance)
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.kill()


@pytest.mark.timeout(600)  # a dozen jobs; each has its own bound
def test_any_process_may_be_killed_in_any_phase(lenient: Daemon, tmp_path):
    """A Latin square: over all jobs each victim meets each phase, in each job each phase another
    victim."""
    lenient.start()
    hit = set()
    with lenient.client() as client:
        for i in range(len(VICTIMS)):
            job = Job(lenient, client, make_repo(tmp_path / str(i), QUICK))
            plan = Plan(
                job, {phase: VICTIMS[(i + n) % len(VICTIMS)] for n, phase in enumerate(PHASES)}
            )
            job.open().follow(plan)
            job.check_done()
            hit.update(plan.hit)
        # On a slow machine somebody may have been gone whenever its turn came: it gets jobs of its
        # own, where its turn is every phase.
        for victim in sorted(set(VICTIMS) - {victim for _, victim in hit}):
            job = Job(lenient, client, make_repo(tmp_path / victim, QUICK))
            plan = Plan(job, dict.fromkeys(PHASES, victim))
            job.open().follow(plan)
            job.check_done()
            hit.update(plan.hit)
    assert {victim for _, victim in hit} == set(VICTIMS)
    assert {phase for phase, _ in hit} == set(PHASES)


def test_the_gateway_may_be_killed_in_any_phase(lenient: Daemon, tmp_path):
    lenient.start()
    with lenient.client() as client:
        job = Job(lenient, client, make_repo(tmp_path / "repo", QUICK))
        plan = Plan(job, dict.fromkeys(PHASES, "gateway-1"), "gateway-1")
        job.open().follow(plan)
        job.check_done(gateway_died=True)
        assert len(plan.hit) == len(PHASES)


def nurseries(job):
    return job.processes("tools nursery")


def generations(job):
    parents = {process.pid for process in nurseries(job)}
    return [p for p in job.processes("tools generation") if p.ppid() in parents]


def calls(job):
    """Of tools that only read or compute a proposal. A command that is killed says so."""
    return [p for g in generations(job) for p in g.children(recursive=True)]


def all_below(job):
    return [p for nursery in nurseries(job) for p in [*nursery.children(recursive=True), nursery]]


@pytest.mark.parametrize("below", [nurseries, generations, calls, all_below])
def test_what_lives_below_the_tool_host_may_be_killed(below, lenient: Daemon, tmp_path):
    lenient.start()
    killed: list[int] = []
    with lenient.client() as client:
        for n in range(JOBS):  # one may be over before this process has looked
            job = Job(lenient, client, make_repo(tmp_path / str(n), QUICK))
            phases = [
                ("tool_call", "researcher-1"),
                ("tool_call", "coder-1"),
                ("edit_proposed", "team"),
                ("edit_approved", "team"),
            ]

            def on_event(event, job=job, phases=phases):
                here = event["type"], event["actor"].partition("/")[2]
                if here not in phases:
                    return
                with contextlib.suppress(psutil.NoSuchProcess):  # gone while it was listed
                    for process in below(job):
                        if strike(process):
                            killed.append(process.pid)
                phases.remove(here)

            job.open().follow(on_event)
            job.check_done()
            if killed or below is calls:
                break
    assert killed or below is calls


def test_nothing_survives_the_root_and_the_session_goes_on(lenient: Daemon, tmp_path):
    """In one session after another, at each phase."""
    lenient.start()
    job = Job(lenient, lenient.client(), make_repo(tmp_path / "repo", QUICK)).open()
    try:
        for phase in list(PHASES)[::2]:
            job.follow(until=PHASES[phase])
            job.client.close()
            lenient.kill()
            lenient.start()
            job.client = lenient.client()
        job.follow()
        job.check_done(gateway_died=True)
    finally:
        job.client.close()


# --- named instants ------------------------------------------------------------------------------

HOSTS = ("lead", "researcher-1", "coder-1", "reviewer", "keeper-1", "team", "tools")

POINTS = {
    "hub": [
        f"hub.{point}:{n}"
        for point in ("before_commit", "after_commit", "before_ack", "before_publish")
        for n in (7, 40, 90, 120)
    ],
    "hub in the steps of": [f"hub.before_ack@{name}:3" for name in (*HOSTS, "models", "gateway-1")],
    "host.before_step": [f"host.before_step@/{name}:2" for name in HOSTS],
    "host.after_step": [f"host.after_step@/{name}:2" for name in HOSTS],
    "host.after_commit": [f"host.after_commit@/{name}:2" for name in HOSTS],
    "models": [
        f"host.{point}@models:{n}"
        for point in ("before_step", "after_step", "after_commit")
        for n in (4, 17)
    ],
    "effects of tools": [
        f"host.{point}@/tools:{n}" for point in ("before_effect", "after_effect") for n in (1, 4, 9)
    ],
    "births": [
        *(f"child.before_ready@{name}:1" for name in (*HOSTS, "models", "hub")),
        *(f"template.before_fork@{name}:1" for name in ("/lead", "/coder-2", "/keeper-1", "/team")),
    ],
    "apply": [f"apply.{point}@tools:{n}" for point in ("before_rename", "after_rename")
              for n in (1, 3)],
    "gateway": [
        *(f"host.{point}@gateway-1:5" for point in ("before_step", "after_step", "after_commit")),
        *(f"host.{point}@gateway-1:6" for point in ("before_effect", "after_effect")),
        *(f"gateway.{point}@gateway-1:{n}" for point in ("before_call", "after_call")
          for n in (2, 9)),
        "child.before_ready@gateway-1:1",
    ],
    "root": [
        f"root.{point}@{name}:1"
        for point in ("before_fork", "after_fork")
        for name in ("template", "/team", "/coder-1")
    ],
}  # fmt: skip
JOBS = 4
"""Jobs in one daemon, at most, until all its points have fired."""


def test_each_point_is_in_the_matrix():
    from loomd.supervise.crash import POINTS as known

    named = {
        entry.partition(":")[0].partition("@")[0]
        for group in (*POINTS.values(), DEATHS)
        for entry in group
    }
    assert named == known


def waiting(folder: Path, entries: list[str]) -> list[str]:
    """Those entries that have not fired: a file per entry holds a byte per passage."""
    passed = {int(file.name.partition("-")[0]): file.stat().st_size for file in folder.iterdir()}
    return [
        entry for i, entry in enumerate(entries) if passed.get(i, 0) < int(entry.rpartition(":")[2])
    ]


@pytest.mark.timeout(300)  # half a dozen daemons, one after the other
@pytest.mark.parametrize("group", POINTS)
def test_each_named_instant_may_kill(group, lenient: Daemon, tmp_path):
    entries = POINTS[group]
    folder = lenient.instance.base / "crashes"
    folder.mkdir()
    lenient.env = {"LOOM_CRASH_AT": ",".join(entries), "LOOM_CRASH_DIR": str(folder)}
    if group == "root":
        run_through_roots(lenient, tmp_path, lambda: waiting(folder, entries))
        return
    lenient.start()
    with lenient.client() as client:
        for n in range(JOBS):
            job = Job(lenient, client, make_repo(tmp_path / str(n), QUICK)).open()
            job.follow()
            job.check_done(gateway_died=group == "gateway")
            if not waiting(folder, entries):
                return
    raise AssertionError(f"never fired: {waiting(folder, entries)}")


def run_through_roots(daemon: Daemon, tmp_path: Path, left) -> None:
    """The root kills itself again and again; whoever waits starts it again."""

    def revive() -> None:
        process = daemon.process
        if process is not None and process.poll() is not None:
            assert process.returncode == -signal.SIGKILL, daemon.tail()
            daemon.instance.killed = True
            daemon.process = None
            daemon.assert_nothing_left()
            daemon.start(ready=False)

    daemon.start(ready=False)
    client = Client(daemon.instance.places)
    job = Job(daemon, client, make_repo(tmp_path / "repo", QUICK), patience=2.0)
    try:

        def through() -> bool:
            revive()
            try:
                if not job.session:
                    client._count = 0  # said again it has the same id, so it is done once
                    job.open()
                job.new_events()
            except AssertionError:
                job.client.close()
                return False
            return job.events[-1]["type"] == "session_ended"

        eventually(through, 6 * BOUND_S, what=job.story)
        job.patience = BOUND_S
        job.check_done(gateway_died=True)
        assert not left()
    finally:
        job.client.close()
