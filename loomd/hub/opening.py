"""A hub begins: the state opened, a new epoch, the rows of the daemon's own actors."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Final

from loomd.actor.behaviour import Spec
from loomd.hub import accounts, configured, gateways, roles, supervision
from loomd.hub.mail import Batch
from loomd.hub.rules import Rules, begin_epoch, read_spec
from loomd.store.env import Store
from loomd.supervise.link import ProcessBirth
from loomd.wire.endpoints import Instance

SPEC_FIELDS: Final = frozenset(Spec.__struct_fields__)


def places_of(args: dict[str, Any]) -> Instance:
    """The instance that a process was born into."""
    return Instance(
        config=Path(str(args.get("config", ""))),
        state=Path(str(args["state_dir"])),
        runtime=Path(str(args["runtime_dir"])),
    )


def open_state(birth: ProcessBirth) -> tuple[Store, Rules, int, dict[str, Any]]:
    """Opens the state, begins a new epoch, makes the rows of the daemon's own actors. The last part
    is the settings in force."""
    args = birth.args
    settings = args.get("settings") or {}
    crashes = (settings.get("supervision") or {}).get("poison_crashes", 3)
    store = Store.writer(places_of(args), **(args.get("store") or {}))
    rules = Rules(poison_crashes=int(crashes))
    with store.writing() as txn:
        rules.epoch = begin_epoch(txn)
        rules.load(txn)
        batch = Batch(rules, txn, time.time())
        batch.begin()
        own = daemon_specs(args)
        for spec in own:
            batch.respec(spec)
        fresh = supervision.begin_boot(txn, birth.boot)
        gateways.use(batch, own, fresh=fresh)
        settings = configured.settings_in_force(txn, settings, fresh=fresh)
        # Before the first agent is born.
        repos = {row.repo for row in rules.sessions.values() if row.repo and not row.removed}
        roles.take(batch, roles.look(places_of(args), repos))
        if fresh:
            when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(batch.now))
            supervision.daemon_restarted(batch, birth.boot, when)
        accounts.sum_up(txn)
        batch.flush()
    rules.adopt(batch)
    store.reader_check()
    record_generation(places_of(args).generation_file, int(args.get("package_generation") or 0))
    return store, rules, rules.epoch, settings


def record_generation(path: Path, number: int) -> None:
    """Makes the number of the code in force durable: the next start of the daemon goes on from it,
    so that no number ever means two things. 0: there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        if int(path.read_text()) == number:
            return
    if number:
        new = path.with_name(path.name + ".new")
        with open(new, "w") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)


def daemon_specs(args: dict[str, Any]) -> list[Spec]:
    """The daemon's own actors, as the root's tree has them."""
    values = args.get("daemon_specs") or ()
    return [read_spec({k: v for k, v in one.items() if k in SPEC_FIELDS}) for one in values]
