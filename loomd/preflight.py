"""`loomd --preflight`: whether this code, as it is on disk, can take over from a running root.

A process of its own below that root, which hands it its frozen self (`loomd.supervise.handover`).
Nothing is changed: everything that the upgrade will import is imported, everything that it will
decode is decoded, and the verdict goes back on the link. A module that is broken in a way that ends
this process before it can speak is a verdict too.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from loomd import boot
from loomd import settings as settings_of
from loomd.actor.behaviour import Spec
from loomd.store.env import Store
from loomd.store.tables import actor_row
from loomd.supervise import handover
from loomd.supervise.freeze import FreezeError
from loomd.supervise.link import ChildLink
from loomd.supervise.spec import SpecError, SupervisorSpec, WorkerSpec, parse_supervisor
from loomd.wire import codec
from loomd.wire.endpoints import Instance
from loomd.wire.errors import LoomError


def main() -> int:
    """Says what it has found, then that it is ready; the exit status is 0 either way."""
    link = ChildLink.from_env()
    verdict: dict[str, Any] = {"op": "preflight", "ok": True}
    try:
        check()
    except LoomError as error:
        verdict |= {"ok": False, "code": error.code, "reason": error.message, "hint": error.hint}
    except BaseException as error:  # noqa: BLE001 - whatever new code does when it is touched
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        verdict |= {"ok": False, "code": "failed", "reason": reason[:2000]}
    link.send(verdict)
    link.ready()
    return 0


def check() -> None:
    """Raises LoomError, or whatever broken code raises."""
    frozen = _frozen()
    args = frozen["base_args"]
    settings = settings_of.load(Path(args["config"]))
    generation = frozen["upgrade"]["generations"]["number"] + 1
    try:
        tree = parse_supervisor(boot.tree(settings, {}, generation))
    except SpecError as error:
        raise LoomError("failed", f"the tree of the new code is none: {error}") from error
    _import_all(tree)
    _only_one_thread()
    places = Instance(
        config=Path(args["config"]),
        state=Path(args["state_dir"]),
        runtime=Path(args["runtime_dir"]),
    )
    _state(places)


def _frozen() -> dict[str, Any]:
    try:
        frozen = handover.received()
        if frozen is None:
            raise LoomError("usage", "--preflight is called by a root, with its state")
        handover.check(frozen)
    except FreezeError as error:
        raise LoomError("failed", f"the new code cannot read the running root: {error}") from error
    return frozen


def _import_all(tree: SupervisorSpec) -> None:
    """What templates import, and every entry point, of those that are started on demand too."""
    workers = [child for child in tree.children if isinstance(child, WorkerSpec)]
    for worker in workers:
        for module in worker.start.preload:
            _imported(module)
    entries = {worker.start.entry for worker in workers if worker.start.entry}
    ahead = {worker.start.ahead for worker in workers if worker.start.ahead}
    for named in sorted(entries | ahead | {*boot.ENTRIES.values(), *boot.BEHAVIOURS.values()}):
        _named(named)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except BaseException as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        raise LoomError("failed", f"{module} cannot be imported: {said}"[:2000]) from error


def _named(entry: str) -> Any:
    module, _, name = entry.partition(":")
    found = getattr(_imported(module), name, None)
    if not callable(found):
        raise LoomError("failed", f"{module} has no {name}")
    return found


def _only_one_thread() -> None:
    """A template forks: a thread that a module starts when it is imported would be lost."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise LoomError(
            "failed", f"{threads} threads after the imports: templates must not fork so"
        )


def _state(places: Instance) -> None:
    """The schema is ours or older, and what every actor has saved can be read."""
    store = Store.survey(places)
    try:
        with store.reading() as txn:
            rows = [(key[:-1].decode(), bytes(raw)) for key, raw in txn.scan("actors", b"")]
    finally:
        store.close()
    _actors(rows)


def _actors(rows: Iterable[tuple[str, bytes]]) -> None:
    behaviours: dict[str, Any] = {}
    for name, raw in rows:
        try:
            row = actor_row.decode(raw)
            spec = msgspec.msgpack.decode(row.spec, type=Spec)
        except msgspec.MsgspecError as error:
            raise LoomError("bad_state", f"the row of {name} cannot be read: {error}") from error
        if row.wanted == "ended" or row.state is None or spec.kind not in boot.BEHAVIOURS:
            continue
        if spec.kind not in behaviours:
            behaviours[spec.kind] = _named(boot.BEHAVIOURS[spec.kind])()
        _saved(name, row.version, codec.unpack(row.state), behaviours[spec.kind])


def _saved(name: str, version: int, saved: Any, behaviour: Any) -> None:
    version = version or behaviour.version
    if version > behaviour.version:
        raise LoomError(
            "bad_state",
            f"{name} has saved version {version}, the new code knows {behaviour.version}",
            "upgrade to code that is not older than what runs",
        )
    if version == behaviour.version:
        return
    try:
        behaviour.upgrade(saved, version)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise LoomError(
            "failed", f"what {name} has saved (version {version}) cannot be upgraded: {said}"[:2000]
        ) from error
