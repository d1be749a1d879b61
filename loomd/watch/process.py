"""The process `watch`: changes of files in, `reload` to the hub out.

A client of the hub that is supervised by the root. It never waits for an answer: a newer save must
not wait for an older one whose import hangs. What the hub or this process has missed is made good
by one reload of everything when the two meet again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

import setproctitle
import structlog

from loomd.supervise.link import LinkClosed, ProcessBirth
from loomd.supervise.spec import NORMAL, UPGRADED
from loomd.trust import files as trust_files
from loomd.watch.plan import PARTS, ROLES, TOOLS, Settling, targets
from loomd.watch.tree import Tree
from loomd.wire import codec, sockets
from loomd.wire.endpoints import Instance
from loomd.wire.messages import ClientHello, ClientWelcome, Failure, Reply, Request

HELLO_S: Final = 0.25
"""A Hello without an answer for this long is said again: there is no hub just now."""

WATCHED: Final = "watched"
"""Id of the question for the repos to watch, which is answered when they are others."""

log = structlog.get_logger()


class Watch:
    """One incarnation. Owned by its only thread. `tree` None: the kernel gives us no inotify; it
    still asks for what a start makes good."""

    def __init__(self, birth: ProcessBirth, places: Instance, tree: Tree | None) -> None:
        self.birth = birth
        self.places = places
        self.tree = tree
        self.client = f"watch-{birth.incarnation}"
        self.socket = sockets.make_dealer(places.clients, self.client)
        self.settling = Settling()
        self.repos: list[str] = []
        self.count = 0
        self.epoch = 0
        self.hello_at: float | None = 0.0  # monotonic; None: we are welcome
        self.status = -1

    def run(self) -> int:
        """Until the root says stop; the exit status. LinkClosed."""
        self._plan()
        poller = sockets.Poller()
        for fd in (self.birth.link.fileno(), self.socket, *([self.tree.fd] if self.tree else [])):
            poller.register(fd, sockets.POLLIN)
        while self.status < 0:
            now = time.monotonic()
            if self.hello_at is not None and self.hello_at <= now:
                self._hello(now)
            ready = dict(poller.poll(self._timeout(now)))
            if self.birth.link.fileno() in ready:
                self._orders()
            if self.socket in ready:
                self._answers()
            if self.tree is not None and self.tree.fd in ready:
                self.settling.changed(self.tree.read(), time.monotonic())
            if self.hello_at is None:
                for part in self.settling.take(time.monotonic()):
                    self._ask("reload", what=part, saved=True)
        self.socket.close()
        if self.tree is not None:
            self.tree.close()
        return self.status

    def _timeout(self, now: float) -> int | None:
        """Milliseconds."""
        due = [one for one in (self.hello_at,) if one is not None]
        if self.hello_at is None and (settled := self.settling.next()) is not None:
            due.append(settled)
        return max(0, int((min(due) - now) * 1000) + 1) if due else None

    # --- the root ------------------------------------------------------------------------------

    def _orders(self) -> None:
        while (order := self.birth.link.receive()) is not None:
            match order.get("op"):
                case "stop":
                    self.status = NORMAL
                case "upgrade":
                    self.status = UPGRADED
                case "epoch" if order.get("epoch") != self.epoch:
                    self.hello_at = 0.0

    # --- the hub -------------------------------------------------------------------------------

    def _hello(self, now: float) -> None:
        self.hello_at = now + HELLO_S
        try:
            token = self.places.token_file.read_text().strip()
        except OSError:
            return
        self._send(ClientHello(token=token, client=self.client))

    def _ask(self, op: str, /, id: str = "", **args: Any) -> None:
        self.count += 1
        self._send(Request(id=id or str(self.count), op=op, args=args))

    def _send(self, message: ClientHello | Request) -> None:
        try:
            self.socket.send(codec.encode(message), sockets.NOBLOCK)
        except sockets.Again:
            self.hello_at = self.hello_at or time.monotonic() + HELLO_S

    def _answers(self) -> None:
        while (frames := self.socket.receive_nowait()) is not None:
            match codec.to_client(frames[0]):
                case ClientWelcome(epoch=epoch):
                    self._welcome(epoch)
                case Reply(id=id, value={"repos": [*repos]}) if id.startswith(WATCHED):
                    self._watch(repos)
                case Failure(code="auth"):
                    self.hello_at = self.hello_at or time.monotonic() + HELLO_S
                case Failure(code=code, message=said):
                    log.warning("refused", code=code, reason=said)
                case _:
                    pass  # of reloads: the sessions that they concern have been told

    def _welcome(self, epoch: int) -> None:
        if self.hello_at is None and epoch == self.epoch:
            return
        self.epoch, self.hello_at = epoch, None
        if self.birth.trial:
            self.birth.link.send({"op": "loaded"})
            self.birth.link.send({"op": "settled"})
        self.settling.changed(PARTS, time.monotonic())
        self._watched()

    def _watched(self) -> None:
        self.count += 1
        self._ask("watched", id=f"{WATCHED}-{self.count}", known=self.repos)

    def _watch(self, repos: list[str]) -> None:
        """Others than before. What was saved there before we watched is made good."""
        self.repos = [str(repo) for repo in repos]
        self._plan()
        self.settling.changed(PARTS, time.monotonic())
        self._watched()

    def _plan(self) -> None:
        if self.tree is None:
            return
        trust = {str(path): (TOOLS, ROLES) for path in trust_files(self.places)}
        self.tree.watch(targets(str(self.places.config), self.repos, trust))
        if self.tree.unwatched:
            log.error(
                "not watched",
                paths=self.tree.unwatched[:10],
                hint="raise fs.inotify.max_user_watches; `loomctl reload` does without",
            )


def main(birth: ProcessBirth) -> NoReturn:
    """Entry point."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    setproctitle.setproctitle("loomd: watch")
    args = birth.args
    places = Instance(Path(args["config"]), Path(args["state_dir"]), Path(args["runtime_dir"]))
    birth.link.ready()
    status = NORMAL
    with contextlib.suppress(LinkClosed):  # the root is dead
        status = Watch(birth, places, _tree()).run()
    sys.stderr.flush()
    os._exit(status)


def _tree() -> Tree | None:
    try:
        return Tree()
    except OSError as error:
        hint = "raise fs.inotify.max_user_instances; `loomctl reload` does without"
        log.error("nothing is watched", error=str(error), hint=hint)
        return None
