"""The clients' ROUTER: who may ask, what they may ask, and that each request is answered once.

`OPS` is the whole list. Reads (`queries`) are answered at once from the state; journaled requests
(`requests`) become jobs of the writer; calls (`orders`) wait for the root or an actor. Arguments
are checked against the signature of the operation; unknown ones are ignored, so that a newer client
can talk to an older hub. Every reply fits a frame.
"""

from __future__ import annotations

import hmac
import inspect
import os
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec
import structlog

from loomd.hub import checkouts, requests, roles
from loomd.hub.intake import Intake
from loomd.hub.orders import Done, Orders
from loomd.hub.queries import Queries
from loomd.hub.rules import HUB, Result
from loomd.store.env import StoreError
from loomd.wire import codec, sockets
from loomd.wire.errors import LoomError
from loomd.wire.messages import (
    PROTOCOL,
    ClientHello,
    ClientPing,
    ClientPong,
    ClientWelcome,
    Failure,
    Reply,
    Request,
)

if TYPE_CHECKING:
    from loomd.hub.process import Hub

TURN: Final = 4
"""Requests taken per turn of the loop: a page each, so that no client stalls the commits."""

MAX_CLIENTS: Final = 10_000
REMEMBERED: Final = 1000
"""Calls whose outcome is kept for a resend."""

log = structlog.get_logger()


