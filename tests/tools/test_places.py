"""What of the opener's environment a call gets."""

import pytest

from loomd.tools.places import session_env


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("TERM", "xterm", True),
        ("LANG", "de_DE.UTF-8", True),
        ("VIRTUAL_ENV", "/w/.venv", True),
        ("OPENAI_API_KEY", "sk-x", False),
        ("openai_api_key", "sk-x", False),
        ("GITHUB_TOKEN", "x", False),
        ("DB_PASSWD", "x", False),
        ("LOOM_STATE_DIR", "/x", False),
        ("SSH_AUTH_SOCK", "/tmp/agent", False),
        ("DOCKER_HOST", "unix:///x", False),
        ("PIP_INDEX_URL", "https://index.example/simple", True),
        ("PIP_INDEX_URL", "https://me:pass@index.example/simple", False),
        ("DATABASE_URL", "postgres://u:p@db/x", False),
        ("HTTP_PROXY", "http://proxy:3128", True),
    ],
)
def test_neither_secrets_nor_ways_to_them(name, value, kept):
    assert (session_env({name: value}).get(name) == value) is kept
