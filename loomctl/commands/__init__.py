"""One file per noun; each offers click commands, listed here in the order of the contract.

`jobs`       run, and following a session to its end      `processes`  ps, tree, kill, restart
`sessions`   new send events sessions show stop pause ...  `boards`     tasks claims edits graph ...
`questions`  waiting approve deny answer                   `accounts`   usage, dead
`daemons`    daemon start stop restart upgrade status logs `code`       reload, tools, roles
`children`   child start terminate restart delete ...     `output`     logs
`undo`       taking back what a session has changed
`background` jobs
`demo`       the main job with a crash on the way          `bench`      figures on this machine
`doctor`     what this machine lacks, and the repair
`permissions` list test remove log                        `trust`      a project's own word
`models`     models, record
"""

from __future__ import annotations

import click

from loomctl.commands import (
    accounts,
    background,
    bench,
    boards,
    children,
    code,
    daemons,
    demo,
    doctor,
    jobs,
    models,
    output,
    permissions,
    processes,
    questions,
    sessions,
    trust,
    undo,
)

VERBS: list[click.Command] = [
    jobs.run,
    sessions.new,
    sessions.send,
    sessions.events,
    processes.ps,
    processes.tree,
    sessions.sessions,
    sessions.show,
    *sessions.CONTROLS,
    sessions.cancel,
    sessions.rm,
    processes.kill,
    processes.restart,
    children.child,
    output.logs,
    code.reload,
    code.tools,
    code.roles,
    models.models,
    models.record,
    *boards.BOARDS,
    background.jobs,
    boards.recall,
    boards.diff,
    undo.undo,
    questions.waiting,
    questions.approve,
    questions.deny,
    questions.answer,
    permissions.permissions,
    trust.trust,
    accounts.usage,
    accounts.dead,
    doctor.doctor,
    daemons.daemon,
    bench.bench,
    demo.demo,
]

NOT_YET: dict[str, str] = {
    "attach": "meanwhile: loomctl events SESSION --follow",
    "web": "meanwhile: loomctl events SESSION --follow",
    "config": "meanwhile: edit config.toml; the daemon checks it when it starts",
    "completion": "",
}
"""Verbs of the contract that are still to come, with what to do until then."""
