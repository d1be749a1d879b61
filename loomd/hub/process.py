"""The hub's process: one loop over two ROUTERs, the XPUB, the link to the root and the writer.

A frame becomes a job; when the writer has made it durable, the loop acknowledges, delivers and
publishes what follows from it. The loop itself only reads the state.

Exit statuses: 0 stopped in order, or the root is gone; 1 the store is broken (a successor starts
from what is on disk); 71 stopped in order for newer code; 73 no room to start; 74 this state cannot
be served (newer, no permission).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NoReturn, assert_never

import setproctitle
import structlog

from loomd.hub import configured, gateways, mail, reconcile
from loomd.hub.aside import Aside
from loomd.hub.calls import Calls
from loomd.hub.checks import Checks
from loomd.hub.clients import Clients
from loomd.hub.commits import MAX_BODY
from loomd.hub.intake import Intake, Refusals
from loomd.hub.mail import Batch
from loomd.hub.opening import daemon_specs, open_state, places_of
from loomd.hub.orders import FROM_CLIENT
from loomd.hub.peers import HELD_S, Asks, Held, Peer, Peers
from loomd.hub.publish import Publisher
from loomd.hub.pulse import Pulse
from loomd.hub.rootline import RootLine
from loomd.hub.rules import HUB, OVER, Result, Rules
from loomd.hub.timers import Timers
from loomd.hub.writer import RETRY_S, Dethroned, Job, Writer, finish
from loomd.store.env import DiskFull, Store, StoreError
from loomd.store.migrate import NewerSchema
from loomd.store.schema import session_of
from loomd.supervise.crash import crash_point
from loomd.supervise.link import LinkClosed, ProcessBirth
from loomd.supervise.spec import CANNOT_START, COULD_NOT_START, NORMAL, UPGRADED
from loomd.wire import codec, sockets, topics
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    PROTOCOL,
    Answer,
    Answered,
    Ask,
    Asked,
    Commit,
    Fenced,
    Hello,
    Pong,
    Publish,
    Refused,
    Retry,
    TimerFired,
)

TURN: Final = 256
"""Frames of actors taken per turn of the loop, before clients and the link have theirs."""

TICK_S: Final = 1.0
LINGER_S: Final = 30.0
"""How long an actor of a session that is over stays for the next ask."""

QUEUE: Final = 10_000
"""Frames kept for one peer that does not read, or is not read: far beyond a host's window. Who
fills it has no token, hangs or floods us, and must not have our memory for that."""

SWITCH_S: Final = 0.0005
"""How long a thread may keep the interpreter: the writer must not wait 5 ms after each fsync."""

FOR_READING: Final = frozenset({"keeper", "tools"})
"""Kinds that an ask wakes even while their session has failed: to look something up in it."""

FROM_HUB: Final = b"\0h"
"""Route of an ask of the hub's own."""

log = structlog.get_logger()


def token_of(secret: str, name: str, incarnation: int) -> str:
    """What an incarnation says in its Hello."""
    message = f"{name}#{incarnation}".encode()
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()[:32]


def client_token(secret: str) -> str:
    """What clients say: the same for all hubs of one root, so that they outlive a hub."""
    return hmac.new(secret.encode(), b"clients", hashlib.sha256).hexdigest()


class CommitJob(Job):
    """The hot path: no closures."""

    __slots__ = ("commit", "hub", "identity")

    def __init__(self, hub: Hub, identity: bytes, commit: Commit) -> None:
        self.hub = hub
        self.identity = identity
        self.commit = commit
        self.name = commit.actor
        self.result = None
        self.why = ("", "")

    def apply(self, batch: Batch) -> Result:
        return batch.commit(self.commit)

    def then(self, result: Result) -> None:
        self.hub.committed(self, result)

    def failed(self, code: str, detail: str) -> None:
        if code == "disk_full":
            frame: Any = Retry(step=self.commit.step, reason="disk_full", after_s=RETRY_S)
            self.hub.counters["disk_full"] += 1
            self.hub.no_room.add(self.name)
        else:
            frame = Refused(code=code, detail=detail[:500], step=self.commit.step)
            self.hub.counters["refused"] += 1
        self.hub.say(self.identity, frame)


