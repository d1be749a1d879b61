"""A template: a fresh interpreter that has imported the actor code once and forks on order.

    root --order, one end of the link--> template --fork--> middle --fork--> child
                                                    middle exits at once; the root adopts the child

A few children are forked ahead of their orders (`spares`), do what every actor must do anyway
(`ahead`), and are handed their orders by the template. Orders that wait already share one middle.

The child waits until the root is its parent (and exits if it ever is another), arranges to die with
it, tells its pid on its link (the kernel vouches for it), takes a session of its own, closes every
descriptor but its own, and only then calls its entry point `main(birth)`. Nothing is opened here
that a child must not inherit: no thread, no ZeroMQ context, no LMDB environment.

Started by the root as a fresh `python -c ... LINK_FD SLOTS_FD`, with one `setup` message waiting on
the link.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from loomd.supervise import cgroup, kernel
from loomd.supervise.crash import crash_point
from loomd.supervise.link import ChildLink, LinkClosed, ProcessBirth, decode
from loomd.supervise.slots import LOOP, Slot, SlotMap
from loomd.supervise.spec import CANNOT_START, COULD_NOT_START, NORMAL

MAX_ORDER = 256 * 1024
MAX_REPORT = 32 * 1024
MAX_MIDDLES = 64
MAX_BIRTHS = 8
"""Orders that share one middle process: the first child lives when the last is forked."""
MAX_FDS = 8
"""Descriptors that come with an order: link, keys, locks, listener."""

try:
    from setproctitle import setproctitle
except ImportError:  # a courtesy to `ps`, not a need

    def setproctitle(title: str) -> None:
        return None


def serve(link: ChildLink, slots: SlotMap) -> NoReturn:
    """Imports, freezes the heap, then forks one process per order until the link ends."""
    sock = link.sock
    sock.setblocking(True)
    setup = decode(sock.recv(MAX_ORDER))
    if setup is None or setup.get("op") != "setup":
        os._exit(COULD_NOT_START)
    root: int = setup["root"]
    if not kernel.die_with(root):
        os._exit(COULD_NOT_START)
    setproctitle(f"loomd: {setup['name']}")
    _preload(link, setup["preload"], setup["without"])
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        _report(link, f"{len(threads)} threads after the imports: a fork would lose them")
        os._exit(CANNOT_START)
    slot = slots.slot(setup["slot"])
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy the whole heap
    link.ready()
    middles: list[int] = []
    spares: list[socket.socket] = []
    prepare = partial(_prepare, setup["ahead"], setup["args"])
    cgroups: str = setup["cgroups"]
    while True:
        while not select.select([sock], [], [], 0)[0] and (
            middles or len(spares) < setup["spares"]
        ):
            if middles:
                os.waitpid(middles.pop(), 0)
            else:
                middles += _make_spare(spares, root, slots, prepare, cgroups)
        orders, sweeping = _take_orders(sock)
        if sweeping:
            middles += _fork_twice([partial(_sweep, cgroups)])
        slot.begin(LOOP)
        births = []
        for data, order, fds in orders:
            crash_point("template.before_fork", order["name"])
            if (order["cold"] and setup["ahead"]) or not _use_spare(spares, data, fds):
                births.append(partial(_child, order, fds, root, slots, cgroups))
        if births:
            middles += _fork_twice(births)
        if len(middles) > MAX_MIDDLES:
            middles = [pid for pid in middles if not os.waitpid(pid, os.WNOHANG)[0]]
        for _, _, fds in orders:
            for fd in fds:
                os.close(fd)
        slot.end()


def _take_orders(
    sock: socket.socket,
) -> tuple[list[tuple[bytes, dict[str, Any], list[int]]], bool]:
    """Waits for an order; it and those that have come behind it, and whether the cgroups of the
    dead are to be swept. Exits when the link ends."""
    orders: list[tuple[bytes, dict[str, Any], list[int]]] = []
    sweeping = False
    while len(orders) < MAX_BIRTHS:
        if (orders or sweeping) and not select.select([sock], [], [], 0)[0]:
            break
        try:
            data, fds, _, _ = socket.recv_fds(sock, MAX_ORDER, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            os._exit(NORMAL)
        if not data:
            os._exit(NORMAL)
        order = decode(data)
        if order is not None and order.get("op") == "fork":
            orders.append((data, order, fds))
            continue
        for fd in fds:
            os.close(fd)
        if order is not None and order.get("op") == "stop":
            os._exit(NORMAL)
        sweeping |= order is not None and order.get("op") == "sweep"
    return orders, sweeping


def _sweep(cgroups: str, between: int) -> NoReturn:
    """Not in the template itself: each removal may have to wait."""
    try:
        cgroup.remove_empty(cgroups)
    finally:
        os._exit(NORMAL)


def _prepare(ahead: str, args: dict[str, Any]) -> None:
    """What a spare does before it waits for its order. It lives on without it, if that fails."""
    if not ahead:
        return
    module, _, function = ahead.partition(":")
    try:
        getattr(importlib.import_module(module), function)(args)
    except Exception:  # noqa: BLE001 - of any actor's module; the actor will meet it again, and say
        traceback.print_exc()


def _preload(link: ChildLink, modules: list[str], without: list[str]) -> None:
    """Imports what can be imported. What cannot ends only those who need it, with its reason.

    Modules in `without` are not to be found meanwhile: optional imports of libraries that would
    only make the image larger, and so every fork slower.
    """
    hidden = [name for name in without if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        _import_all(link, modules)
    finally:
        for name in hidden:
            del sys.modules[name]


def _import_all(link: ChildLink, modules: list[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - any fault of any actor's module
            said = "".join(traceback.format_exception(error))
            print(f"preload of {name} failed:\n{said}", file=sys.stderr, flush=True)
            with contextlib.suppress(LinkClosed):
                link.send({"op": "warning", "text": f"preload of {name}: {error!r}"[:2000]})


def _fork_twice(children: Sequence[Callable[[int], NoReturn]]) -> list[int]:
    """Forks processes that the root adopts and that run `child(pid of the one in between)`.

    The pid of the one in between, to be reaped: not at once, which would make a burst of births
    three times as long. Empty if no process can be made: the root then sees the link end. All are
    forked by libc alone: what Python does after a fork (locks made anew, threads forgotten, hooks
    of `threading`, `logging`, `random`) is for processes with threads, and touches, and so copies,
    700 KB of pages that every actor would carry for its life. `_live` does what is left of it.
    """
    middle = kernel.plain_fork()
    if middle:
        return [middle] if middle > 0 else []
    try:
        between = os.getpid()
        for child in children:
            if kernel.plain_fork() == 0:
                child(between)
    finally:
        os._exit(NORMAL)


def _child(
    order: dict[str, Any],
    fds: list[int],
    root: int,
    slots: SlotMap,
    cgroups: str,
    between: int,
) -> NoReturn:
    status = 1
    try:
        if kernel.wait_for_parent(root, between) and kernel.die_with(root):
            kernel.close_all_but(fds)
            leaf = cgroup.settle_anew(cgroups) if cgroups else None
            status = _live(order, fds, slots, leaf)
    except BaseException:  # noqa: BLE001 - the last line of defence: say it, then end
        traceback.print_exc()
    finally:
        os._exit(status)


def _make_spare(
    spares: list[socket.socket],
    root: int,
    slots: SlotMap,
    prepare: Callable[[], None],
    cgroups: str,
) -> list[int]:
    """Forks, while nothing else is to do, a process that waits for an order.

    Most of the time of a birth is two forks, the first touch of the pages, and what every actor
    opens; a spare has that behind it. Until its order it stays in the template's session, by which
    the root knows it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spares.append(ours)
    middle = _fork_twice([partial(_spare, theirs, root, slots, prepare, cgroups)])
    theirs.close()
    return middle


