"""What a git command does to what a person has: nothing, to the history, or to unsaved work. Pure.

`judge` is for the tool `git`; `destructive` for everybody who meets a command line of git: it names
what would be lost, so that a person is asked whatever else is allowed. It errs on the side of
asking: what a pure look cannot tell (is `x` a branch or a file?) is taken for the worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["read", "write", "ask", "refused"]
"""read: changes nothing. write: only what lies in `.git` (index, commits, branches). ask: changes
or throws away files or history: asked each time, after a snapshot. refused: not made."""


@dataclass(frozen=True)
class Judged:
    kind: Kind
    reason: str = ""


_WITH_VALUE: Final = frozenset(
    {"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env",
     "--super-prefix", "--attr-source"}
)  # fmt: skip
"""Options before the command whose value is the next word."""


def split(args: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Options of git itself, the command ("" if there is none), and the command's own words."""
    at = 0
    while at < len(args) and args[at].startswith("-"):
        at += 2 if args[at] in _WITH_VALUE else 1
    command = args[at] if at < len(args) else ""
    return list(args[:at]), command, list(args[at + 1 :])


class _Words:
    """The words after a command: long options, letters of short ones, and the rest."""

    def __init__(self, words: Sequence[str]) -> None:
        self.dashed = "--" in words
        end = list(words).index("--") if self.dashed else len(words)
        self.after = list(words[end + 1 :])
        self.long = [w.partition("=")[0] for w in words[:end] if w.startswith("--")]
        short = [w for w in words[:end] if w.startswith("-") and not w.startswith("--")]
        self.letters = {letter for w in short for letter in w[1:]}
        self.plain = [w for w in words[:end] if not w.startswith("-") or w == "-"]

    def has(self, *options: str) -> bool:
        """One of `-x` or `--long`; git takes a long option by any beginning that is unique."""
        for option in options:
            if option.startswith("--"):
                if any(option.startswith(w) for w in self.long):
                    return True
            elif option[1:] in self.letters:
                return True
        return False

    @property
    def first(self) -> str:
        return self.plain[0] if self.plain else ""


_LOST: Final = "throws away changes that are not committed"
_PATHS: Final = "overwrites files with other versions of them"
_HISTORY: Final = "rewrites history"


def _reset(w: _Words) -> str:
    return _LOST if w.has("--hard", "--merge", "--keep") else ""


def _clean(w: _Words) -> str:
    return "" if w.has("-n", "--dry-run") else "deletes files that git does not track"


def _checkout(w: _Words) -> str:
    if w.has("-f", "--force", "--ours", "--theirs", "--merge", "-m", "-p", "--patch"):
        return _LOST
    if w.has("-B"):
        return "moves a branch away from its commits"
    if w.has("-b", "--orphan"):
        return ""
    if w.after or w.has("--pathspec-from-file") or len(w.plain) > 1:
        return _PATHS
    if w.plain and not w.has("--detach", "-d", "-t", "--track"):
        return f"{_PATHS}, if `{w.first}` is a file (to change the branch use `git switch`)"
    return ""


def _restore(w: _Words) -> str:
    only_index = w.has("-S", "--staged") and not w.has("-W", "--worktree")
    return "" if only_index else _PATHS


def _switch(w: _Words) -> str:
    if w.has("-f", "--force", "--discard-changes", "-m", "--merge"):
        return _LOST
    return "moves a branch away from its commits" if w.has("-C", "--force-create") else ""


def _branch(w: _Words) -> str:
    forced = w.has("-f", "--force")
    if w.has("-D") or (forced and w.has("-d", "--delete")):
        return "deletes a branch whose commits may be nowhere else"
    if w.has("-M", "-C") or forced:
        return "moves a branch away from its commits"
    return ""


def _tag(w: _Words) -> str:
    return "deletes or moves a tag" if w.has("-d", "--delete", "-f", "--force") else ""


def _push(w: _Words) -> str:
    if w.has("-f", "--force", "--force-with-lease", "--force-if-includes"):
        return "overwrites branches of the remote"
    if w.has("-d", "--delete", "--mirror", "--prune"):
        return "deletes branches of the remote"
    refspecs = [*w.plain, *w.after]
    if any(one.startswith("+") for one in refspecs):
        return "overwrites branches of the remote"
    if any(one.startswith(":") and one != ":" for one in refspecs):
        return "deletes branches of the remote"
    return ""


def _rebase(w: _Words) -> str:
    return "" if w.has("--show-current-patch") else _HISTORY


def _stash(w: _Words) -> str:
    return "deletes stashed changes" if w.first in ("drop", "clear", "pop") else ""


