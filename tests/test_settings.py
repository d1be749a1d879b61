"""Settings: what is right, and what an error says about what is wrong."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from loomd import settings as s

GOOD = """
[models]
default = "openai/gpt-5-mini"
fast = "offline/rules"
[models.roles]
reviewer = "anthropic/claude"
[models.fallback]
"openai/gpt-5-mini" = ["openrouter/meta/llama", "offline/rules"]
[providers.openai]
api_base = "http://127.0.0.1:8000/v1"
api_key_env = "OPENAI_API_KEY"
[providers.other]
api_key_file = "/run/key"
[budget]
session_usd = 5
[limits]
iterations = 7
wall_s = 60
[permissions]
mode = "never"
[review]
required = false
[supervision]
intensity = 0
period_s = 2.5
"""


def test_without_a_file_everything_has_its_default(tmp_path):
    made = s.load(tmp_path / "config.toml")
    assert made == s.Settings()
    assert made.as_dict() == {
        "models": {
            "default": "offline/rules",
            "fast": "",
            "roles": {},
            "fallback": {},
            "attempts": 4,
            "patience_s": 180,
            "gateways": 0,
            "clocks": {"connect_s": 10, "first_byte_s": 60, "between_s": 45, "total_s": 600},
        },
        "providers": {},
        "budget": {
            "day_usd": None,
            "session_usd": None,
            "task_usd": None,
            "agent_usd": None,
            "output_tokens": 16384,
        },
        "limits": {
            "iterations": 30,
            "tokens": None,
            "wall_s": 1800,
            "repeats": 3,
            "view_tokens": 24000,
            "call_s": 120,
            "session_calls": 16,
            "daemon_calls": 64,
            "import_s": 10,
            "jobs": 8,
            "memory_mb": 4096,
            "processes": 512,
            "file_mb": 4096,
            "cpu_s": 3600,
        },
        "permissions": {
            "mode": "on-request",
            "sandbox": "workspace",
            "sandbox_backend": "auto",
            "sandbox_read": [],
            "sandbox_write": [],
            "network": False,
            "allow": [],
            "ask": [],
            "deny": [],
            "answer_s": 3600,
            "detached_answer_s": 259_200,
        },
        "review": {"required": True},
        "tools": {"web_fetch": False, "web_private": []},
        "supervision": {
            "intensity": 10,
            "period_s": 5,
            "heartbeat_s": 5,
            "poison_crashes": 3,
            "memory_mb": 1024,
            "cgroups": "auto",
        },
        "recovery": {
            "restart": [3, 60.0],
            "parameters": [2, 300.0],
            "conversation": [1, 600.0],
            "model": "",
            "temperature": 0.0,
            "view": 0.5,
        },
    }
    assert not made.needs_provider


def test_models_that_play_a_file_need_no_provider():
    made = s.parse('[models]\ndefault = "replay//a folder/x.jsonl"\nfast = "scripted/y"\n')
    assert made.models.default == "replay//a folder/x.jsonl" and not made.needs_provider


def test_everything_that_is_in_force_is_read(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    made = s.load(path)
    assert made.needs_provider
    plain = made.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["models"]["fallback"]["openai/gpt-5-mini"][1] == "offline/rules"
    assert plain["providers"]["openai"]["api_base"] == "http://127.0.0.1:8000/v1"
    assert plain["providers"]["other"]["api_key_file"] == "/run/key"
    assert (plain["budget"]["session_usd"], plain["limits"]["iterations"]) == (5.0, 7)
    assert (made.permissions.mode, made.review.required) == ("never", False)
    assert (made.supervision.intensity, made.supervision.period_s) == (0, 2.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[modles]\n", ":1: modles: unknown key"),
        ("\n[limits]\niteratons = 3\n", ":3: limits.iteratons: unknown key"),
        ('[limits]\niterations = "30"\n', ":2: limits.iterations: must be a whole number"),
        ("[limits]\niterations = 0\n", ":2: limits.iterations: must be a whole number"),
        ("[limits]\niterations = true\n", ":2: limits.iterations: must be a whole number"),
        ("[limits]\nwall_s = nan\n", ":2: limits.wall_s: must be a time in seconds"),
        ("[budget]\n# a comment\nsession_usd = -1\n", ":3: budget.session_usd: must be an amount"),
        ("budget.session_usd = 'x'\n", ":1: budget.session_usd: must be an amount"),
        ("budget = 5\n", ":1: budget: must be a table"),
        ('[permissions]\nmode = "ask"\n', ":2: permissions.mode: must be one of 'never'"),
        ('[permissions]\nsandbox = "none"\n', ":2: permissions.sandbox: must be one of"),
        ('[permissions]\nsandbox_backend = "x"\n', ":2: permissions.sandbox_backend: must be one"),
        ('[permissions]\nsandbox_read = "/x"\n', ":2: permissions.sandbox_read: must be a list"),
        ('[permissions]\nsandbox_write = ["x"]\n', ":2: permissions.sandbox_write: must be abso"),
        ('[permissions]\nsandbox_write = ["/"]\n', ":2: permissions.sandbox_write: must be abso"),
        ("[permissions]\nnetwork = 1\n", ":2: permissions.network: must be true or false"),
        ("[limits]\ncpu_s = 0\n", ":2: limits.cpu_s: must be a time in seconds"),
        ('[permissions]\nallow = ["x y"]\n', ":2: permissions.allow: must be a tool, or"),
        ('[permissions]\ndeny = ["shell(\'a)"]\n', "must be a pattern whose quotes are closed"),
        ('[permissions]\nask = "shell"\n', "permissions.ask: must be a list of rules"),
        ('[review]\nrequired = "yes"\n', ":2: review.required: must be true or false"),
        ("[models.clocks]\ntotal_s = 0\n", ":2: models.clocks.total_s: must be a time in seconds"),
        ("[models.clocks]\nx_s = 1\n", ":2: models.clocks.x_s: unknown key"),
        ("[providers.x]\nbetween_s = 'a'\n", ":2: providers.x.between_s: must be a time"),
        ('[providers.x]\napi_key_command = "pass"\n', "api_key_command: must be a command and"),
        ('[providers.x]\napi_key_credential = "a/b"\n', "must be the name of a credential"),
        ('[models]\ndefault = "gpt 5"\n', ":2: models.default: must be a model such as"),
        ('[models]\ndefault = "offline/gpt"\n', ':2: models.default: must be "offline/rules"'),
        ("[models.roles]\nlead = 3\n", ":2: models.roles.lead: must be a model"),
        ('[models.fallback]\n"a/b" = "c"\n', ":2: models.fallback.a/b: must be a list"),
        ('[providers.x]\napi_base = "localhost"\n', ":2: providers.x.api_base: must be an address"),
        ('[providers.x]\napi_base = "http://a:99999"\n', ":2: providers.x.api_base: must be an"),
        ('[providers.x]\napi_base = "http://[::1/v1"\n', ":2: providers.x.api_base: must be an"),
        ('[providers.x]\napi_base = "http://u:pw@a:x/v1"\n', "must be an address"),
        (
            '[providers.x]\napi_base = "http://a/v1/chat/completions"\n',
            "must be the address of the API",
        ),
        ('[providers]\nx = {api_bas = "y"}\n', ":2: providers.x.api_bas: unknown key"),
        ("[providers.x]\nstream = 0\n", ":2: providers.x.stream: must be true or false"),
        (
            '[providers.x]\napi_key_env = "sk-12 3"\n',
            ":2: providers.x.api_key_env: must be the name of an environment variable",
        ),
        (
            '[providers.x]\napi_key_env = "A"\napi_key_file = "/b"\n',
            ":3: providers.x.api_key_file: must be one of",
        ),
        ("[recovery]\nrestart = 3\n", ":2: recovery.restart: must be [failures, seconds]"),
        ("[recovery]\nrestart = [3, 0]\n", ":2: recovery.restart: must be a time"),
        ("[recovery]\nparameters = [-1, 5]\n", ":2: recovery.parameters: must be [failures"),
        ("[recovery]\nview = 2\n", ":2: recovery.view: must be a share of the view"),
        ("[supervision]\nheartbeat_s = 0\n", ":2: supervision.heartbeat_s: must be a time"),
        ("[limits\n", ":1: not TOML"),
        ("[limits]\nx = \n", ":2: not TOML"),
    ],
)
def test_an_error_names_file_line_key_and_what_would_be_right(text, said):
    with pytest.raises(s.ConfigError) as wrong:
        s.parse(text, "/c/config.toml")
    assert wrong.value.message.startswith("/c/config.toml:")
    assert said in wrong.value.message
    assert wrong.value.exit_code == 8


def test_a_near_miss_gets_a_hint():
    with pytest.raises(s.ConfigError) as wrong:
        s.parse("[limits]\niteratons = 3\n")
    assert wrong.value.hint.startswith("did you mean 'iterations'?")


def test_a_key_by_mistake_is_not_repeated():
    with pytest.raises(s.ConfigError) as wrong:
        s.parse('[providers.openai]\napi_key_env = "sk-proj-123"\n')
    assert "sk-proj" not in wrong.value.message


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, content):
    path = tmp_path / "config.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(s.ConfigError, match="cannot be read"):
        s.load(path)


def test_what_the_readme_shows_is_toml() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 3
    for block in blocks:
        tomllib.loads(block)
