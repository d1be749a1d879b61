"""What no rule can allow: denied in every mode, or asked each time. Pure.

Denied is what would cost the machine, the home, the checkout or the guard itself. Asked each time,
however much else is allowed, is what destroys work that nobody can bring back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from loomd.rules import HOME, MANY, MARKS, SOME, STAR
from loomd.tools import git_commands
from loomd.tools.protected import Ground, below, perhaps_secret, run_later, secret, unwritable
from loomd.tools.shell_parts import Part
from loomd.tools.wrappers import literal


@dataclass(frozen=True)
class Finding:
    """verdict: deny | ask. rule: its name, in brackets wherever rules are shown."""

    verdict: Literal["deny", "ask"]
    rule: str
    reason: str


def findings(part: Part, ground: Ground) -> Iterator[Finding]:
    """What is wrong with a part of a line, whatever the rules say."""
    for path in (*(one.target for one in part.redirects if one.kind != "read"), *part.writes):
        yield from _written(path, part, ground)
    for one in part.redirects:
        if one.kind != "write":
            yield from _read(one.target, part, ground)
    for name, _ in part.assigns:
        if reason := git_commands.variable(name):
            yield Finding("ask", "git-environment", reason)
    check = _CHECKS.get(part.name) or _CHECKS.get(part.name.partition(".")[0])
    if check is not None:
        yield from check(part, ground)
    if part.name in _ENDS_MACHINE or part.name.startswith("mkfs"):
        yield Finding("deny", "machine", f"`{part.name}` is for the machine's owner")
    yield from _touched(part, ground)


def in_text(text: str) -> Iterator[Finding]:
    """What is seen in a command as it is written, however it is read."""
    if _BOMB.search(text) or _FORKS.search(text):
        yield Finding("deny", "fork-bomb", "it starts processes without end")


_BOMB: Final = re.compile(
    r"(?:^|[\s;&|(])(?:function\s+)?([\w:.-]{1,40})\s*\(\s*\)\s*\{[^{}]{0,200}?"
    r"(?<![\w:.-])\1\s*\|\s*&?\s*\1(?![\w:.-])"
)
_FORKS: Final = re.compile(
    r"fork\s*(?:\(\s*\))?\s+while\s|"
    r"while\s*[(:]?\s*(?:1|true|True)\s*[):]?\s*[;:{]?\s*(?:os\.)?fork\b"
)


# --- paths ---------------------------------------------------------------------------------------

READERS: Final = frozenset(
    {
        "cat", "head", "tail", "less", "more", "bat", "tac", "nl", "od", "xxd", "hexdump",
        "strings", "base64", "base32", "grep", "egrep", "fgrep", "rg", "ag", "ack", "sed", "awk",
        "gawk", "mawk", "cut", "sort", "uniq", "wc", "diff", "cmp", "comm", "file", "stat", "ls",
        "tree", "du", "find", "fd", "jq", "yq", "column", "paste", "join", "md5sum", "sha1sum",
        "sha256sum", "sha512sum", "cksum", "readlink", "realpath", "test", "[", "tar", "zip",
        "gzip", "zcat", "bzip2", "xz", "cp", "scp", "rsync", "source", ".", "view", "dd", "fold",
        "rev", "tr", "iconv", "openssl", "curl", "wget", "git",
    }
)  # fmt: skip
"""Programs whose operands are files that they read."""

WRITERS: Final = frozenset(
    {
        "rm", "rmdir", "unlink", "shred", "mv", "cp", "ln", "link", "install", "tee", "touch",
        "truncate", "mkdir", "mkfifo", "mknod", "chmod", "chown", "chgrp", "chattr", "setfacl",
        "dd", "rsync", "patch", "sponge", "ed", "ex", "vi", "vim", "nano", "emacs",
    }
)  # fmt: skip
"""Programs whose operands are files that they change."""

_SOURCES: Final = frozenset({"cp", "ln", "link", "install", "rsync"})
"""Writers that change their last operand only."""


def operands(words: Sequence[str]) -> list[str]:
    """Words that may be files: no options, but the values of `--x=y`, `x=y` and `@y` too."""
    found: list[str] = []
    plain = False
    for word in words[1:]:
        if word == "--" and not plain:
            plain = True
        elif plain or not word.startswith("-") or word == "-":
            found.append(word)
            if word.startswith("@"):
                found.append(word[1:])
            if re.match(r"\w+=", word):
                found.append(word.partition("=")[2])
        elif "=" in word:
            found.append(word.partition("=")[2])
    return found


def written(part: Part) -> list[str]:
    """The paths that a part is known to change."""
    paths = [one.target for one in part.redirects if one.kind != "read"]
    paths += part.writes
    name = part.name
    if name in WRITERS:
        operand = operands(part.words)
        if name in _SOURCES:
            target = _option(part.words, ("-t", "--target-directory"))
            paths += [target] if target else operand[-1:]
        elif name == "dd":
            paths += [word[3:] for word in part.words if word.startswith("of=")]
        elif name in ("chmod", "chown", "chgrp"):
            paths += operand[1:]
        else:
            paths += operand
    elif name in ("sed", "perl", "ruby") and _in_place(part.words):
        paths += operands(part.words)
    elif name == "sort":
        paths += [target] if (target := _option(part.words, ("-o", "--output"))) else []
    elif name in ("curl", "wget"):
        option = ("-o", "--output") if name == "curl" else ("-O", "--output-document")
        paths += [target] if (target := _option(part.words, option)) else []
    elif name == "tar" and part.words[1:]:
        paths += [target] if (target := _option(part.words, ("-C", "--directory"))) else []
    return paths


def read(part: Part) -> list[str]:
    """The paths that a part is known to read."""
    paths = [one.target for one in part.redirects if one.kind != "write"]
    if part.name in READERS:
        paths += operands(part.words)
    if part.name == "git":  # `HEAD:path` is that file, as it was
        paths += [word.rpartition(":")[2] for word in operands(part.words) if ":" in word]
    return paths


def _option(words: Sequence[str], names: Sequence[str]) -> str:
    """The value of an option, "" if it is not given."""
    for i, word in enumerate(words):
        if word in names and i + 1 < len(words):
            return words[i + 1]
        for name in names:
            if name.startswith("--") and word.startswith(f"{name}="):
                return word[len(name) + 1 :]
            if not name.startswith("--") and word.startswith(name) and len(word) > 2:
                return word[2:]
    return ""


def _in_place(words: Sequence[str]) -> bool:
    return any(re.match(r"-[a-zA-Z]*i|--in-place", word) for word in words[1:])


def _written(path: str, part: Part, ground: Ground) -> Iterator[Finding]:
    for cwd in part.cwds:
        for place in ground.places(path, cwd):
            if reason := unwritable(ground, place):
                yield Finding("deny", "protected", f"{_said(path)}: {reason}")
                return
            if reason := run_later(ground, place):
                yield Finding("ask", "protected", f"{_said(path)}: {reason}")
                return


def _read(path: str, part: Part, ground: Ground) -> Iterator[Finding]:
    for cwd in part.cwds:
        for place in ground.places(path, cwd):
            if reason := secret(ground, place):
                yield Finding("deny", "protected", f"{_said(path)}: {reason}")
                return
            if not literal(place) and (reason := perhaps_secret(ground, place)):
                yield Finding("ask", "protected", f"{_said(path)}: {reason}")
                return


def _touched(part: Part, ground: Ground) -> Iterator[Finding]:
    """Operands: secrets are nobody's, and what is protected is changed by nobody."""
    for path in written(part):
        yield from _written(path, part, ground)
    for path in _attached(part.words):
        yield from _read(path, part, ground)
    for path in operands(part.words):
        yield from _read(path, part, ground)
        if part.name in READERS or part.name in WRITERS or part.name in _SPEAKS:
            continue
        for cwd in part.cwds:
            # Whether an unknown program writes there is not known: a person decides.
            if not literal(path) or not ("/" in path or path.startswith(".")):
                continue
            place = ground.absolute(path, cwd)
            if place and ground.inside(place) and (reason := unwritable(ground, place)):
                yield Finding("ask", "protected", f"{_said(path)}: {reason}")
                break