def _worktree(w: _Words) -> str:
    match w.first:
        case "remove":
            return "deletes a worktree with what is in it"
        case "prune":
            return "forgets worktrees"
        case "add" if w.has("-B", "-f", "--force"):
            return "moves a branch away from its commits"
    return ""


def _commit(w: _Words) -> str:
    return "rewrites the last commit" if w.has("--amend") else ""


def _broken_off(w: _Words) -> str:
    """merge, cherry-pick, revert, am."""
    return _LOST if w.has("--abort", "--quit", "--skip") else ""


def _rm(w: _Words) -> str:
    if w.has("--cached"):
        return ""
    return "deletes files" + (" though they have changed" if w.has("-f", "--force") else "")


def _mv(w: _Words) -> str:
    return "overwrites files" if w.has("-f", "--force") else ""


def _reflog(w: _Words) -> str:
    return "deletes the way back to commits" if w.first in ("expire", "delete", "drop") else ""


def _gc(w: _Words) -> str:
    return "deletes objects that nothing refers to" if w.has("--prune", "--aggressive") else ""


def _read_tree(w: _Words) -> str:
    return _LOST if w.has("-u", "--reset") else ""


def _checkout_index(w: _Words) -> str:
    return _PATHS if w.has("-f", "--force") else ""


def _submodule(w: _Words) -> str:
    if w.first == "deinit" or (w.first == "update" and w.has("-f", "--force")):
        return "throws away changes in submodules"
    return "runs a command in each submodule" if w.first == "foreach" else ""


def _bisect(w: _Words) -> str:
    return "runs a command again and again" if w.first == "run" else ""


def _symbolic_ref(w: _Words) -> str:
    moves = w.has("-d", "--delete") or len(w.plain) > 1
    return "moves HEAD away from its branch" if moves else ""


def _always(reason: str) -> Callable[[_Words], str]:
    return lambda w: reason


DESTRUCTIVE: Final[dict[str, Callable[[_Words], str]]] = {
    "reset": _reset,
    "clean": _clean,
    "checkout": _checkout,
    "restore": _restore,
    "switch": _switch,
    "branch": _branch,
    "tag": _tag,
    "push": _push,
    "rebase": _rebase,
    "stash": _stash,
    "worktree": _worktree,
    "commit": _commit,
    "merge": _broken_off,
    "cherry-pick": _broken_off,
    "revert": _broken_off,
    "am": _broken_off,
    "rm": _rm,
    "mv": _mv,
    "reflog": _reflog,
    "gc": _gc,
    "read-tree": _read_tree,
    "checkout-index": _checkout_index,
    "submodule": _submodule,
    "bisect": _bisect,
    "symbolic-ref": _symbolic_ref,
    "prune": _always("deletes objects that nothing refers to"),
    "repack": _gc,
    "update-ref": _always("moves or deletes references"),
    "filter-branch": _always(_HISTORY),
    "filter-repo": _always(_HISTORY),
    "replace": _always("puts other objects in the place of commits"),
    "sparse-checkout": _always("removes files from the checkout"),
}

_HARMLESS: Final = frozenset(
    {"add", "annotate", "apply", "archive", "blame", "bundle", "cat-file", "check-attr",
     "check-ignore", "cherry", "clone", "commit-tree", "config", "count-objects", "describe",
     "diff", "diff-files", "diff-index", "diff-tree", "difftool", "fetch", "for-each-ref",
     "format-patch", "fsck", "grep", "hash-object", "help", "init", "log", "ls-files",
     "ls-remote", "ls-tree", "merge-base", "merge-file", "merge-tree", "mktree", "name-rev",
     "notes", "pack-refs", "pull", "range-diff", "remote", "rev-list", "rev-parse", "shortlog",
     "show", "show-branch", "show-ref", "stage", "status", "version", "verify-commit",
     "verify-tag", "var", "whatchanged", "write-tree"}
)  # fmt: skip


def destructive(args: Sequence[str]) -> str:
    """Why a person must be asked before `git *args` is run, whatever is allowed; "" if nothing
    that cannot be had again is lost. A command that is not git's own may be an alias for any."""
    options, command, words = split(args)
    for at, option in enumerate(options):
        value = options[at + 1] if at + 1 < len(options) else ""
        given = value if option in ("-c", "--config-env") else option.partition("=")[2]
        if option in ("-c", "--config-env") or option.startswith(("-c", "--config-env=")):
            key = (given or option[2:]).partition("=")[0].lower()
            if key.startswith(("alias.", "filter.", "diff.", "core.", "pager.", "credential.")):
                return f"sets {key}, which may run any command"
    if not command:
        return ""
    rule = DESTRUCTIVE.get(command)
    if rule is not None:
        return rule(_Words(words))
    if command in _HARMLESS:
        return ""
    return f"`git {command}` is no command of git that is known here; it may be an alias"


