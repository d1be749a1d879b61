"""Commands that run another command, looked through: `env`, `timeout`, `xargs`, `sh -c`, ... Pure.

`inside` says what a command runs: other commands in its words, or a text that a shell reads. It
knows the options of each wrapper; what it does not know is unclear, never taken for harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loomd.rules import MANY, MARKS, SOME

_NUMBER: Final = re.compile(r"-\d+")
_ASSIGN: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)

SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "rbash"})


@dataclass(frozen=True)
class Run:
    """A command in the words of another: its words begin at `at` in those of the outer one (-1:
    they stand nowhere as they are). `cwd`: where it runs, "" for where the outer one does."""

    words: tuple[str, ...]
    at: int
    assigns: tuple[tuple[str, str], ...] = ()
    cwd: str = ""


@dataclass(frozen=True)
class Inside:
    """What a command runs.

    runs     commands in its words        script   texts that a shell reads
    itself   whether the command does something of its own too, and must pass as well
    writes   files it writes              other    as whom, or where it runs: another user, root
    """

    runs: tuple[Run, ...] = ()
    script: tuple[str, ...] = ()
    itself: bool = False
    writes: tuple[str, ...] = ()
    other: str = ""
    unclear: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Options:
    """`short`: letters that take a value; `long`: names that do; `files`: those whose value is
    written; `flags`: the other letters; `skip`: operands before the command."""

    short: str = ""
    flags: str = ""
    long: frozenset[str] = frozenset()
    switches: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    cwd: frozenset[str] = frozenset()
    skip: int = 0
    assigns: bool = False
    number: bool = False  # `-10` is an option
    other: str = ""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WRAPPERS: Final[Mapping[str, _Options]] = {
    "timeout": _Options(
        "ks", "vfp", _set("kill-after signal"), _set("foreground preserve-status verbose"), skip=1
    ),
    "nohup": _Options(),
    "setsid": _Options("", "cfw", switches=_set("ctty fork wait")),
    "nice": _Options("n", "", _set("adjustment"), number=True),
    "ionice": _Options("cn", "t", _set("class classdata"), _set("ignore")),
    "stdbuf": _Options("ioe", "", _set("input output error")),
    "time": _Options(
        "fo", "pavq", _set("format output"), _set("portability append verbose quiet"),
        files=_set("-o --output"),
    ),
    "exec": _Options("a", "cl"),
    "builtin": _Options(),
    "command": _Options("", "p"),
    "busybox": _Options(),
    "toybox": _Options(),
    "unbuffer": _Options("", "p"),
    "chrt": _Options("TPD", "abfiormRv", _set("sched-runtime sched-period sched-deadline"),
                     _set("batch fifo idle other rr all-tasks reset-on-fork verbose"), skip=1),
    "taskset": _Options("", "ac", switches=_set("all-tasks cpu-list"), skip=1),
    "env": _Options(
        "uC", "i0v", _set("unset chdir"), _set("ignore-environment null debug"),
        cwd=_set("-C --chdir"), assigns=True,
    ),
    "sudo": _Options(
        "CDghpRrtTUu", "AbBEHiKklnPsSv",
        _set("close-from chdir group host prompt chroot role type command-timeout other-user user"),
        _set("askpass background preserve-env set-home login non-interactive stdin shell"),
        cwd=_set("-D --chdir"), assigns=True, other="as another user (sudo)",
    ),
    "doas": _Options("Cu", "Lns", other="as another user (doas)"),
    "chroot": _Options(
        "", "", _set("groups userspec"), _set("skip-chdir"), skip=1,
        other="in another root (chroot)",
    ),
    "fakeroot": _Options("lsibu", "", _set("lib faked fd-base"), _set("unknown-is-real")),
    "xargs": _Options(
        "adEILnPs", "0oprtx",
        _set("arg-file delimiter max-lines max-args max-procs max-chars process-slot-var"),
        _set("null open-tty interactive no-run-if-empty verbose exit replace eof"),
    ),
}  # fmt: skip

_FIND_RUNS: Final = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
_FIND_WRITES: Final = frozenset({"-fprint", "-fprint0", "-fls", "-fprintf"})


def program(word: str) -> str:
    """The name of a program without its folder."""
    return word.rpartition("/")[2]


def literal(word: str) -> bool:
    return not any(mark in word for mark in MARKS)


def inside(words: Sequence[str]) -> Inside | None:
    """What a command runs; None if it runs itself only."""
    if not words or not literal(words[0]):
        return None
    name = program(words[0])
    special = _SPECIAL.get(name)
    if special is not None:
        return special(words)
    if name in SHELLS:
        return _shell(words)
    options = _WRAPPERS.get(name)
    return None if options is None else _wrapper(name, words, options)


def _wrapper(name: str, words: Sequence[str], options: _Options) -> Inside | None:
    assigns: list[tuple[str, str]] = []
    writes: list[str] = []
    cwd = ""
    at, left = 1, options.skip
    unclear: list[str] = []
    while at < len(words):
        word = words[at]
        if MANY in word:
            return Inside(unclear=(f"what `{name}` runs is not known",))
        if word == "--":
            at += 1
            while left and at < len(words):
                at, left = at + 1, left - 1
            break
        if word.startswith("-") and word != "-":
            if options.number and _NUMBER.fullmatch(word):
                at += 1
                continue
            option, value, taken = _option(words, at, options)
            if option is None:
                return Inside(unclear=(f"`{name} {_plain(word)}` is an option not known here",),
                              other=options.other)  # fmt: skip
            if option in options.files:
                writes.append(value)
            if option in options.cwd:
                cwd = value
            at += taken
            continue
        if options.assigns and (found := _ASSIGN.fullmatch(word)):
            assigns.append((found[1], found[2]))
            at += 1
            continue
        if left:
            at, left = at + 1, left - 1
            continue
        break
    inner = tuple(words[at:])
    if not inner:
        if name == "exec":  # redirections only
            return Inside(itself=False)
        return None if name != "xargs" else Inside(runs=(Run(("echo", MANY), -1),))
    if name == "xargs":
        inner = _replaced(words[1:at], inner)
    return Inside(
        runs=(Run(inner, at, tuple(assigns), cwd),),
        writes=tuple(writes),
        other=options.other,
        unclear=tuple(unclear),
    )


def _option(words: Sequence[str], at: int, options: _Options) -> tuple[str | None, str, int]:
    """(the option, its value, how many words it takes); the option is None if it is unknown."""
    word = words[at]
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        if name in options.long:
            if equals:
                return f"--{name}", value, 1
            if at + 1 < len(words):
                return f"--{name}", words[at + 1], 2
            return None, "", 1
        return (f"--{name}", value, 1) if name in options.switches else (None, "", 1)
    for i, letter in enumerate(word[1:], 1):
        if letter in options.short:
            rest = word[i + 1 :]
            if rest:
                return f"-{letter}", rest, 1
            if at + 1 < len(words):
                return f"-{letter}", words[at + 1], 2
            return None, "", 1
        if letter not in options.flags:
            return None, "", 1
    return word, "", 1


def _replaced(options: Sequence[str], inner: tuple[str, ...]) -> tuple[str, ...]:
    """What `xargs` runs: its input stands for the text of -I, or comes behind."""
    text = ""
    for i, word in enumerate(options):
        if word == "-I" and i + 1 < len(options):
            text = options[i + 1]
        elif word.startswith("-I") and len(word) > 2:
            text = word[2:]
        elif word.startswith("--replace"):
            text = word.partition("=")[2] or "{}"
    if text:
        return tuple(word.replace(text, SOME) for word in inner)
    return (*inner, MANY)


def _env(words: Sequence[str]) -> Inside | None:
    for word in words[1:]:
        if re.match(r"-[i0v]*S|--split-string", word):
            return Inside(unclear=("`env -S` splits a text into words",))
    return _wrapper("env", words, _WRAPPERS["env"])


def _command(words: Sequence[str]) -> Inside | None:
    """`command -v NAME` only asks where NAME is."""
    if len(words) > 1 and re.fullmatch(r"-p?[vV]", words[1]):
        return None
    return _wrapper("command", words, _WRAPPERS["command"])


def _shell(words: Sequence[str]) -> Inside | None:
    """`sh -c TEXT`; a script's file is a command of its own."""
    at = 1
    reads = False
    while at < len(words):
        word = words[at]
        if MANY in word:
            return Inside(unclear=(f"what `{program(words[0])}` runs is not known",))
        if word in ("--", "-"):
            at += 1
            break
        if word.startswith("--"):
            if word in ("--rcfile", "--init-file"):
                return Inside(unclear=(f"`{word}` names a file of commands",), itself=True)
            at += 1
            continue
        if not word.startswith(("-", "+")):
            break
        letters = word[1:]
        reads = reads or "s" in letters
        takes = letters.endswith(("o", "O"))
        if "c" in letters:
            at += 2 if takes else 1
            if at < len(words) and words[at] == "--":
                at += 1
            if at >= len(words):
                return Inside(unclear=("`-c` has no text",))
            text = words[at]
            if not literal(text):
                return Inside(unclear=("the text of `-c` is not known",), script=(_seen(text),))
            return Inside(script=(text,))
        at += 2 if takes else 1
    if reads or at >= len(words):
        return Inside(unclear=(STDIN,))
    return None