def _attached(words: Sequence[str]) -> Iterator[str]:
    """Paths that are one word with their option: `-f/etc/shadow`."""
    for word in words[1:]:
        if word.startswith("-") and not word.startswith("--") and "/" in word:
            yield word[word.index("/") :]


_SPEAKS: Final = frozenset({"echo", "printf", "git", "cd", "true", "false", ":", "pwd"})
"""Programs whose operands are no files, or which know what they may do with them."""


# --- programs ------------------------------------------------------------------------------------

_ENDS_MACHINE: Final = frozenset(
    {
        "shutdown", "reboot", "halt", "poweroff", "telinit", "mke2fs", "wipefs", "fdisk", "sfdisk",
        "cfdisk", "gdisk", "sgdisk", "parted", "blkdiscard", "mkswap", "swapoff", "hdparm",
        "nvme", "insmod", "rmmod", "modprobe", "kexec", "visudo", "useradd", "userdel", "usermod",
        "passwd", "chpasswd",
    }
)  # fmt: skip


def _rm(part: Part, ground: Ground) -> Iterator[Finding]:
    words = part.words
    options = [word for word in words[1:] if word.startswith("-")]
    deep = any(
        re.fullmatch(r"-[a-zA-Z]*[rR][a-zA-Z]*|--recursive", word) for word in options
    ) or part.name in ("shred",)
    if "--no-preserve-root" in options:
        yield Finding("deny", "rm-root", "--no-preserve-root is for nothing else")
    for path in operands(words):
        if deep and (why := vast(path, part, ground)):
            yield Finding(why, "rm-root", f"it would remove {_said(path)} with all below it")
        elif deep and _unknown(path):
            yield Finding(
                "ask", "rm-unknown", f"what {_said(path)} is, and so what goes, is unknown"
            )


