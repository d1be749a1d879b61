"""The supervisor's calls and another configuration, as the hub takes them from a client."""

from __future__ import annotations

import os

import pytest

from loomd.hub import children, configured
from loomd.wire.errors import LoomError
from tests.support import RequestFailed, eventually

SESSION = "s-child0"


def test_an_actor_that_is_terminated_has_ended_for_good(daemon):
    """The root's child is a cache of the state: stopped there alone, it would be started again."""
    name = f"{SESSION}/a"
    with daemon.client() as client:
        client.request("spawn", spec={"name": name, "kind": "echo", "session": SESSION})

        def pid() -> int | None:
            rows = [row for row in client.request("ps") if row["name"] == name]
            return rows[0]["pid"] if rows else None

        eventually(pid, what="it runs")
        agents = client.request("child", call="which", id=f"{SESSION}/agents")["result"]
        assert [(row["id"], row["pid"]) for row in agents] == [(name, pid())]
        assert client.request("child", call="terminate", id=name) == {"id": name, "result": "ok"}
        assert client.request("fetch_state", name=name)["wanted"] == "ended"
        eventually(lambda: pid() is None, what="it is gone")
        assert client.request("child", call="terminate", id=name)["result"] == "ok"
        assert client.request("child", call="restart", id=name)["result"] == "not_found"
        old = client.request("status")["hub_pid"]
        client.request("kill", name="hub")
        eventually(lambda: client.request("status")["hub_pid"] != old, what="another hub")
        assert pid() is None
        with pytest.raises(RequestFailed, match="no call 'stop'"):
            client.request("child", call="stop", id=name)


def test_a_configuration_that_is_no_file_of_a_sane_size_is_refused(tmp_path):
    path = tmp_path / "config.toml"
    with pytest.raises(LoomError, match="No such file"):
        configured.read(path)
    os.mkfifo(path)
    with pytest.raises(LoomError, match="is no file"):
        configured.read(path)
    path.unlink()
    path.write_bytes(b"\xff")
    with pytest.raises(LoomError, match="not UTF-8"):
        configured.read(path)
    path.write_bytes(b"#" * (configured.MAX_CONFIG + 1))
    with pytest.raises(LoomError, match="is no file"):
        configured.read(path)
    path.write_text('[[supervisor]]\nid = "a"\n')
    assert [tree["id"] for tree in configured.read(path).supervisors] == ["a"]


def test_what_is_no_actor_has_a_kind_all_the_same():
    names = ("hub", "template", "template-litellm", "llama", "hub-of-mine")
    assert [children.kind_of(name) for name in names] == [
        "hub",
        "template",
        "template",
        "service",
        "service",
    ]
