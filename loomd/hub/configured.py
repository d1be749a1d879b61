"""What of the configuration is put in force while the daemon runs: what models are asked with, and
what calls of tools may do.

It stands in table `config`, so that whoever is born takes it from there, and gateways with each
call; models, agents and tool hosts that run are told by mail in the same transaction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loomd import plainfile
from loomd import settings as settings_of
from loomd.hub.rules import HUB, MODELS
from loomd.hub.toolsets import sessions_at_work
from loomd.store.schema import name_key
from loomd.wire import codec
from loomd.wire.bodies import Configured
from loomd.wire.errors import LoomError
from loomd.wire.messages import CONTROL

if TYPE_CHECKING:
    from loomd.hub.mail import Batch
    from loomd.hub.process import Hub
    from loomd.hub.rules import Result

Done = Callable[[Any], None]

MAX_CONFIG: Final = 1 << 20

LIVE: Final = ("models", "providers", "budget", "permissions")
"""Tables of the configuration that are put in force while the daemon runs."""

TOLD: Final = ("agent", "tools")
"""Kinds of actors that are told of them, beside `models`."""

SETTINGS: Final = name_key("settings")
"""Row of table `config`: {base, generation, tables}. base: of what the root had read, of which
`tables` is newer; another root's settings are newer still."""


def read(path: Path) -> settings_of.Settings:
    """The settings in a file that must be there. Raises LoomError(config)."""
    large = LoomError("config", f"{path}: is no file of at most {MAX_CONFIG} bytes")
    try:
        with plainfile.opened(path) as (file, status):
            if status.st_size > MAX_CONFIG:
                raise large
            raw = file.read(MAX_CONFIG)
    except OSError as error:
        raise LoomError("config", f"{path}: cannot be read: {error.strerror}") from None
    except plainfile.NotPlainError:
        raise large from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise LoomError("config", f"{path}: is not UTF-8: {error}") from None
    return settings_of.parse(text, str(path))


def reload_models(hub: Hub, done: Done) -> None:
    """Puts the tables `LIVE` of the configuration in force: for requests that are not performed
    yet, for agents and for the next calls of tools; those under way end as they began. A faulty
    file changes nothing."""
    if not hub.places.config.exists():
        done({"generation": hub.generation, "loaded": [], "changed": [], "errors": []})
        return
    try:
        settings = read(hub.places.config)
    except LoomError as error:
        _config_broken(hub, done, error)
        return
    hub.config_error = ""
    take_settings(
        hub,
        json.loads(json.dumps(settings.as_dict())),
        lambda changed: done(
            changed
            if isinstance(changed, LoomError)
            else {
                "generation": hub.generation,
                "loaded": list(LIVE),
                "changed": changed,
                "errors": [],
            }
        ),
    )


def _config_broken(hub: Hub, done: Done, error: LoomError) -> None:
    said = error.message + (f" ({error.hint})" if error.hint else "")
    answer = {
        "generation": hub.generation,
        "loaded": [],
        "changed": [],
        "errors": [{"module": "config", "error": said}],
    }
    if hub.config_error == said:
        done(answer)
        return
    hub.config_error = said
    sessions = [row.session for row in sessions_at_work(hub)]

    def apply(batch: Batch) -> Result:
        result = batch.begin()
        for session in sessions:
            batch.event(session, "config_broken", HUB, {"error": said[:2000]})
        return result

    def then(result: Result) -> None:
        hub.follow(result)
        done(answer)

    hub.submit(apply, then, "config", lambda code, detail: done(answer))


def take_settings(hub: Hub, new: Mapping[str, Any], then: Done) -> None:
    """Puts what has changed in the tables `LIVE` in force; `then` gets their names."""
    changed = [table for table in LIVE if new.get(table) != hub.settings.get(table)]
    if not changed:
        then([])
        return
    tables = {table: new.get(table) for table in LIVE}
    sessions = [row.session for row in sessions_at_work(hub)]

    def apply(batch: Batch) -> Result:
        result = batch.begin()
        raw = batch.txn.get("config", SETTINGS)
        number = 1 if raw is None else int(codec.unpack(raw)["generation"]) + 1
        row = {"base": hub.settings_base, "generation": number, "tables": tables}
        batch.txn.put("config", SETTINGS, codec.pack(row))
        body = codec.encode(Configured(settings=tables))
        for name, actor in batch.rules.actors.items():
            if actor.wanted == "running" and (name == MODELS or batch.known(name).kind in TOLD):
                batch.deliver(name, CONTROL, f"{HUB}/settings.{number}", HUB, body)
        for session in sessions:
            data = {"generation": number, "changed": changed}
            batch.event(session, "config_reloaded", HUB, data)
        return result

    def applied(result: Result) -> None:
        hub.settings = {**hub.settings, **tables}
        hub.follow(result)
        then(changed)

    hub.submit(apply, applied, "settings", lambda code, detail: then(LoomError(code, detail)))


def base_of(settings: Mapping[str, Any]) -> str:
    """What the root has read, in short."""
    live = {table: settings.get(table) for table in LIVE}
    return hashlib.sha256(json.dumps(live, sort_keys=True).encode()).hexdigest()


def settings_in_force(txn: Any, settings: Mapping[str, Any], *, fresh: bool) -> dict[str, Any]:
    """The settings that a hub begins with. `fresh`: this daemon has just started, so that it has
    read the file later than anybody. A row that is older than what the root has read goes."""
    raw = txn.get("config", SETTINGS)
    if raw is None:
        return dict(settings)
    row = codec.unpack(raw)
    if fresh or row["base"] != base_of(settings):
        txn.delete("config", SETTINGS)
        return dict(settings)
    return {**settings, **row["tables"]}
