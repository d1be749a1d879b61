"""`[[supervisor]]`: what becomes of it, and what an error says about what is wrong."""

from __future__ import annotations

import json

import pytest

from loomd import boot
from loomd import settings as s
from loomd.supervise import spec

TREE = """
[[supervisor]]
id = "local"
strategy = "rest_for_one"
intensity = 3
period_s = 7
[[supervisor.child]]
id = "llama"
command = ["llama-server", "--port", "8001"]
cwd = "/srv"
env = { CUDA_VISIBLE_DEVICES = "0" }
restart = "transient"
shutdown_s = "kill"
ready = "tcp:127.0.0.1:8001"
ready_s = 90
nice = 5
memory_mb = 100
backoff_s = 0.5
backoff_max_s = 30
log_mb = 1
[[supervisor.child]]
id = "inner"
auto_shutdown = "any_significant"
[[supervisor.child.child]]
id = "job"
command = ["job"]
restart = "temporary"
significant = true
[[supervisor.child]]
id = "last"
command = ["last"]
shutdown_s = "infinity"

[[supervisor]]
id = "empty"
"""


def test_trees_become_specs_in_the_order_of_the_file():
    made = s.parse(TREE)
    local, empty = (spec.parse_supervisor(tree) for tree in made.supervisors)
    assert (local.id, local.strategy, local.intensity, local.period_s) == (
        "local",
        "rest_for_one",
        3,
        7.0,
    )
    assert (local.restart, local.shutdown_s) == ("transient", "infinity")
    llama, inner, last = local.children
    assert isinstance(llama, spec.WorkerSpec)
    assert llama.start == spec.Start(
        command=("llama-server", "--port", "8001"),
        service=True,
        cwd="/srv",
        env={"CUDA_VISIBLE_DEVICES": "0"},
        ready="tcp:127.0.0.1:8001",
        ready_s=90.0,
        nice=5,
        memory_mb=100,
        log_bytes=1 << 20,
    )
    assert (llama.restart, llama.shutdown_s, llama.backoff_s, llama.backoff_max_s) == (
        "transient",
        "kill",
        0.5,
        30.0,
    )
    assert isinstance(inner, spec.SupervisorSpec)
    assert (inner.restart, inner.auto_shutdown) == ("permanent", "any_significant")
    assert [child.id for child in inner.children] == ["job"] and inner.children[0].significant
    assert isinstance(last, spec.WorkerSpec)
    assert (last.restart, last.shutdown_s, last.start.ready) == ("permanent", "infinity", "none")
    assert empty.children == () and empty.intensity == 1


def test_the_trees_stand_under_services_where_they_cannot_move_the_daemon():
    made = s.parse(TREE)
    root = spec.parse_supervisor(boot.tree(made, {}))
    services = next(child for child in root.children if child.id == "services")
    assert isinstance(services, spec.SupervisorSpec)
    assert services.independent and services.restart == "transient"
    assert [child.id for child in services.children] == ["local", "empty"]


def test_what_a_service_is_given_is_told_to_nobody_else():
    made = s.parse('[[supervisor]]\nid="a"\n[[supervisor.child]]\nid="b"\ncommand=["b"]\n'
                   'env={KEY="sk-secret"}\n')  # fmt: skip
    assert "sk-secret" not in json.dumps(made.as_dict())


