"""A client of the hub: requests that happen once, and an event log without gaps.

One `Client` is one attachment. It survives a restart of the hub: it says Hello again, resends what
was not answered, and the hub answers a resend from its journal.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from loomctl import daemon
from loomctl.answers import Answers
from loomd.wire import codec, sockets, topics
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    PROTOCOL,
    ClientHello,
    ClientPong,
    ClientWelcome,
    Delta,
    Event,
    Failure,
    FromClient,
    Reply,
    Request,
)

HELLO_S = 0.25
"""A Hello without a Welcome for this long is said again: the hub may be restarting."""

QUIET_S = 0.25
"""A request without an answer for this long is said again, with its id, so it is done once."""

REFUSED_S = 2.0
"""A refused token may be the file of a predecessor; after this long it is ours that is wrong."""

LOG_S = 1.0
"""So often, at least, the log itself is read while it is followed."""

ANSWERS_S = 5.0
"""For the text so far of answers under way."""

PAGE = 500
"""Events asked for at once."""


class Client:
    """Attached to one instance. Use as a context manager."""

    def __init__(self, instance: Instance, *, start: bool = True) -> None:
        instance.check()
        self.instance = instance
        self.id = f"c-{os.getpid()}-{secrets.token_hex(4)}"
        self.welcome: ClientWelcome | None = None
        self._requests = 0
        self._started: subprocess.Popen[bytes] | None = None
        self._log_from = 0  # what is before this in the daemon's log was said by others
        if not daemon.running(instance):
            if not start:
                raise LoomError(
                    "no_daemon", "no daemon runs on this instance", "start it: loomctl daemon start"
                )
            self._log_from = daemon.log_size(instance)
            self._started = daemon.start(instance)
        self._socket = sockets.make_dealer(instance.clients, self.id)
        self._sub: sockets.Socket | None = None
        self._topics: set[str] = set()
        self._answering: dict[str, Answers] = {}  # session -> what was had of its answers
        try:
            self._greet(time.monotonic() + daemon.START_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        if self._sub is not None:
            self._sub.close()
            self._sub = None
            self._topics.clear()
        if self._started is not None:
            # It is detached and goes on; we only stop being told of it as our child.
            self._started.returncode = self._started.poll() or 0

    # --- requests ------------------------------------------------------------------------------

    def request(self, op: str, /, *, wait_s: float = 60.0, **args: Any) -> Any:
        """The value of one call. Raises LoomError with the hub's code, or `timeout`."""
        self._requests += 1
        request = Request(id=str(self._requests), op=op, args=args)
        self._send(request)
        deadline = time.monotonic() + wait_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LoomError(
                    "timeout",
                    f"the hub did not answer `{op}` within {wait_s:.0f} s",
                    "look at the daemon's log: " + str(self.instance.log_file),
                )
            message = self._receive(min(left, QUIET_S))
            match message:
                case None:
                    # A new hub knows neither us nor the request. Both are safe to say again.
                    self._gone()
                    self._greet(deadline)
                    self._send(request)
                case Reply(id=request.id, value=value):
                    return value
                case Failure(id="" | request.id, code="auth"):
                    # A hub that started since our Hello; it names the request that it refused.
                    self._greet(deadline)
                    self._send(request)
                case Failure(id=request.id, code=code, message=text, hint=hint):
                    raise LoomError(code, text, hint)
                case Failure(id="", code=code, message=text, hint=hint):
                    raise LoomError(code, text, hint)
                case _:
                    continue  # a late answer to something that was given up

    def _send(self, message: FromClient) -> None:
        raw = codec.encode(message)
        if len(raw) > codec.SOFT_LIMIT:
            raise LoomError("too_large", f"a request of {len(raw)} bytes is over the limit", "")
        with contextlib.suppress(sockets.Again):  # no hub at the moment: said again later
            self._socket.send(raw, sockets.NOBLOCK)

    def _receive(self, seconds: float) -> Any:
        if not self._socket.poll(max(1, int(seconds * 1000))):
            return None
        return codec.to_client(self._socket.recv())

    def _greet(self, deadline: float) -> None:
        """Hello until Welcome. A token that is wrong is the file of a predecessor: read again."""
        refused_since = 0.0
        while time.monotonic() < deadline:
            if self._started is not None and (status := self._started.poll()) is not None:
                if daemon.running(self.instance):
                    self._started = None  # another one was quicker
                else:
                    raise daemon.failure(self.instance, status, self._log_from)
            token = self._token()
            if not token:
                self._gone()
                time.sleep(0.005)
                continue
            self._send(ClientHello(token=token, client=self.id, protocol=PROTOCOL))
            until = time.monotonic() + HELLO_S
            while (left := until - time.monotonic()) > 0:
                match self._receive(left):
                    case ClientWelcome() as welcome:
                        self.welcome = welcome
                        return
                    case Failure(code="auth", message=text, hint=hint):
                        refused_since = refused_since or time.monotonic()
                        late = time.monotonic() - refused_since > REFUSED_S
                        # (We may have been stopped: it is the file of now that has to be wrong.)
                        if late and token == self._token():
                            raise LoomError("auth", text, hint)
                        time.sleep(0.005)
                        break
                    case ClientPong() | None:
                        break
                    case _:
                        continue
            self._gone()
        raise LoomError(
            "daemon_failed",
            f"a daemon (pid {daemon.pid(self.instance)}) holds the instance but does not answer",
            f"see {self.instance.log_file}, or end it: kill {daemon.pid(self.instance)}",
        )

    def _token(self) -> str:
        """What the file says now, "" if it is not there."""
        try:
            return self.instance.token_file.read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise LoomError("auth", f"cannot read {error.filename}: {error.strerror}", "") from None

    def _gone(self) -> None:
        """Raises if no daemon is left that could answer, and none is about to come."""
        if self._started is not None or daemon.running(self.instance):
            return
        if not daemon.comes_back(self.instance):
            raise LoomError("no_daemon", "the daemon has stopped", "start it: loomctl daemon start")

    # --- events --------------------------------------------------------------------------------

    def events(self, session: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """What is in the log now, after sequence `after`, in order."""
        while True:
            page = self.request("events", session=session, after=after, limit=PAGE)
            yield from page["events"]
            if page["events"]:
                after = page["events"][-1]["seq"]
            if not page["more"]:
                return

    def _answers(self, session: str, have: dict[str, int]) -> Any:
        """What gateways have of a session's answers. One that hangs is not waited for: all of an
        answer is in the log when it has ended."""
        try:
            return self.request("streams", session=session, have=have, wait_s=ANSWERS_S)
        except LoomError as error:
            if error.code not in ("timeout", "unknown_op"):  # or a daemon older than we are
                raise
            return {"deltas": [], "more": False}

    def follow(
        self,
        session: str,
        after: int = 0,
        *,
        until: float | None = None,
        idle: Callable[[], None] = lambda: None,
        on_delta: Callable[[dict[str, Any]], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The log from `after` on, for ever: snapshot, then live, each event once and in order.

        What is published may be lost, so it is only a hint: at a gap, and once a second, the log
        itself is read, after a call of `idle`. Ends at monotonic time `until`.

        `on_delta` gets what is in no log and may be lost: pieces of outputs, and of answers, these
        from the beginning of what is under way and without a hole (loomctl.answers).
        """
        wanted = [topics.events(session)]
        if on_delta is not None:
            wanted.append(topics.deltas(session))
        if self._sub is None:
            self._sub = sockets.make_sub(self.instance.events)
        for topic in wanted:
            if topic not in self._topics:
                self._topics.add(topic)
                self._sub.subscribe(topic)
        answers = self._answering.get(session)
        if answers is None:
            answers = self._answering[session] = Answers(lambda have: self._answers(session, have))
            if on_delta is not None:
                for piece in answers.catch_up():
                    on_delta(piece)
        while until is None or time.monotonic() < until:
            idle()
            for event in self.events(session, after):
                after = event["seq"]
                yield event
            fresh, read = True, time.monotonic()
            while fresh and (until is None or time.monotonic() < until):
                fresh = False
                while self._sub.poll(1000):
                    match codec.published(self._sub.recv_multipart()[-1]):
                        case Event(session=of, seq=seq) as live if of == session:
                            if seq <= after:
                                continue
                            if seq != after + 1:
                                fresh = False
                                break  # a gap: read the log
                            after = seq
                            fresh = True
                            yield as_json(live)
                        case Delta(topic=topic, data=data) if topic == topics.deltas(session):
                            if on_delta is not None:
                                for piece in answers.take(data):
                                    on_delta(piece)
                        case Delta() | Event():
                            continue
                    now = time.monotonic()
                    if until is not None and now >= until:
                        break
                    if now >= read + LOG_S:
                        fresh = False  # others' output never pauses: read the log all the same
                        break


def as_json(event: Event) -> dict[str, Any]:
    """An event in the shape of `loomctl events`."""
    return {
        "seq": event.seq,
        "ts": event.ts,
        "type": event.type,
        "actor": event.actor,
        "cause": event.cause,
        "data": event.data,
    }