def _unknown(path: str) -> bool:
    """Whether nothing is known of where a path begins."""
    return path.startswith((MANY, SOME))


def vast(path: str, part: Part, ground: Ground) -> Literal["deny", "ask"] | None:
    """Whether a path is, or holds, the checkout, the home, or a folder of the system. "ask": it
    depends on whether the `cd` before succeeds."""
    seen = [_vast(path, cwd, ground) for cwd in part.cwds]
    if not any(seen):
        return None
    return "deny" if all(seen) else "ask"


_TOP: Final = frozenset(
    {
        "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "media", "mnt", "opt", "proc",
        "root", "run", "sbin", "srv", "sys", "usr", "var",
    }
)  # fmt: skip


def _vast(path: str, cwd: str, ground: Ground) -> bool:
    # `x/*`, `x/.*`, `x/.` and `x/{}` are x.
    while path not in ("", "/"):
        head, slash, last = path.rpartition("/")
        if last in ("", ".") and slash:
            path = head or "/"
        elif last in (STAR, f".{STAR}", "*", f"{STAR}.{STAR}", f".?{STAR}"):
            path = (head or "/") if slash else "."
            if path == ".":
                break
        else:
            break
    for place in ground.places(path or ".", cwd):
        parts = [one for one in place.split("/") if one]
        if not parts or (len(parts) == 1 and parts[0] in _TOP):
            return True
        if parts[0] in ("usr", "var", "lib", "etc") and len(parts) == 2:
            return True
        if below(ground.repo, place) or (ground.home and below(ground.home, place)):
            return True
    return False


def _deep(part: Part, ground: Ground) -> Iterator[Finding]:
    """chmod, chown, chgrp -R."""
    if not any(re.fullmatch(r"-[a-zA-Z]*R[a-zA-Z]*|--recursive", w) for w in part.words):
        return
    for path in operands(part.words)[1:]:
        why = vast(path, part, ground)
        if why and all(
            below(ground.repo, place) and ground.repo == place
            for cwd in part.cwds
            for place in ground.places(path, cwd)
        ):
            why = "ask"  # the checkout itself: a matter of taste, and can be mended
        if why:
            yield Finding(why, "chmod-root", f"it would change {_said(path)} with all below it")


