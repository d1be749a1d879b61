"""The worker of one call: confines itself, runs the tool's function, sends what came of it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from loomd.supervise import kernel
from loomd.supervise.sweep import VARIABLE as MARK
from loomd.tools import copy as copies
from loomd.tools import layer, profile, sandbox
from loomd.tools.barred import Barred
from loomd.tools.contract import (
    Context,
    Proposal,
    Result,
    State,
    ToolError,
    ToolSpec,
    check_arguments,
)
from loomd.tools.frames import Channel, Frames, Gone, frame, receive_frame, send_frame
from loomd.tools.profile import Rules
from loomd.tools.propose import MAX_HUNKS, capped, change, weight
from loomd.wire import codec
from loomd.wire.errors import LoomError

STATE_LIMIT: Final = 48 << 10

CPU_GRACE_S: Final = 2
"""Between SIGXCPU, which names the reason, and SIGKILL for whoever ignores it."""

PROGRESS: Final = 16 << 10
"""Characters of what a call says at once while it runs."""


def worker(sock: socket.socket, output: int, tools: Mapping[str, ToolSpec]) -> NoReturn:
    """Waits for the order, runs the function and sends what came of it; never returns."""
    status = 1
    try:
        if not kernel.die_with(os.getppid()):
            os._exit(1)
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        kernel.close_all_but([sock.fileno()])
        sock.set_inheritable(False)
        kernel.default_signals()
        # Whatever the process that forked us had made of them: now they are the pipe.
        sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w")
        _step_back()
        rehearse(tools)
        _send_result(sock, _run(sock, receive_frame(sock), tools))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        status = 0
    except Gone:
        pass
    except BaseException:  # noqa: BLE001 - its output is the only place left to say it
        traceback.print_exc()
    finally:
        os._exit(status)


_REHEARSED: Final = frame(
    {
        "tool": "list",
        "args": {"path": "."},
        "rules": msgspec.to_builtins(Rules("workspace", read=("/usr",), own="/tmp")),
        "repo": "/srv/repo",
        "scratch": "/srv/scratch",
    }
)


def rehearse(tools: Mapping[str, ToolSpec]) -> None:
    """Goes the way of a call as far as that changes nothing, while nobody waits for it: each page
    that is written to for the first time after a fork is copied, and a call touches hundreds."""
    (order,) = Frames().feed(_REHEARSED)
    spec = tools.get(order["tool"])
    if spec is not None:
        check_arguments(spec, order["args"])
    os.environ.update(dict(os.environ))
    rules = msgspec.convert(order["rules"], Rules)
    sandbox.rehearse(rules)
    repo, scratch = Path(order["repo"]), Path(order["scratch"])
    Context(repo=repo, state=State(dict), scratch=scratch)
    frame({"result": readable(_result(Result(str(repo / "a"), data={"n": 1})))})


def _text(fd: int, mode: str) -> Any:
    """A standard stream, by lines: what is printed first comes first, on whichever of the two."""
    return os.fdopen(fd, mode, closefd=False, encoding="utf-8", errors="replace", buffering=1)


def _send_result(sock: socket.socket, result: dict[str, Any]) -> None:
    try:
        send_frame(sock, {"result": result})
    except ToolError as error:
        send_frame(sock, {"result": _failure(error.code, error.text)})
    except (TypeError, ValueError, OverflowError) as error:
        text = f"the tool returned what cannot be told: {error}"
        send_frame(sock, {"result": _failure("failed", text)})


def _run(
    sock: socket.socket, order: dict[str, Any], tools: Mapping[str, ToolSpec]
) -> dict[str, Any]:
    spec = tools.get(order["tool"])
    if spec is None:
        return _failure("no_such_tool", f"there is no tool {order['tool']!r}")
    try:
        return _execute(sock, order, spec)
    except ToolError as error:
        return _failure(error.code, error.text)
    except LoomError as error:
        return _failure("failed", f"{error.message}. {error.hint}".rstrip(". "))
    except MemoryError:
        return _failure("crashed", _memory(order["limits"]))
    except BaseException as error:  # noqa: BLE001 - a tool's error is the model's to read
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return _failure("crashed", _memory(order["limits"]))
        return _failure("failed", trimmed(error, spec.function.__code__.co_filename))


def _memory(limits: Mapping[str, Any]) -> str:
    return f"out of memory: a call may use {limits['memory_mb']} MB"


def _execute(sock: socket.socket, order: dict[str, Any], spec: ToolSpec) -> dict[str, Any]:
    """Arguments, limits, confinement, the function, and what it changed."""
    given = check_arguments(spec, order["args"])
    env: dict[str, str] = order["env"]
    if MARK in os.environ:  # by which a successor of the daemon finds what is left of it
        env = {**env, MARK: os.environ[MARK]}
    os.environ.clear()
    os.environ.update(env)
    _limit(order["limits"])
    repo, scratch = Path(order["repo"]), Path(order["scratch"])
    copy = None
    barred = Barred(order["repo"], order.get("barred"))
    if order["scratched"]:
        for folder in ("tmp", "home"):
            (scratch / folder).mkdir(parents=True, exist_ok=True)
    if order["copy"]:
        copy = copies.make(repo, scratch / "checkout", barred.denied if barred else None)
        repo = copy.root
    allowed = msgspec.convert(order["rules"], Rules)
    if barred and order["scratched"]:
        found = copies.below(repo, "", barred.denied) if copy is None else copy.barred
        allowed = profile.without(allowed, order["repo"], found)
    os.chdir("/")
    if sandbox.enter(allowed, order["backend"], order["bwrap"], [sock.fileno(), 1, 2]):
        most = int(order["limits"]["processes"])
        _lower(resource.RLIMIT_NPROC, most)
    os.chdir(repo)
    if copy is not None:
        layer.lay(copy, scratch)
    state = State(lambda: _fetch(sock))
    kept = dict(order.get("kept") or {})
    if spec.context:
        given[spec.context] = Context(
            repo=repo,
            session=order["session"],
            agent=order["agent"],
            call=order["id"],
            state=state,
            env=env,
            scratch=scratch,
            limits=order["limits"],
            review=order["review"],
            seen=lambda path: _seen(sock, path),
            progress=lambda text, offset=0: _progress(sock, text, offset),
            channel=Channel(sock) if order.get("job") else None,
            kept=kept,
            barred=barred,
        )
    socket.setdefaulttimeout(spec.socket_timeout_s)
    returned = spec.function(**given)
    spooled = returned.data.get("spooled") if isinstance(returned, Result) else None
    if copy is not None:
        returned = _changed(copy, returned)
        layer.keep(copy, scratch)
    result = _result(returned)
    if spooled:
        result.setdefault("data", {})["spooled"] = spooled
    if kept != (order.get("kept") or {}):
        result["kept"] = kept
    if state.touched:
        result["state"] = checked_state(state.value())
    return readable(result)  # type: ignore[no-any-return]


def readable(value: Any) -> Any:
    """The same value with what is no UTF-8 (names of files may be any bytes) as `\\xNN`."""
    if isinstance(value, str):
        return value if value.isascii() else _escaped(value)
    if isinstance(value, dict):
        return {readable(key): readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return value


def _escaped(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text


def _changed(copy: copies.Copy, returned: Any) -> Any:
    """What came of a call on a private copy: its result, or a proposal if files have changed. A
    call that failed leaves nothing."""
    if isinstance(returned, Proposal):
        return returned
    result = _result(returned)
    files, left = copies.changes(copy)
    if not result["ok"]:
        if files:
            names = ", ".join(file.path for file in files[:20])
            more = f" and {len(files) - 20} more" if len(files) > 20 else ""
            result["text"] += f"\n[it failed, so what it changed was not kept: {names}{more}]"
        return Result(**result)
    if left:
        shown = "\n".join(left[:20])
        result["text"] += f"\n[not carried over from the private copy:\n{shown}]"
    if not files:
        return Result(**result)
    reason = str(result["data"].get("reason") or "what a command changed")
    return Proposal(tuple(files), reason, result["text"], result["output"])


def _progress(sock: socket.socket, text: str, offset: int) -> None:
    said = _escaped(str(text))[:PROGRESS]
    send_frame(sock, {"progress": said, "offset": int(offset)})


def _fetch(sock: socket.socket) -> dict[str, Any]:
    send_frame(sock, {"lock": True})
    value = receive_frame(sock).get("state")
    return value if isinstance(value, dict) else {}


def _seen(sock: socket.socket, path: str) -> list[str] | None:
    send_frame(sock, {"seen": readable(path)})
    value = receive_frame(sock).get("seen")
    return value if isinstance(value, list) else None


def _step_back() -> None:
    """Behind the daemon's own processes, for the processor and when memory runs out."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), 10))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def _limit(limits: Mapping[str, Any]) -> None:
    space = int(limits.get("address_mb", 0)) << 20
    if space:
        _lower(resource.RLIMIT_AS, space)
    cpu = math.ceil(float(limits.get("cpu_s", 3600)))
    _lower(resource.RLIMIT_CPU, cpu, cpu + CPU_GRACE_S)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, int(limits.get("file_mb", 4096)) << 20)
    _lower(resource.RLIMIT_NOFILE, 4096)


