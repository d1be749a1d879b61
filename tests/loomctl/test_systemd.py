"""The units as text and files. What systemd makes of them is tested in system/test_systemd.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loomctl import systemd
from loomd.wire import endpoints
from loomd.wire.errors import LoomError
from tests.support import TestInstance

REPO = Path(__file__).parents[2]
HOME = Path("/home/me")


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_units_in_the_repository_are_those_of_the_usual_instance():
    usual = endpoints.instance({"HOME": str(HOME), "XDG_RUNTIME_DIR": "/run/user/7"})
    made = systemd.units(usual, "loomd", "%h/.local/bin/loomd", HOME, 7)
    assert made == {path.name: path.read_text() for path in (REPO / "systemd").iterdir()}
    assert "Environment=" not in "".join(made.values())


def test_another_instance_is_named_in_its_environment_and_keeps_its_own_places():
    places = endpoints.Instance(Path("/c/a b.toml"), Path("/s/50%"), Path("/r"))
    made = systemd.units(places, "other", "/x/loomd", HOME, 7)
    service = lines(made["other.service"])
    assert 'Environment="LOOM_CONFIG=/c/a b.toml"' in service
    assert "Environment=LOOM_STATE_DIR=/s/50%%" in service
    assert "Environment=LOOM_RUNTIME_DIR=/r" in service
    assert "Requires=other.socket" in service and "Also=other.socket" in service
    assert not any(line.startswith("RuntimeDirectory") for line in service)
    assert "ListenStream=/r/clients" in lines(made["other.socket"])


def test_a_path_that_cannot_stand_in_a_unit_is_refused():
    places = endpoints.Instance(Path("/c"), Path("/s\nExecStart=/bin/evil"), Path("/r"))
    with pytest.raises(LoomError, match="cannot stand in a unit"):
        systemd.units(places, "loomd", "/x", HOME, 7)


def test_the_reason_of_a_refusal_is_read_from_the_journal_line():
    said = systemd._facts('code=config reason="a \\"b\\" c=d" hint=e')
    assert said == {"code": "config", "reason": 'a "b" c=d', "hint": "e"}


class Home:
    """A user's home, where no systemctl is to be found."""

    def __init__(self, base: Path, instance: TestInstance) -> None:
        self.base = base
        self.instance = instance
        (base / "bin").mkdir()
        self.units = base / ".config" / "systemd" / "user"

    def loomctl(self, *args: str, code: int = 0, **env: str):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "LOOM_"))}
        places = {k: v for k, v in self.instance.environment().items() if k.startswith("LOOM_")}
        done = subprocess.run(
            [sys.executable, "-m", "loomctl", "--json", *args],
            env={**kept, **places, "HOME": str(self.base), "PATH": str(self.base / "bin"), **env},
            cwd=REPO,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path, instance) -> Home:
    return Home(tmp_path, instance)


def test_install_twice_and_uninstall_twice(home):
    first = home.loomctl("daemon", "install")
    assert first["unit"] == "loomd" and not first["enabled"]
    assert "systemctl --user enable --now loomd.socket" in first["hint"]
    files = sorted(path.name for path in home.units.iterdir())
    assert files == ["loomd.service", "loomd.socket"]
    text = (home.units / "loomd.service").read_text()
    command = next(line for line in lines(text) if line.startswith("ExecStart="))
    program = command.removeprefix("ExecStart=").split()[0]
    assert Path(program).parent == Path(sys.executable).parent and os.access(program, os.X_OK)
    again = home.loomctl("daemon", "install")
    assert again["files"] == first["files"]
    assert (home.units / "loomd.service").read_text() == text
    gone = home.loomctl("daemon", "uninstall")
    assert sorted(gone["files"]) == sorted(first["files"]) and "daemon-reload" in gone["hint"]
    assert list(home.units.iterdir()) == []
    assert home.loomctl("daemon", "uninstall")["unit"] is None


def test_the_unit_of_another_instance_is_not_overwritten(home, tmp_path):
    home.loomctl("daemon", "install")
    text = (home.units / "loomd.service").read_text()
    other = {"LOOM_STATE_DIR": str(tmp_path / "other")}
    refused = home.loomctl("daemon", "install", code=2, **other)["error"]
    assert str(home.instance.state) in refused["message"] and "--unit" in refused["hint"]
    assert (home.units / "loomd.service").read_text() == text
    second = home.loomctl("daemon", "install", "--unit", "second", **other)
    assert second["unit"] == "second"
    assert home.loomctl("daemon", "install", **other)["unit"] == "second"
    assert home.loomctl("daemon", "uninstall", **other)["unit"] == "second"
    assert (home.units / "loomd.service").read_text() == text


def test_a_unit_that_is_not_ours_is_not_overwritten(home):
    home.units.mkdir(parents=True)
    (home.units / "loomd.service").write_text("[Service]\nExecStart=/bin/true\n")
    refused = home.loomctl("daemon", "install", code=2)["error"]
    assert "something else" in refused["message"]
    refused = home.loomctl("daemon", "install", "--unit", "../x", code=2)["error"]
    assert "no name for a unit" in refused["message"]
