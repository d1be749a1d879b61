"""Where the links in a call's paths lead: looked up right before it is made."""

from __future__ import annotations

import os
from dataclasses import replace

from loomd.tools.facts import Call
from loomd.tools.permissions import paths_of
from loomd.tools.protected import Ground
from loomd.tools.shellenv import judged
from loomd.wire.bodies import ToolCall
from loomd.wire.endpoints import Instance


def ground(at: Instance, repo: str = "/") -> Ground:
    """Where things are on this machine, for judging paths."""
    real = os.path.realpath
    return Ground(
        repo, real(os.path.expanduser("~")), real(at.state), real(at.runtime), real(at.config)
    )


def found(call: ToolCall, ground: Ground) -> dict[str, str]:
    """Absolute path -> where it leads, for each path of the call in which a link is."""
    ground = replace(ground, cwd=judged(call.cwd))
    real = {path: os.path.realpath(path) for path in paths_of(Call(call.name, call.args), ground)}
    return {path: place for path, place in real.items() if place != path}