STDIN: Final = "it is a shell that reads commands from its standard input"


def _eval(words: Sequence[str]) -> Inside:
    text = " ".join(words[1:])
    if not literal(text):
        return Inside(unclear=("what `eval` reads is not known",), script=(_seen(text),))
    return Inside(script=(text,))


def _trap(words: Sequence[str]) -> Inside | None:
    if len(words) < 3 or words[1].startswith("-") or not words[1]:
        return None
    if not literal(words[1]):
        return Inside(unclear=("what `trap` reads is not known",))
    return Inside(script=(words[1],))


def _find(words: Sequence[str]) -> Inside:
    """`find ... -exec COMMAND {} ;`: the command must pass, and `find` itself too."""
    runs: list[Run] = []
    writes: list[str] = []
    unclear: list[str] = []
    i = 1
    while i < len(words):
        if words[i] in _FIND_WRITES and i + 1 < len(words):
            writes.append(words[i + 1])
        if words[i] in _FIND_RUNS:
            end = i + 1
            while end < len(words) and words[end] != ";":
                if words[end] == "+" and words[end - 1] == "{}":
                    break
                end += 1
            if end >= len(words) or end == i + 1:
                unclear.append(f"`{words[i]}` has no end")
            many = end < len(words) and words[end] == "+"
            inner = tuple(
                MANY if word == "{}" and many else word.replace("{}", SOME)
                for word in words[i + 1 : end]
            )
            if inner:
                runs.append(Run(inner, i + 1))
            i = end
        i += 1
    return Inside(tuple(runs), itself=True, writes=tuple(writes), unclear=tuple(unclear))