class Hub:
    """One incarnation of the hub. Everything in it belongs to the loop's thread."""

    def __init__(
        self,
        birth: ProcessBirth,
        store: Store,
        rules: Rules,
        epoch: int,
        settings: dict[str, Any],
    ) -> None:
        args = birth.args
        self.birth = birth
        self.store = store
        self.rules = rules
        self.epoch = epoch
        self.places = places_of(args)
        self.settings = settings
        self.settings_base = configured.base_of(args.get("settings") or {})
        self.config_error = ""  # of the file as it was read last
        self.secret = str(args.get("secret", ""))
        self.version = str(args.get("version", "0"))
        self.containment = str(args.get("containment", ""))
        self.root_pid = int(args.get("root_pid") or os.getppid())
        self.generation = int(args.get("package_generation") or 0)
        self.started = time.time()
        self.counters: Counter[str] = Counter()
        self.no_room: set[str] = set()  # actors whose commit waits for room on the disk
        self.peers = Peers()
        self.asks = Asks()
        self.calls = Calls()
        self.checks = Checks()
        self.timers = Timers()
        self.stopping = False
        self.upgraded = False  # it stops for a successor on newer code
        self.trial = birth.trial
        self._published: list[tuple[str, bytes]] = []
        self._asked_here: dict[str, Callable[[Answered], None]] = {}
        self._ids = 0
        self.root = RootLine(
            self,
            reconcile.Births(
                entries=args.get("entries") or {},
                own=frozenset(
                    spec.name for spec in daemon_specs(args) if spec.kind != gateways.KIND
                ),
                gateway_template=str(args.get("gateway_template") or "actors"),
            ),
        )
        self.check_readers = False
        self._next_tick = 0.0
        self._later: list[Callable[[], None]] = []
        self._pulse = Pulse(self)

        runtime = self.places.runtime
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.client_token = self._token()
        self.actors = sockets.make_router(self.places.actors, queue=QUEUE)
        self.refusals = Refusals(self.counters)
        self.intake = Intake(
            "actors",
            self.actors,
            codec.from_actor,
            lambda code, detail, hint: Refused(code=code, detail=detail),
            self.say,
            self.refusals,
        )
        self.publisher = Publisher(sockets.make_xpub(self.places.events))
        self.clients = Clients(
            self, sockets.make_router(self.places.clients, queue=QUEUE, fd=birth.listen_fd)
        )
        self.writer = Writer(store, rules)
        self.writer.start()
        self.aside = Aside()
        with store.reading() as txn:
            for name, key, due, body in mail.due_timers(txn):
                self.timers.arm(name, key, due, body)

    def _token(self) -> str:
        """What clients say: the file that the root made for this boot, else one of our own."""
        path = self.places.token_file
        with contextlib.suppress(FileNotFoundError):
            if said := path.read_text().strip():
                return said
        token = client_token(self.secret)
        temporary = path.with_suffix(f".{os.getpid()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(token)
        os.rename(temporary, path)
        return token

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the root says stop. Raises LinkClosed, StoreError, Dethroned."""
        link = self.birth.link
        link.send({"op": "epoch", "epoch": self.epoch, "notes": True})
        self.root.which(None)
        poller = sockets.Poller()
        for socket in (self.publisher.socket, self.clients.socket):
            poller.register(socket, sockets.POLLIN)
        for fd in (self.writer.fd, self.aside.fd):
            poller.register(fd, sockets.POLLIN)
        poller.register(link.fileno(), sockets.POLLIN)
        waiting = hearing = False
        self._pulse.begin()
        while not self.stopping:
            self._pulse.beat()
            if hearing is not self.root.heard:
                hearing = True
                poller.register(self.actors, sockets.POLLIN)
            if link.waiting is not waiting:
                waiting = link.waiting
                poller.modify(link.fileno(), sockets.POLLIN | (sockets.POLLOUT if waiting else 0))
            ready = dict(poller.poll(self._timeout()))
            if self.writer.fd in ready:
                self._results()
            if self.aside.fd in ready:
                self.aside.results()
            if self.actors in ready:
                self._frames()
            if link.fileno() in ready:
                self.root.receive()
            if self.publisher.socket in ready:
                self.publisher.subscriptions()
            if self.clients.socket in ready:
                self.clients.turn()
            self._due()
        self._pulse.end()

    def _timeout(self) -> int:
        longest = int(min(TICK_S, self._pulse.every_s) * 1000)
        soonest = self.timers.soonest()
        if soonest is None:
            return longest
        return max(0, min(longest, int((soonest - time.time()) * 1000) + 1))

    def close(self) -> None:
        """After an orderly stop: everything queued is written and said."""
        self.writer.stop()
        with contextlib.suppress(StoreError):
            self._results()
        self.writer.close()
        self.aside.close()
        self.actors.close()
        self.clients.socket.close()
        self.publisher.socket.close()
        self.store.close()

    # --- actors: in ----------------------------------------------------------------------------

    def _frames(self) -> None:
        for identity, message in self.intake.messages(TURN):
            if type(message) is Commit:
                self._commit(identity, message)
                continue
            match message:
                case Hello():
                    self._hello(identity, message)
                case Ask():
                    self._ask(identity, message)
                case Answer():
                    self._answer(identity, message)
                case Publish():
                    self._publish(identity, message)
                case Pong() | Commit():
                    pass
                case _:
                    assert_never(message)

    def _hello(self, identity: bytes, hello: Hello) -> None:
        expected = token_of(self.secret, hello.actor, hello.incarnation)
        if not hmac.compare_digest(expected.encode(), hello.token.encode()):
            self.intake.refuse(identity, "auth", f"the token of {hello.actor!r} is wrong")
            return
        if identity.partition(b"~")[0] != f"{hello.actor}#{hello.incarnation}".encode():
            self.intake.refuse(identity, "auth", "the socket's identity is not name#incarnation")
            return
        if hello.protocol != PROTOCOL:
            self.intake.refuse(
                identity, "bad_request", f"protocol {hello.protocol}, not {PROTOCOL}"
            )
            return
        # The root told of its predecessor's death before this one was born: that goes first, or the
        # fence has moved on and nobody is blamed.
        self.root.receive()
        self.submit(
            lambda batch: batch.hello(hello),
            lambda result: self._welcomed(identity, hello, result),
            hello.actor,
            # Unanswered: the host says it again.
            failed=lambda code, detail: self._not_stored("hello", code, detail),
        )

    def _commit(self, identity: bytes, commit: Commit) -> None:
        peer = self.peers.by_identity.get(identity)
        if peer is None:
            # Sent to a predecessor of this hub: the host says Hello and then this again.
            self.counters["unwelcomed"] += 1
            return
        if commit.actor != peer.name or commit.incarnation != peer.incarnation:
            self.intake.refuse(identity, "auth", f"a commit of {commit.actor!r} from {peer.name}")
            return
        self.writer.put(CommitJob(self, identity, commit))

    def _ask(self, identity: bytes, ask: Ask) -> None:
        peer = self.peers.by_identity.get(identity)
        if peer is None:
            self.counters["unwelcomed"] += 1
            return
        if peer.session and session_of(ask.to) not in (peer.session, ""):
            self.answered(
                identity, Answered(id=ask.id, error="no_such_actor", detail="of another session")
            )
            return
        self.ask(identity, ask.id, peer.name, ask.to, ask.body)

    def _answer(self, identity: bytes, answer: Answer) -> None:
        peer = self.peers.by_identity.get(identity)
        if peer is None or not self.asks.answered(peer.name, answer.route, answer.id):
            self.counters["late_answer"] += 1
            return
        if len(answer.body) > MAX_BODY:
            detail = f"the answer of {peer.name} has {len(answer.body)} bytes"
            self.answered(answer.route, Answered(id=answer.id, error="too_large", detail=detail))
            return
        self.answered(
            answer.route,
            Answered(
                id=answer.id, body=answer.body, error=answer.error, detail=answer.detail[:2000]
            ),
        )

    def _publish(self, identity: bytes, publish: Publish) -> None:
        peer = self.peers.by_identity.get(identity)
        if peer is None:
            self.counters["unwelcomed"] += 1
            return
        topic = publish.topic
        own = topics.deltas(peer.session) if peer.session else "d/"
        if topic != topics.STATUS and not topic.startswith(own):
            self.intake.refuse(
                identity, "bad_request", f"{peer.name} may not publish {topic[:80]!r}"
            )
            return
        if publish.data.get("type") == "call" and not peer.session:
            self.calls.note(peer.name, publish.data)
        self.publisher.delta(topic, peer.name, publish.data)

    # --- actors: out ---------------------------------------------------------------------------

    def say(self, identity: bytes, frame: Any) -> None:
        """One frame to an actor. One that is gone hears nothing; its death is noted elsewhere."""
        try:
            self.actors.send_to(identity, codec.encode(frame))
        except sockets.Unreachable:
            self.counters["unreachable"] += 1

    def _raw(self, peer: Peer, frame: bytes) -> None:
        try:
            self.actors.send_to(peer.identity, frame)
        except sockets.Unreachable:
            self.counters["unreachable"] += 1

    def _welcomed(self, identity: bytes, hello: Hello, result: Result) -> None:
        self.say(identity, result.reply)
        if result.known is None:
            log.info("hello.fenced", actor=hello.actor, incarnation=hello.incarnation)
            self.follow(result)
            return
        name = hello.actor
        before = self.peers.by_name.get(name)
        if before is not None and before.incarnation != hello.incarnation:
            self.asks_died(name, f"{name} was restarted")
        peer = Peer(name, session_of(name), hello.incarnation, identity, result.known)
        peer.used = time.monotonic()
        self.peers.add(peer)
        self.timers.forget(name)
        self.follow(result)
        self._fill(peer)
        for key in self.timers.due_of(name, time.time()):
            self._fire(name, key)
        for held in self.asks.release(name):
            self.ask(held.route, held.id, held.sender, name, held.body)

    def _fill(self, peer: Peer) -> None:
        """Sends what waits in the mailbox, control first, as far as the window allows."""
        for lane in (0, 1):
            room = peer.room(lane)
            if not room:
                continue
            with self.store.reading() as txn:
                waiting = mail.mailbox(txn, peer.name, lane, peer.cursor[lane], room)
            peer.read(lane, [seq for seq, _ in waiting], room)
            for _, frame in waiting:
                self._raw(peer, frame)

    def committed(self, job: CommitJob, result: Result) -> None:
        """A commit is durable, or was refused."""
        crash_point("hub.before_ack", job.name)
        self.no_room.discard(job.name)
        reply = result.reply
        self.say(job.identity, reply)
        if type(reply) is Refused:
            self.counters["refused"] += 1
            log.warning("commit.refused", actor=job.name, code=reply.code, detail=reply.detail)
        elif type(reply) is Fenced:
            self.counters["fenced"] += 1
        self.follow(result)

    def follow(self, result: Result) -> None:
        """Says and does what follows from a durable job."""
        by_name = self.peers.by_name
        for to, lane, seq, frame in result.mails:
            peer = by_name.get(to)
            if peer is not None and peer.offered(lane, seq):
                self._raw(peer, frame)
        consumed = result.consumed
        if consumed is not None:
            peer = by_name.get(consumed[0])
            if peer is not None:
                peer.consumed(consumed[1])
                if peer.room(0) or peer.room(1):
                    self._fill(peer)
        for name, key, due, body in result.timers:
            self.timers.arm(name, key, due, body)
        if result.status is not None:
            name, state, waiting_for, since = result.status
            self.publisher.delta(
                topics.STATUS,
                name,
                {"name": name, "state": state, "waiting_for": waiting_for, "since": since},
            )
        for name in result.ended:
            self.root.end(name)
        for session in result.over:
            log.info("session.over", session=session)
            self.root.tell({"op": "end_session", "session": session})
            for name in self.rules.members.get(session, ()):
                self.asks_died(name, f"{session} is over", held=False)
        for name in result.wake:
            self.root.ensure(name)
        for name in result.bounced:
            self.root.tell({"op": "restart", "name": name})
        for raw in result.told:
            self.checks.told(raw)
        self._published += result.events

    def _results(self) -> None:
        jobs = self.writer.results()
        for job in jobs:
            finish(job)
        if jobs and self.trial:
            self.trial = False
            self.root.tell({"op": "settled"})
        if self._published:
            crash_point("hub.before_publish")
            events, self._published = self._published, []
            for session, frame in events:
                self.publisher.event(session, frame)

    # --- asks ----------------------------------------------------------------------------------

    def ask(self, route: bytes, id: str, sender: str, to: str, body: bytes) -> None:
        """Relays an ask. Its callee asleep or on its way: woken, and the ask is kept until then."""
        if len(body) > MAX_BODY:  # with its route it would not fit the callee's frame
            detail = f"a question of {len(body)} bytes is over {MAX_BODY}"
            self.answered(route, Answered(id=id, error="too_large", detail=detail))
            return
        peer = self.peers.by_name.get(to)
        if peer is not None:
            peer.used = time.monotonic()
            self.asks.asked(to, route, id)
            self.say(peer.identity, Asked(route=route, id=id, sender=sender, body=body))
            return
        row = self.rules.actors.get(to)
        if row is None or row.wanted == "ended":
            self.answered(route, Answered(id=id, error="no_such_actor", detail=f"no actor {to!r}"))
            return
        if row.halted and self.rules.known[to].kind not in FOR_READING:
            said = f"{session_of(to)} has failed; go on with: loomctl resume {session_of(to)}"
            self.answered(route, Answered(id=id, error="bad_state", detail=said))
            return
        held = Held(time.monotonic() + HELD_S, route, id, sender, body)
        if not self.asks.hold(to, held):
            self.answered(route, Answered(id=id, error="limit", detail="too many asks wait"))
            return
        if row.wanted == "asleep":
            self.submit(lambda batch: batch.wake(to), self.follow, to)

    def ask_here(self, to: str, body: bytes, then: Callable[[Answered], None]) -> None:
        """The hub's own ask."""
        self._ids += 1
        id = f"h{self._ids}"
        self._asked_here[id] = then
        self.ask(FROM_HUB, id, HUB, to, body)

    def answered(self, route: bytes, answer: Answered) -> None:
        """An answer to wherever its ask came from."""
        if route == FROM_CLIENT:
            self.clients.orders.answered(answer)
        elif route == FROM_HUB:
            then = self._asked_here.pop(answer.id, None)
            if then is not None:
                then(answer)
        else:
            self.say(route, answer)

    def asks_died(self, name: str, why: str, *, held: bool = False) -> None:
        """Also the calls of models that a gateway had."""
        self.calls.gone(name)
        for route, id in self.asks.died(name):
            self.answered(route, Answered(id=id, error="actor_died", detail=why))
        if held:
            for one in self.asks.release(name):
                self.answered(one.route, Answered(id=one.id, error="no_such_actor", detail=why))

    # --- timers --------------------------------------------------------------------------------

    def _due(self) -> None:
        for name, key in self.timers.due(time.time()):
            self._fire(name, key)
        tick = time.monotonic()  # the wall clock may be set back by hours
        if tick >= self._next_tick:
            self._next_tick = tick + TICK_S
            self._tick()

    def _fire(self, name: str, key: str) -> None:
        peer = self.peers.by_name.get(name)
        if peer is not None:
            if self.timers.tell(name, key):
                due, body = self.timers.of(name, key)
                self.say(peer.identity, TimerFired(key=key, due=due, body=body))
            return
        row = self.rules.actors.get(name)  # not there: it gets them all when it is welcomed
        if row is not None and row.wanted == "asleep":
            self.submit(lambda batch: batch.due(name), self.follow, name)

    def _settle(self) -> None:
        """Sends to sleep whoever an ask or late mail woke in a session that is over."""
        before = time.monotonic() - LINGER_S
        names = [
            peer.name
            for peer in self.peers.by_name.values()
            if peer.session
            and peer.used < before
            and (row := self.rules.sessions.get(peer.session)) is not None
            and row.state in OVER
            and self.rules.awake(peer.name)
            and not self.asks.open.get(peer.name)
        ]
        if names:
            self.submit(lambda batch: batch.settle(names), self.follow, "settle")

    def _tick(self) -> None:
        self._pulse.tell()
        self._settle()
        for to, held in self.asks.expired(time.monotonic()):
            self.answered(
                held.route,
                Answered(id=held.id, error="timeout", detail=f"{to} did not start in time"),
            )
        later, self._later = self._later, []
        for submit in later:
            submit()
        self.clients.orders.look()
        if self.check_readers:
            self.check_readers = False
            self.store.reader_check()

    # --- jobs ----------------------------------------------------------------------------------

    def submit(
        self,
        apply: Callable[[Batch], Result],
        then: Callable[[Result], None],
        name: str = "",
        failed: Callable[[str, str], None] | None = None,
    ) -> None:
        self.writer.put(
            Job(
                apply,
                then,
                failed or (lambda code, detail: self._again(apply, then, name, code, detail)),
                name,
            )
        )

    def _again(
        self,
        apply: Callable[[Batch], Result],
        then: Callable[[Result], None],
        name: str,
        code: str,
        detail: str,
    ) -> None:
        """The hub's own jobs are repeated until there is room again."""
        self._not_stored(name, code, detail)
        if code == "disk_full":
            self._later.append(lambda: self.submit(apply, then, name))

    def _not_stored(self, what: str, code: str, detail: str) -> None:
        self.counters[code] += 1
        log.error("job.failed", job=what, code=code, detail=detail)


def main(birth: ProcessBirth) -> None:
    """The hub's whole life. Returns at an orderly stop, else exits the process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    setproctitle.setproctitle("loomd: hub")
    sys.setswitchinterval(SWITCH_S)
    try:
        store, rules, epoch, settings = open_state(birth)
    except DiskFull as error:
        _leave(birth, COULD_NOT_START, f"the disk is full: {error}")
    except NewerSchema as error:
        _leave(birth, CANNOT_START, f"{error.message}; {error.hint}")
    except LoomError as error:
        _leave(birth, CANNOT_START, error.message)
    try:
        hub = Hub(birth, store, rules, epoch, settings)
        birth.link.ready()
        if birth.trial:
            birth.link.send({"op": "loaded"})
        log.info("hub.ready", epoch=epoch, actors=len(rules.actors), sessions=len(rules.sessions))
        hub.run()
        hub.close()
    except LinkClosed:
        os._exit(NORMAL)
    except (StoreError, Dethroned) as error:
        _leave(birth, 1, f"{type(error).__name__}: {error}")
    log.info("hub.stopped", epoch=epoch, upgraded=hub.upgraded)
    _flush()
    os._exit(UPGRADED if hub.upgraded else NORMAL)


def _leave(birth: ProcessBirth, status: int, reason: str) -> NoReturn:
    log.critical("hub.ends", status=status, reason=reason)
    with contextlib.suppress(LinkClosed):
        birth.link.send({"op": "crash", "traceback": reason[:16_000]})
    _flush()
    os._exit(status)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