# --- the tool ------------------------------------------------------------------------------------

_READS: Final = frozenset(
    {"annotate", "blame", "cat-file", "check-attr", "check-ignore", "cherry", "count-objects",
     "describe", "diff", "diff-files", "diff-index", "diff-tree", "for-each-ref", "grep", "log",
     "ls-files", "ls-tree", "merge-base", "name-rev", "range-diff", "rev-list", "rev-parse",
     "shortlog", "show", "show-branch", "show-ref", "status", "version", "whatchanged"}
)  # fmt: skip

_WRITES: Final = frozenset({"add", "commit", "branch", "tag", "worktree", "reset", "restore",
                            "notes", "stage", "stash"})  # fmt: skip
"""What may write in `.git` alone, if it is not destructive."""

_CHANGES_FILES: Final = frozenset(
    {"checkout", "switch", "merge", "cherry-pick", "revert", "stash", "rm", "mv", "clean", "rebase",
     "apply", "am", "sparse-checkout", "read-tree", "checkout-index"}
)  # fmt: skip

_NETWORK: Final = frozenset({"clone", "fetch", "pull", "push", "ls-remote", "submodule"})

_NEVER: Final[tuple[str, ...]] = (
    "--output", "--ext-diff", "--textconv", "--exec", "--open-files-in-pager", "--upload-pack",
    "--receive-pack", "--interactive", "--patch-with-stat-to", "--edit", "--gpg-sign",
    "--show-signature",
)  # fmt: skip
"""Options that write elsewhere, run programs, or wait for somebody at a terminal."""


_IN_CONFIG: Final = ("-m", "-M", "-c", "-C", "-u", "--move", "--copy", "--set-upstream-to",
                     "--unset-upstream", "--edit-description")  # fmt: skip
"""Of `git branch`: names of branches stand in the configuration, which decides what git runs."""


def judge(args: Sequence[str]) -> Judged:
    """What the tool `git` is to do with a command."""
    options, command, words = split(args)
    foreign = [one for one in options if one not in ("--no-pager", "-P", "--no-optional-locks")]
    if foreign:
        return Judged("refused", f"`{foreign[0]}` is an option of git that is not taken here")
    if not command:
        return Judged("refused", "no command is given; for example: status --short")
    w = _Words(words)
    for one in w.long:
        if any(one == never for never in _NEVER):
            return Judged("refused", f"`{one}` of git {command} is not taken here")
    if (command == "grep" and w.has("-O")) or (command == "rebase" and w.has("-x", "-i")):
        return Judged("refused", f"git {command} would run another program")
    if command in ("add", "commit", "stash", "checkout", "reset", "restore") and (
        w.has("-p", "--patch") or (command == "add" and w.has("-i", "-e"))
    ):
        return Judged("refused", f"git {command} would wait at a terminal: name whole files")
    if command == "branch" and w.has(*_IN_CONFIG):
        return Judged("refused", "that is kept in .git/config, which no call may write")
    if command in _NETWORK:
        return Judged("refused", f"git {command} needs the network, which this tool has not")
    lost = destructive(args)
    if command in _READS:
        return Judged("read")
    if _lists(command, w):
        return Judged("read")
    if command not in _WRITES and command not in _CHANGES_FILES:
        return Judged("refused", f"git {command} is not made by this tool")
    if lost:
        return Judged("ask", lost)
    if command in _CHANGES_FILES or (command == "worktree" and w.first == "move"):
        return Judged("ask", "changes files of the checkout past the review")
    return Judged("write")


def _lists(command: str, w: _Words) -> bool:
    """Does it only show something?"""
    match command:
        case "branch":
            changes = ("-d", "-D", "-m", "-M", "-c", "-C", "-f", "-u", "--delete", "--move",
                        "--copy", "--force", "--set-upstream-to", "--unset-upstream",
                        "--edit-description")  # fmt: skip
            listing = w.has("-l", "--list", "--contains", "--no-contains", "--merged",
                            "--no-merged", "--points-at", "--show-current")  # fmt: skip
            return not w.has(*changes) and (listing or not (w.plain or w.after))
        case "tag":
            listing = w.has("-l", "--list", "--contains", "--points-at", "--merged", "-n")
            changing = ("-d", "-a", "-s", "-f", "-m", "-F", "-u", "--delete", "--annotate",
                        "--sign", "--force", "--message", "--file")  # fmt: skip
            return not w.has(*changing) and (listing or not (w.plain or w.after))
        case "stash":
            return w.first in ("list", "show")
        case "worktree":
            return w.first == "list"
        case "remote":
            return w.first in ("", "get-url")
        case "reflog":
            return w.first not in ("expire", "delete", "drop")
        case "notes":
            return w.first in ("", "list", "show")
    return False