def _spare(
    sock: socket.socket,
    root: int,
    slots: SlotMap,
    prepare: Callable[[], None],
    cgroups: str,
    between: int,
) -> NoReturn:
    status = NORMAL
    try:
        if kernel.wait_for_parent(root, between) and kernel.die_with(root):
            kernel.close_all_but([sock.fileno()])
            leaf = cgroup.settle_anew(cgroups) if cgroups else None
            prepare()
            data, fds, _, _ = socket.recv_fds(sock, MAX_ORDER, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            order = decode(data)
            sock.close()
            if order is not None:  # None: the template is gone
                status = _live(order, fds, slots, leaf)
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)


def _use_spare(spares: list[socket.socket], order: bytes, fds: list[int]) -> bool:
    """Gives the order to a living spare; False if there is none."""
    while spares:
        with spares.pop(0) as spare, contextlib.suppress(OSError):
            socket.send_fds(spare, [order], fds)
            return True
    return False


def _live(order: dict[str, Any], fds: list[int], slots: SlotMap, leaf: cgroup.Leaf | None) -> int:
    """From the pid message to the end of the entry point; the exit status."""
    name: str = order["name"]
    link = ChildLink(socket.socket(fileno=fds[0]), name)
    if leaf is not None:
        leaf.limit(order["memory"], order["pids"])
    try:
        link.send({"op": "pid", "cgroup": leaf.name if leaf is not None else ""})
    except LinkClosed:
        return COULD_NOT_START
    os.setsid()
    keys = fds[1] if order["keys"] else -1
    listener = fds[-1] if order["listener"] else -1
    kernel.redirect_output(order["output"])
    if order["nice"]:
        kernel.be_nice(order["nice"])
    setproctitle(f"loomd: {name}")
    kernel.default_signals()
    if "random" in sys.modules:
        sys.modules["random"].seed()  # or all would draw what the template would have drawn
    slot: Slot = slots.slot(order["slot"])
    birth = ProcessBirth(
        name=name,
        incarnation=order["incarnation"],
        token=order["token"],
        link=link,
        slot=slot,
        args=order["args"],
        keys_fd=keys,
        listen_fd=listener,
        boot=order["boot"],
        trial=order["trial"],
    )
    module, _, function = order["entry"].partition(":")
    try:
        entry = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, SyntaxError):
        _report(link, traceback.format_exc())
        return CANNOT_START
    except Exception:  # noqa: BLE001 - whatever a module does while it is imported
        _report(link, traceback.format_exc())
        return COULD_NOT_START
    try:
        entry(birth)
    except SystemExit as leaving:
        code = leaving.code
        return code if isinstance(code, int) else int(code is not None)
    except BaseException:  # noqa: BLE001 - every death of an actor is reported to the root
        _report(link, traceback.format_exc())
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    return NORMAL


def _report(link: ChildLink, text: str) -> None:
    """Tells the root why this process ends; also in its output file."""
    sys.stderr.write(text)
    with contextlib.suppress(LinkClosed, OSError):
        link.send({"op": "crash", "traceback": text[-MAX_REPORT:]})


def main(argv: list[str]) -> NoReturn:
    link = ChildLink(socket.socket(fileno=int(argv[1])), "template")
    serve(link, SlotMap(int(argv[2])))
