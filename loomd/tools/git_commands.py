"""What a git command would destroy, or make git run. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Final

from loomd.rules import MANY
from loomd.tools.wrappers import literal

_HARMLESS: Final = frozenset(
    {
        "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_AUTHOR_DATE", "GIT_COMMITTER_NAME",
        "GIT_COMMITTER_EMAIL", "GIT_COMMITTER_DATE", "GIT_TERMINAL_PROMPT", "GIT_OPTIONAL_LOCKS",
    }
)  # fmt: skip
_VALUES: Final = frozenset({"-C", "-c", "--git-dir", "--work-tree", "--namespace"})
_RUNS: Final = re.compile(
    r"alias\.|core\.(hookspath|fsmonitor|sshcommand|pager|editor|askpass|gitproxy|attributesfile|"
    r"worktree|excludesfile|alternaterefscommand)|filter\.|diff\..*\.(command|textconv)|"
    r"diff\.external|merge\..*\.driver|(diff|merge)tool\.|credential|include|pager\.|sequence\.|"
    r"gpg\.|ssh\.|url\.|protocol\.|remote\..*\.(uploadpack|receivepack|proxy|vcs)|"
    r"submodule\..*\.update|uploadpack\.|browser\.|web\.|man\.|interactive\.|init\.templatedir|"
    r"http\.|sendemail|trailer\.",
    re.IGNORECASE,
)


def git_verb(words: Sequence[str]) -> tuple[str, list[str], str]:
    """(subcommand, its arguments, the folder of -C) of `git ...`."""
    at, folder = 1, ""
    while at < len(words) and words[at].startswith("-"):
        if words[at] in _VALUES:
            if words[at] == "-C" and at + 1 < len(words):
                folder = posixpath.join(folder, words[at + 1])
            at += 2
        else:
            at += 1
    return (words[at] if at < len(words) else "", list(words[at + 1 :]), folder)


def variable(name: str) -> str:
    """Why a variable makes git run something else; "" if it does not."""
    runs = name.startswith("GIT_") and name not in _HARMLESS
    return f"{name} changes what git runs" if runs else ""


def findings(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(rule, reason) for all that a person must be asked about `git ...` each time."""
    for i, word in enumerate(words):
        if (
            word == "-c"
            and i + 1 < len(words)
            and (not literal(words[i + 1]) or _RUNS.match(words[i + 1]))
        ):
            yield ("git-config", "`git -c` changes what git runs")
        if word.startswith(("--exec-path=", "--config-env", "--upload-pack", "--receive-pack")):
            yield ("git-config", f"`{word}` changes what git runs")
        if word in ("--ext-diff", "--textconv"):
            yield ("git-config", f"{word} runs programs of the repo's choice")
    verb, args, _ = git_verb(words)
    if why := _destroys(verb, args):
        yield ("git-destructive", why)


def _short(args: Sequence[str], letters: str) -> bool:
    return any(re.fullmatch(rf"-[a-zA-Z]*[{letters}][a-zA-Z]*", arg) for arg in args)


def _any(args: Sequence[str], *names: str) -> bool:
    return any(arg == name or arg.startswith(f"{name}=") for arg in args for name in names)


def _destroys(verb: str, args: Sequence[str]) -> str:
    """What `git VERB ARGS` would destroy; "" if nothing."""
    dry = _any(args, "--dry-run") or (verb in ("clean", "push", "add", "rm") and _short(args, "n"))
    if not literal(verb):
        return "what git is told to do is not known"
    if verb in _CAN_DESTROY and any(MANY in arg for arg in args):
        return f"what `git {verb}` is given is not known"
    match verb:
        case "reset" if _any(args, "--hard", "--merge", "--keep"):
            return "`git reset` takes changes away that are nowhere else"
        case "clean" if not dry:
            return "`git clean` deletes files that are nowhere else"
        case "checkout" if (
            _any(args, "--force", ".", "--") or _short(args, "f") or _any(args, "-B")
        ):
            return "`git checkout` takes changes away that are nowhere else"
        case "switch" if _any(args, "--force", "--discard-changes") or _short(args, "fC"):
            return "`git switch` takes changes away that are nowhere else"
        case "restore" if not _any(args, "--staged") or _any(args, "--worktree"):
            return "`git restore` takes changes away that are nowhere else"
        case "stash" if args[:1] in (["drop"], ["clear"]):
            return "`git stash` deletes what is nowhere else"
        case "branch" if _short(args, "DdfMC") or _any(args, "--delete", "--force"):
            return "`git branch` may lose commits"
        case "tag" if _short(args, "df") or _any(args, "--delete", "--force"):
            return "`git tag` may lose commits"
        case "worktree" if args[:1] == ["remove"]:
            return "`git worktree remove` deletes files"
        case "push" if not dry and (
            _short(args, "fd")
            or _any(args, "--force", "--force-with-lease", "--mirror", "--delete", "--prune",
                    "--force-if-includes")
            or any(arg.startswith(("+", ":")) for arg in args)
        ):  # fmt: skip
            return "`git push` takes away what others have"
        case "rm" if not dry and not _any(args, "--cached"):
            return "`git rm` deletes files"
        case "reflog" if args[:1] in (["expire"], ["delete"]):
            return "`git reflog` loses the way back"
        case "gc" if _any(args, "--prune"):
            return "`git gc` deletes what is nowhere else"
        case "prune" | "filter-branch" | "filter-repo" | "update-ref" | "replace":
            return f"`git {verb}` rewrites history"
        case "rebase" | "cherry-pick" | "merge" | "am" | "revert" if _any(
            args, "--abort", "--quit"
        ):
            return f"`git {verb}` takes changes away that are nowhere else"
        case "config" if _sets(args) and any(not literal(arg) or _RUNS.match(arg) for arg in args):
            return "this setting changes what git runs"
        case "config" if _any(args, "--global", "--system", "--edit") and _sets(args):
            return "this setting is for every repo of the user"
        case "submodule" if args[:1] == ["deinit"]:
            return "`git submodule deinit` deletes files"
    return ""


_CAN_DESTROY: Final = frozenset(
    {"reset", "clean", "checkout", "switch", "restore", "stash", "branch", "tag", "push", "config"}
)


def _sets(args: Sequence[str]) -> bool:
    plain = [arg for arg in args if not arg.startswith("-")]
    reads = _any(args, "--get", "--get-all", "--get-regexp", "--list", "--show-origin") or _short(
        args, "l"
    )
    return not reads and (len(plain) > 1 or _any(args, "--unset", "--unset-all", "--edit", "-e"))