def _move(part: Part, ground: Ground) -> Iterator[Finding]:
    paths = operands(part.words)
    for path in paths[:-1]:
        if why := vast(path, part, ground):
            yield Finding(why, "mv-root", f"it would move {_said(path)} away")
    if paths and paths[-1] == "/dev/null":
        yield Finding("deny", "mv-root", "what is moved to /dev/null is gone")


def _dd(part: Part, ground: Ground) -> Iterator[Finding]:
    for word in part.words[1:]:
        if word.startswith("of=") and not literal(word):
            yield Finding("ask", "dd", f"where it writes is unknown: {_said(word)}")


def _find(part: Part, ground: Ground) -> Iterator[Finding]:
    words = part.words
    if "-delete" not in words:
        return
    for word in words[1:]:
        if word.startswith(("-", "(", "!")):
            break
        if why := vast(word, part, ground):
            narrowed = any(w in ("-name", "-iname", "-path", "-regex", "-wholename") for w in words)
            inside = any(ground.inside(p) for cwd in part.cwds for p in ground.places(word, cwd))
            yield Finding(
                "ask" if narrowed and inside else why, "find-delete",
                f"it would delete below {_said(word)}",
            )  # fmt: skip


def _kill(part: Part, ground: Ground) -> Iterator[Finding]:
    words = part.words[1:]
    targets = [word for i, word in enumerate(words) if re.fullmatch(r"-?\d+", word) and i]
    if "-1" in targets or "1" in targets or words == ("1",):
        yield Finding("deny", "kill-all", "it would signal every process, or the first")


def _init(part: Part, ground: Ground) -> Iterator[Finding]:
    if part.words[1:2] and part.words[1] in ("0", "1", "6"):
        yield Finding("deny", "machine", "it would end the machine")


_SYSTEMCTL: Final = frozenset(
    {"poweroff", "reboot", "halt", "kexec", "suspend", "hibernate", "isolate", "emergency"}
)


def _systemctl(part: Part, ground: Ground) -> Iterator[Finding]:
    if any(word in _SYSTEMCTL for word in part.words):
        yield Finding("deny", "machine", "it would end the machine")


def _crontab(part: Part, ground: Ground) -> Iterator[Finding]:
    if "-l" not in part.words:
        yield Finding("deny", "machine", "what cron starts runs outside of every sandbox")


_SAYS: Final = frozenset(
    {"approve", "deny", "answer", "permissions", "trust", "daemon", "child", "kill", "send", "run"}
)


def _loomctl(part: Part, ground: Ground) -> Iterator[Finding]:
    """Also as `python -m loomctl`."""
    if part.name != "loomctl" and "loomctl" not in part.words:
        return
    if any(word in _SAYS or not literal(word) for word in part.words):
        yield Finding("deny", "own-guard", "a tool call has no say in its own permissions")


def _git(part: Part, ground: Ground) -> Iterator[Finding]:
    for rule, reason in git_commands.findings(part.words):
        yield Finding("ask", rule, reason)


# --- all of them ---------------------------------------------------------------------------------

_Check = Callable[[Part, Ground], Iterator[Finding]]
_CHECKS: Final[Mapping[str, _Check]] = {
    "rm": _rm,
    "shred": _rm,
    "chmod": _deep,
    "chown": _deep,
    "chgrp": _deep,
    "mv": _move,
    "dd": _dd,
    "find": _find,
    "kill": _kill,
    "init": _init,
    "systemctl": _systemctl,
    "crontab": _crontab,
    "at": _crontab,
    "git": _git,
    "python": _loomctl,
    "python3": _loomctl,
    "loomctl": _loomctl,
}


def _said(word: str) -> str:
    """A word for people: marks as what they stand for."""
    shown = word.replace(STAR, "*").replace(HOME, "~")
    return "".join("…" if char in MARKS else char for char in shown)[:200] or "''"