def _lower(which: int, soft: int, most: int = 0) -> None:
    """`most`: the hard limit, where that is not the same."""
    most = most or soft
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(which, (min(soft, most), most))


def _result(returned: Any) -> dict[str, Any]:
    """What a tool returned, as a frame."""
    if returned is None:
        returned = ""
    if isinstance(returned, Result):
        return {
            "ok": returned.ok,
            "text": returned.text,
            "error": returned.error,
            "data": dict(returned.data),
            "output": returned.output,
        }
    if isinstance(returned, Proposal):
        return _proposal(returned)
    if isinstance(returned, str):
        return {"ok": True, "text": returned, "error": "", "data": {}, "output": b""}
    try:
        text = msgspec.json.encode(returned).decode()
    except (TypeError, ValueError) as error:
        raise ToolError(f"the tool returned what cannot be shown: {error}") from None
    return {"ok": True, "text": text, "error": "", "data": {}, "output": b""}


def _proposal(proposal: Proposal) -> dict[str, Any]:
    files = tuple(change(f.path, f.base, f.after, f.mode) for f in proposal.files)
    if weight(files) > MAX_HUNKS:
        raise ToolError(
            f"the change has {weight(files)} bytes in changed lines; at most {MAX_HUNKS} fit "
            "one proposal: propose it in parts",
            "too_large",
        )
    blobs = [
        content for f in proposal.files for content in (f.base, f.after) if content is not None
    ]
    return {
        "files": [msgspec.to_builtins(file) for file in capped(files)],
        "blobs": blobs,
        "reason": proposal.reason,
        "note": proposal.note,
        "output": proposal.output,
        "review": proposal.review,
    }


def checked_state(value: dict[str, Any]) -> dict[str, Any]:
    """The state of a tool, if it can be stored. ToolError."""
    if not isinstance(value, dict):
        raise ToolError(f"ctx.state is no map but {type(value).__name__}")
    try:
        size = len(codec.pack(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ToolError(f"ctx.state holds what cannot be stored: {error}") from None
    if size > STATE_LIMIT:
        raise ToolError(f"ctx.state has {size} bytes; at most {STATE_LIMIT} can be stored")
    return value


def _failure(error: str, text: str) -> dict[str, Any]:
    return {"ok": False, "text": text, "error": error, "data": {}, "output": b""}


def trimmed(error: BaseException, file: str, limit: int = 4000) -> str:
    """The traceback from the author's first frame on."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename == file), None)
    if isinstance(error, SyntaxError) or first is None:
        shown = traceback.format_exception_only(error)
    else:
        shown = [
            "Traceback (most recent call last):\n",
            *traceback.format_list(frames[first:]),
            *traceback.format_exception_only(error),
        ]
    text = "".join(shown).strip()
    return text if len(text) <= limit else f"{text[: limit // 2]}\n...\n{text[-limit // 2 :]}"