def _text_of(option: str) -> Callable[[Sequence[str]], Inside | None]:
    """A command whose `option` is a text for a shell: `su -c`, `script -c`, `flock FILE -c`."""

    def look(words: Sequence[str]) -> Inside | None:
        name = program(words[0])
        other = "as another user (su)" if name in ("su", "runuser") else ""
        for i, word in enumerate(words):
            if word == option and i + 1 < len(words):
                if not literal(words[i + 1]):
                    return Inside(unclear=(f"the text of `{name}` is not known",), other=other)
                return Inside(script=(words[i + 1],), itself=True, other=other)
        if name == "flock":
            rest = [i for i, word in enumerate(words) if i and not word.startswith("-")]
            if any(word.startswith(("-w", "-E", "--")) for word in words[1:]):
                return Inside(unclear=("the options of `flock` are not known here",))
            if len(rest) > 1:
                return Inside(runs=(Run(tuple(words[rest[1] :]), rest[1]),), itself=True)
            return None
        return Inside(unclear=(f"what `{name}` runs is not known",), other=other)

    return look


def _not_known(words: Sequence[str]) -> Inside:
    return Inside(unclear=(f"what `{program(words[0])}` runs is not known",), itself=True)


def _elsewhere(words: Sequence[str]) -> Inside:
    name = program(words[0])
    return Inside(
        unclear=(f"what `{name}` runs is not known",), itself=True, other=f"elsewhere ({name})"
    )


def _alias(words: Sequence[str]) -> Inside | None:
    """A new meaning for a name that a later part may use."""
    return Inside(unclear=("`alias` gives names another meaning",)) if len(words) > 1 else None


def _seen(text: str) -> str:
    """The known part of a text, in which what must never happen can still be seen."""
    return "".join("_" if char in MARKS else char for char in text)


def _plain(word: str) -> str:
    return _seen(word)


_SPECIAL: Final[Mapping[str, Callable[[Sequence[str]], Inside | None]]] = {
    "env": _env,
    "command": _command,
    "eval": _eval,
    "trap": _trap,
    "find": _find,
    "su": _text_of("-c"),
    "runuser": _text_of("-c"),
    "script": _text_of("-c"),
    "flock": _text_of("-c"),
    "alias": _alias,
    "parallel": _not_known,
    "watch": _not_known,
    "strace": _not_known,
    "ltrace": _not_known,
    "unshare": _elsewhere,
    "nsenter": _elsewhere,
    "systemd-run": _elsewhere,
    "start-stop-daemon": _elsewhere,
    "pkexec": _elsewhere,
}