def child(line: str, *more: str, sup: str = "") -> str:
    """A config whose line 7 is `line`."""
    head = ["[[supervisor]]", 'id = "s"', sup, "[[supervisor.child]]", 'id = "c"']
    return "\n".join([*head, 'command = ["c"]', line, *more, ""])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("supervisor = 3\n", ":1: supervisor: must be an array of tables"),
        ("[supervisor]\n", ":1: supervisor: must be an array of tables"),
        ("[[supervisor]]\n", ":1: supervisor.id: must be there"),
        ('[[supervisor]]\nid = "hub"\n', ":2: supervisor.id: must be another name"),
        ('[[supervisor]]\nid = "s-12ab34"\n', ":2: supervisor.id: must be another name"),
        ('[[supervisor]]\nid = "preflight"\n', ":2: supervisor.id: must be another name"),
        ('[[supervisor]]\nid = "s-12ab34.lead"\n', ":2: supervisor.id: must be another name"),
        ('[[supervisor]]\nid = "a/b"\n', ":2: supervisor.id: must be a name"),
        ('[[supervisor]]\nid = "a"\n[[supervisor]]\n\nid = "a"\n', ":5: supervisor.id: must be un"),
        ('[[supervisor]]\nid = "a"\nstrategy = "all"\n', ":3: supervisor.strategy: must be one of"),
        ('[[supervisor]]\nid = "a"\nintensity = -1\n', ":3: supervisor.intensity: must be a whole"),
        ('[[supervisor]]\nid = "a"\nperiod_s = 0\n', ":3: supervisor.period_s: must be a time"),
        ('[[supervisor]]\nid = "a"\nperod_s = 1\n', ":3: supervisor.perod_s: unknown key"),
        ('[[supervisor]]\nid = "a"\nchild = 1\n', ":3: supervisor.child: must be an array"),
        (child('id = "d"'), ":7: not TOML"),
        (child("restart = true"), ":7: supervisor.child.restart: must be one of 'permanent'"),
        (child('shutdown_s = "soon"'), ":7: supervisor.child.shutdown_s: must be a time in sec"),
        (child('cwd = "here"'), ":7: supervisor.child.cwd: must be an absolute path"),
        (child("env = { A = 1 }"), ":7: supervisor.child.env.A: must be a string, not int"),
        (child("", "[supervisor.child.env]", "A = 1"), ":9: supervisor.child.env.A: must be a str"),
        (child('env = { "A-B" = "1" }'), ":7: supervisor.child.env: must be of names"),
        (child('ready = "port:1"'), ':7: supervisor.child.ready: must be "notify", "tcp:'),
        (child('ready = "tcp:example.org:80"'), ":7: supervisor.child.ready: must be"),
        (child('ready = "tcp:127.0.0.1:99999"'), ":7: supervisor.child.ready: must be"),
        (child('ready = "line:("'), "missing )"),
        (child("ready_s = 0"), ":7: supervisor.child.ready_s: must be a time in seconds"),
        (child("log_mb = 0"), ":7: supervisor.child.log_mb: must be a size"),
        (child("backoff_s = 9", "backoff_max_s = 1"), ":8: supervisor.child.backoff_max_s: must"),
        (child("significant = true"), ":7: supervisor.child.significant: must be false where res"),
        (
            child("significant = true", 'restart = "transient"'),
            ":7: supervisor.child.significant: must be false where its supervisor has no auto",
        ),
        (
            child("significant = true", sup='auto_shutdown = "any_significant"'),
            ":7: supervisor.child.significant: must be false where restart",
        ),
        (
            child("", "[[supervisor.child]]", 'id = "d"'),
            ":8: supervisor.child.command: must be there: a list of words",
        ),
        (
            child("", "[[supervisor.child]]", 'id = "d"', 'command = "d"'),
            ":10: supervisor.child.command: must be a list of words",
        ),
        (
            child("", "[[supervisor.child]]", 'id = "d"', 'strategy = "one_for_all"',
                  "[[supervisor.child.child]]", 'id = "c"', 'command = ["c"]'),
            ":12: supervisor.child.child.id: must be unique",
        ),
        (
            child("", "[[supervisor]]", 'id = "t"', "[[supervisor.child]]", 'id = "e"',
                  'command = ["e"]', "nice = 99"),
            ":13: supervisor.child.nice: must be a whole number",
        ),
    ],
)  # fmt: skip
def test_an_error_names_file_line_key_and_what_would_be_right(text, said):
    with pytest.raises(s.ConfigError) as wrong:
        s.parse(text, "/c/config.toml")
    assert wrong.value.message.startswith("/c/config.toml:")
    assert said in wrong.value.message
    assert wrong.value.exit_code == 8