class Clients:
    """The clients' ROUTER and what it can be asked. Belongs to the hub's loop."""

    def __init__(self, hub: Hub, socket: sockets.Socket) -> None:
        self.hub = hub
        self.socket = socket
        self.queries = Queries(hub)
        self.orders = Orders(hub, self.queries)
        self._intake = Intake(
            "clients",
            socket,
            codec.from_client,
            lambda code, detail, hint: Failure(id="", code=code, message=detail, hint=hint),
            lambda identity, frame: self._send(identity, codec.encode(frame)),
            hub.refusals,
        )
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._called: OrderedDict[tuple[str, str], list[Any]] = OrderedDict()

    def turn(self) -> None:
        """Takes a few frames."""
        for identity, message in self._intake.messages(TURN):
            match message:
                case ClientHello():
                    self._hello(identity, message)
                case ClientPing():
                    self._send(
                        identity,
                        codec.encode(ClientPong(nonce=message.nonce, epoch=self.hub.epoch)),
                    )
                case Request():
                    self._request(identity, message)
                case _:
                    assert_never(message)

    def _hello(self, identity: bytes, hello: ClientHello) -> None:
        if not hmac.compare_digest(self.hub.client_token.encode(), hello.token.encode()):
            self._intake.refuse(identity, "auth", "the token is wrong", "read the token file again")
            return
        if hello.protocol != PROTOCOL:
            self._intake.refuse(
                identity, "bad_request", f"protocol {hello.protocol}, this daemon has {PROTOCOL}"
            )
            return
        if not hello.client or len(hello.client) > 200:
            self._intake.refuse(identity, "bad_request", "a client's id has 1 to 200 characters")
            return
        self._known[identity] = hello.client
        self._known.move_to_end(identity)
        if len(self._known) > MAX_CLIENTS:
            self._known.popitem(last=False)
        self._send(
            identity,
            codec.encode(
                ClientWelcome(
                    epoch=self.hub.epoch,
                    version=self.hub.version,
                    protocol=PROTOCOL,
                    generation=self.hub.generation,
                )
            ),
        )

    def _request(self, identity: bytes, request: Request) -> None:
        client = self._known.get(identity)
        if client is None:
            self.hub.counters["auth"] += 1
            error = LoomError("auth", "say Hello first")
            self._send(identity, requests.failure(request.id, error))
            return
        operation = OPS.get(request.op)
        try:
            if operation is None:
                raise LoomError("unknown_op", f"no operation {request.op!r}")
            args = operation.checked(request.args)
            if request.op == "dead" and args["action"] == "list":
                self._reply(identity, request.id, self.queries.dead())
            elif operation.journaled:
                self._journal(identity, client, request, args)
            elif operation.call:
                self._call(identity, client, request, operation, args)
            else:
                self._reply(identity, request.id, operation.function(self.queries, **args))
        except LoomError as error:
            self.hub.counters["failed_request"] += 1
            self._send(identity, requests.failure(request.id, error))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - what one client asks must not end all sessions
            self._send(identity, requests.failure(request.id, self._defect(request.op, error)))

    def _defect(self, what: str, error: Exception) -> LoomError:
        """An error of our own while serving one client: logged, and told to that client."""
        self.hub.counters["internal"] += 1
        log.error("client.failed", op=what, error=traceback.format_exc())
        return LoomError("internal", f"{type(error).__name__}: {error}"[:500])

    # --- journaled -----------------------------------------------------------------------------

    def _journal(
        self, identity: bytes, client: str, request: Request, args: dict[str, Any]
    ) -> None:
        if request.op == "open_session":
            args |= checkouts.prepared(self.hub.places, args["repo"])
            # Its agents find them: this job comes before the one that opens the session.
            roles.reload_roles(self.hub, lambda said: None, [args["repo"]])
        request = Request(id=request.id, op=request.op, args=args)

        def then(result: Result) -> None:
            self._send(identity, result.reply)
            self.hub.follow(result)

        def failed(code: str, detail: str) -> None:
            hint = "free some space" if code == "disk_full" else ""
            self.hub.counters[code] += 1
            self._send(identity, requests.failure(request.id, LoomError(code, detail, hint)))

        self.hub.submit(
            lambda batch: requests.perform(batch, client, request), then, request.op, failed
        )

    # --- calls ---------------------------------------------------------------------------------

    def _call(
        self,
        identity: bytes,
        client: str,
        request: Request,
        operation: Operation,
        args: dict[str, Any],
    ) -> None:
        """Something that is answered later. A resend waits for the same outcome."""
        key = client, request.id
        entry = self._called.get(key)
        if entry is not None:
            entry[0] = identity
            if entry[1] is not None:
                self._send(identity, entry[1])
            return
        entry = self._called[key] = [identity, None]
        if len(self._called) > REMEMBERED:
            self._called.popitem(last=False)

        def done(value: Any) -> None:
            if isinstance(value, LoomError):
                frame = requests.failure(request.id, value)
            else:
                frame = self._frame(request.id, value)
            if operation.changes:
                entry[1] = frame
            else:
                self._called.pop(key, None)
            self._send(entry[0], frame)

        def perform() -> None:
            operation.function(self.orders, done, **args)

        try:
            if operation.keyed:
                args["key"] = f"{client}/{request.id}"
            if request.op in ("kill", "restart") and args["name"] == HUB:
                self._own_end(client, request, done, perform)
            else:
                perform()
        except LoomError as error:
            done(error)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_request`; a resend must not wait for it
            done(self._defect(request.op, error))

    def _own_end(
        self, client: str, request: Request, done: Done, perform: Callable[[], None]
    ) -> None:
        """A request that ends this very hub is answered by its successor, which gets it again and
        must not end itself too: that it was made is journaled before it is done."""
        me = {"name": HUB, "pid": os.getpid(), "incarnation": self.hub.birth.incarnation}

        def then(result: Result) -> None:
            if result.value is None:
                perform()
            else:
                done(result.value if request.op == "kill" else me)

        self.hub.submit(
            lambda batch: requests.intend(batch, client, request, me),
            then,
            request.op,
            lambda code, detail: done(LoomError(code, detail)),
        )

    # --- out -----------------------------------------------------------------------------------

    def _frame(self, id: str, value: Any) -> bytes:
        raw = codec.encode(Reply(id=id, value=value))
        if len(raw) > codec.SOFT_LIMIT:
            error = LoomError("too_large", f"the reply has {len(raw)} bytes", "ask for less")
            return requests.failure(id, error)
        return raw

    def _reply(self, identity: bytes, id: str, value: Any) -> None:
        self._send(identity, self._frame(id, value))

    def _send(self, identity: bytes, frame: bytes) -> None:
        try:
            self.socket.send_to(identity, frame)
        except sockets.Unreachable:  # it went away, or takes nothing: it will ask again
            self.hub.counters["client_gone"] += 1


class Operation:
    """One entry of OPS: its function, its arguments, and how it is answered."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        journaled: bool = False,
        call: bool = False,
        changes: bool = False,
        keyed: bool = False,
    ) -> None:
        self.keyed = keyed  # it gets the client's and the request's id
        self.function = function
        self.journaled = journaled
        self.call = call
        self.changes = changes
        skipped = 2 if journaled or call else 1  # batch and id; self and done; self
        signature = inspect.signature(function, eval_str=True)
        fields: list[Any] = []
        for parameter in list(signature.parameters.values())[skipped:]:
            field: tuple[Any, ...] = parameter.name, parameter.annotation
            if parameter.default is not parameter.empty:
                field = (*field, parameter.default)
            fields.append(field)
        self._struct = msgspec.defstruct(function.__name__, fields, kw_only=True)

    def checked(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments, checked, with defaults. LoomError(bad_request)."""
        try:
            value = msgspec.convert(args, self._struct)
        except msgspec.ValidationError as error:
            raise LoomError("bad_request", f"arguments: {error}") from None
        return {name: getattr(value, name) for name in self._struct.__struct_fields__}


OPS: Final[dict[str, Operation]] = {
    name: Operation(function, journaled=True) for name, function in requests.OPS.items()
} | {
    "status": Operation(Queries.status),
    "events": Operation(Queries.events),
    "sessions": Operation(Queries.sessions),
    "session": Operation(Queries.session),
    "board": Operation(Queries.board),
    "tools": Operation(Queries.tools),
    "roles": Operation(Queries.roles),
    "job": Operation(Queries.job),
    "waiting": Operation(Queries.waiting),
    "permissions": Operation(Queries.permissions),
    "project": Operation(Queries.project),
    "trust": Operation(Orders.trust, call=True, changes=True),
    "usage": Operation(Queries.usage),
    "attempts": Operation(Queries.attempts),
    "diff": Operation(Queries.diff),
    "fetch_state": Operation(Queries.fetch_state),
    "ps": Operation(Orders.ps, call=True),
    "tree": Operation(Orders.tree, call=True),
    "kill": Operation(Orders.kill, call=True, changes=True),
    "restart": Operation(Orders.restart, call=True, changes=True),
    "child": Operation(Orders.child, call=True, changes=True),
    "ask": Operation(Orders.ask, call=True),
    "streams": Operation(Orders.streams, call=True),
    "models": Operation(Orders.models, call=True, changes=True, keyed=True),
    "record": Operation(Orders.record, call=True),
    "reload": Operation(Orders.reload, call=True, changes=True, keyed=True),
    "watched": Operation(Orders.watched, call=True),
    "upgrade": Operation(Orders.upgrade, call=True, changes=True, keyed=True),
    "shutdown": Operation(Orders.shutdown, call=True, changes=True),
}
"""Everything a client can ask for."""
