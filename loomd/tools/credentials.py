"""Where keys, passwords, cookies and what was typed lie: nobody's call reads them. Pure.

One list for both walls: the rules deny these places (`protected`), the sandbox hides them
(`ground`, `profile`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

HOME: Final = (
    ".ssh", ".gnupg", ".aws", ".azure", ".oci", ".boto", ".s3cfg", ".kube", ".docker",
    ".config/gcloud", ".config/gh", ".config/hub", ".config/glab-cli", ".config/op",
    ".config/rclone", ".config/doctl", ".config/containers/auth.json", ".terraform.d",
    ".terraformrc", ".vault-token", ".netrc", "_netrc", ".git-credentials",
    ".config/git/credentials", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pypirc", ".config/pip",
    ".pip", ".condarc", ".gem/credentials", ".cargo/credentials", ".cargo/credentials.toml",
    ".m2/settings.xml", ".m2/settings-security.xml", ".gradle/gradle.properties",
    ".config/composer/auth.json", ".composer/auth.json", ".nuget/NuGet/NuGet.Config", ".pgpass",
    ".my.cnf", ".mylogin.cnf", ".password-store", ".local/share/keyrings", ".local/share/kwalletd",
    ".pki", ".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium",
    ".config/BraveSoftware", ".config/microsoft-edge", ".config/vivaldi", ".config/opera",
    ".var/app", "snap", ".claude", ".claude.json", ".codex", ".gemini", ".config/anthropic",
    ".config/openai", ".config/github-copilot", ".local/share/opencode", ".huggingface",
    ".cache/huggingface/token", ".kaggle", ".config/sops", ".config/age", ".bash_history",
    ".zsh_history", ".python_history", ".node_repl_history", ".psql_history", ".sqlite_history",
    ".mysql_history", ".lesshst", ".viminfo", ".local/share/fish/fish_history",
    ".config/systemd/user", ".local/share/loom", ".config/loom/environment",
)  # fmt: skip
"""Files and folders below a home, with all that is in them."""

SYSTEM: Final = (
    "/root/.ssh", "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers",
    "/etc/sudoers.d", "/etc/ssl/private", "/etc/krb5.keytab", "/etc/wireguard", "/etc/ppp",
    "/etc/NetworkManager/system-connections", "/etc/docker", "/etc/kubernetes",
    "/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/sss", "/var/spool/cron",
)  # fmt: skip

HOST_KEYS: Final = "/etc/ssh"
_HOST_KEY: Final = re.compile(rf"{HOST_KEYS}/ssh_host_[^/]*_key")


def host_key(path: str) -> bool:
    """Is it the private half of a key of this machine?"""
    return _HOST_KEY.fullmatch(path) is not None


@lru_cache(maxsize=16)
def places(home: str) -> tuple[str, ...]:
    """All of them as absolute paths; `home` "": there is none."""
    own = tuple(f"{home.rstrip('/')}/{name}" for name in HOME) if home else ()
    return (*own, *SYSTEM)


@lru_cache(maxsize=16)
def _known(home: str) -> frozenset[str]:
    return frozenset(places(home))


def holder(path: str, home: str) -> str:
    """Which of them an absolute path is, or is in; "" if it is in none."""
    known = _known(home)
    while path not in known:
        path = path.rpartition("/")[0]
        if not path:
            return ""
    return path
