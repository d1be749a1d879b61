"""Where keys come from, and that they stay out of what is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from loomd.gateway import keys as keys_of
from loomd.gateway.keys import Keys, NoKeyError, read_keys, source

KEY = "sk-a-key-of-this-test"


def found(configured: dict[str, Any], variables: dict[str, str] | None = None) -> str:
    return asyncio.run(Keys(variables or {}).of("openai", configured))


def test_keys_are_read_from_their_memory_file() -> None:
    fd = os.memfd_create("keys")
    try:
        os.write(fd, json.dumps({"SOME_API_KEY": "k"}).encode())
        assert read_keys(fd) == {"SOME_API_KEY": "k"}
        assert read_keys(fd) == {"SOME_API_KEY": "k"}  # a successor reads it again
    finally:
        os.close(fd)
    assert read_keys(-1) == {}


def test_each_source(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert found({"api_key_env": "MINE"}, {"MINE": KEY, "OPENAI_API_KEY": "no"}) == KEY
    assert found({"api_key_file": str(tmp_path / "key")}) == KEY
    folder = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert found({"api_key_credential": "key"}, folder) == KEY
    assert found({"api_key_command": ["cat", str(tmp_path / "key")]}) == KEY
    assert found({}, {"OPENAI_API_KEY": KEY}) == KEY
    assert found({}) == ""


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        ({"api_key_env": "NOT_SET_HERE"}, "NOT_SET_HERE (api_key_env) was not set"),
        ({"api_key_file": "{tmp}/gone"}, "No such file"),
        ({"api_key_file": "{tmp}"}, "it is no file"),
        ({"api_key_file": "{tmp}/pipe"}, "it is no file"),
        ({"api_key_file": "{tmp}/empty"}, "it is empty"),
        ({"api_key_file": "{tmp}/lines"}, "not one line of text"),
        ({"api_key_credential": "key"}, "not started by systemd"),
        ({"api_key_command": ["{tmp}/gone"]}, "No such file"),
        ({"api_key_command": ["sh", "-c", "echo sk-half; exit 3"]}, "ended with status 3"),
        ({"api_key_command": ["true"]}, "it is empty"),
        ({"api_key_command": ["head", "-c", "20000", "/dev/zero"]}, "more than 16384 bytes"),
        ({"api_key_command": ["a\0b"]}, "null byte"),
        ({"api_key_file": "{tmp}/big"}, "more than 16384 bytes"),
    ],
)
def test_one_that_is_not_there_is_an_error_and_no_other_is_taken(
    tmp_path: Path, configured: dict[str, Any], said: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_text("k" * 20000)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "lines").write_text(f"{KEY}\nand more\n")

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(one) for one in value]
        return value.replace("{tmp}", str(tmp_path))

    plain = {name: place(value) for name, value in configured.items()}
    with pytest.raises(NoKeyError) as error:
        found(plain, {"OPENAI_API_KEY": KEY})
    assert said in str(error.value) and "sk-" not in str(error.value)


def test_a_command_gets_no_key_and_is_asked_once(tmp_path: Path) -> None:
    script = f"env > {tmp_path}/env; echo once >> {tmp_path}/asked; echo {KEY}"
    variables = {"OTHER_API_KEY": "sk-another", "GNUPGHOME": "/x"}

    async def run() -> None:
        keys = Keys(variables)
        configured = {"api_key_command": ["sh", "-c", script]}
        assert [await keys.of("x", configured) for _ in range(3)] == [KEY] * 3
        assert (tmp_path / "asked").read_text() == "once\n"
        keys.forget()
        await keys.of("x", configured)

    asyncio.run(run())
    assert (tmp_path / "asked").read_text() == "once\n" * 2
    env = (tmp_path / "env").read_text()
    assert "GNUPGHOME=/x" in env and "sk-another" not in env


def test_calls_that_wait_for_a_command_share_it_and_one_that_is_refused_is_asked_for_again(
    tmp_path: Path,
) -> None:
    script = f"echo once >> {tmp_path}/asked; sleep 0.2; echo {KEY}"
    configured = {"api_key_command": ["sh", "-c", script]}

    async def run() -> None:
        keys = Keys({})
        calls = [asyncio.create_task(keys.of("x", configured)) for _ in range(20)]
        await asyncio.sleep(0)
        calls[0].cancel()  # by one of them it is not ended
        assert await asyncio.gather(*calls[1:]) == [KEY] * 19
        assert (tmp_path / "asked").read_text() == "once\n"
        keys.refused(configured)
        assert await keys.of("x", configured) == KEY
        keys.forget()
        last = asyncio.create_task(keys.of("x", configured))
        await asyncio.sleep(0)
        await keys.close()
        with pytest.raises(asyncio.CancelledError):
            await last

    asyncio.run(run())
    assert (tmp_path / "asked").read_text().startswith("once\n" * 2)


def test_a_command_that_leaves_somebody_behind_with_its_output_has_ended(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; echo {KEY}"
    try:
        assert found({"api_key_command": ["sh", "-c", script]}) == KEY
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_command_that_prints_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoKeyError, match="prints more than"):
        found({"api_key_command": ["sh", "-c", "yes | head -c 20000"]})
    monkeypatch.setattr(keys_of, "COMMAND_S", 0.2)
    # (In which time a busy machine may not even have begun it.)
    with pytest.raises(NoKeyError, match=r"prints more than|has not ended"):
        found({"api_key_command": ["yes"]})


def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys_of, "COMMAND_S", 0.2)
    with pytest.raises(NoKeyError, match="has not ended"):
        found({"api_key_command": ["sh", "-c", "sleep 1000 & sleep 1000"]})


def test_what_is_told_is_without_the_keys_that_are_known() -> None:
    keys = Keys({"A_TOKEN": "tok-12345678", "HOME_DIR": "/home/somebody", "B_KEY": "short"})
    said = keys.hide("tok-12345678 in /home/somebody, short")
    assert said == "[key] in /home/somebody, short"
    configured = {"api_key_command": ["echo", KEY]}
    assert asyncio.run(keys.of("x", configured)) == KEY
    assert keys.hide(f"and then it was cut at {KEY[:12]}") == "and then it was cut at [key]"
    assert keys.hide(f"Incorrect API key provided: {KEY}.") == "Incorrect API key provided: [key]."


def test_a_password_in_an_address_is_told_to_nobody() -> None:
    configured = {"api_base": "http://me:secret-word@host:8000/v1"}
    assert keys_of.address(configured["api_base"]) == "http://me:***@host:8000/v1"
    assert keys_of.address("http://host/v1") == "http://host/v1"
    keys = Keys({})
    asyncio.run(keys.of("x", configured))
    assert keys.hide("no http://me:secret-word@host") == "no http://me:[key]@host"


def test_the_source_is_told_and_nothing_of_the_key() -> None:
    assert source({"api_key_env": "X"}) == "env X"
    assert source({"api_key_command": ["pass", "show", "secret/place"]}) == "command pass"
    assert source({}) == ""
