"""Children to be forked from a template. `args["do"]` says how each behaves, after `ready`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from loomd.supervise.link import LinkClosed, ProcessBirth
from loomd.supervise.slots import LOOP, MAIL

prepared: list[int] = []
"""The pid of the spare that `prepare` was called in."""


def prepare(args: dict[str, Any]) -> None:
    prepared.append(os.getpid())
    threading.Thread(target=signal.pause, daemon=True).start()  # as the sockets' context has
    if args.get("unprepared"):
        raise RuntimeError("cannot be prepared")


def main(birth: ProcessBirth) -> None:
    args = birth.args
    folder = Path(args["folder"])
    with open(folder / "births", "a") as file:  # one short write: whole lines, in order
        file.write(f"{birth.name} {os.getpid()} {birth.incarnation}\n")
    do = args.get("do", "live")
    if do == "fail_starts" and _count(folder, birth.name) <= args["times"]:
        sys.exit(73)
    if do == "cannot_start":
        sys.exit(74)
    if do == "never_ready":
        _live(birth)
    if do == "ignore":
        return
    birth.link.ready()
    if do == "exit":
        sys.exit(args["status"])
    if do == "raise":
        raise RuntimeError(args["text"])
    if do == "hang_in_step":
        birth.slot.begin(MAIL, 1, 7)
        signal.pause()
    if do == "raise_in_step":
        birth.slot.begin(MAIL, 1, 9)
        raise RuntimeError("in a step")
    if do == "segv_in_step":
        birth.slot.begin(MAIL, 0, 8)
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "prepared":
        known = prepared == [os.getpid()]
        nice = {os.getpriority(os.PRIO_PROCESS, int(t)) for t in os.listdir("/proc/self/task")}
        (folder / birth.name).write_text(f"{known} {nice}")
    if do == "crash_while_told" and (folder / "go").exists():
        sys.exit(3)
    if do == "grow_in_step":
        birth.slot.begin(MAIL, 1, 5)
        held = b"x" * (args["mb"] << 20)
        signal.pause()
        del held
    if do == "hold":
        birth.slot.begin(LOOP)
        held = b"x" * (args["mb"] << 20)
    if do == "stubborn":
        signal.pause()
    if do == "brood":
        _brood(folder, birth.name)
    if do == "keys":
        (folder / "keys").write_bytes(os.pread(birth.keys_fd, 1 << 20, 0))
        (folder / "environ").write_bytes(Path("/proc/self/environ").read_bytes())
    if do == "descriptors":
        names = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors())
        (folder / "descriptors").write_text("\n".join(names))
    _live(birth)
    with open(folder / "ends", "a") as file:
        file.write(f"{birth.name}\n")


def _descriptors() -> list[int]:
    own = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            os.fstat(fd)
        except OSError:
            continue  # the one that listed them
        own.append(fd)
    return own


def _live(birth: ProcessBirth) -> None:
    """Until told to stop, or the root is gone."""
    while True:
        select.select([birth.link], [], [])
        try:
            message = birth.link.receive()
        except LinkClosed:
            os._exit(0)
        if message is not None and message["op"] == "stop":
            return
        if message is not None and message["op"] == "epoch":
            with open(Path(birth.args["folder"]) / "epochs", "a") as file:
                file.write(f"{birth.name} {message['epoch']}\n")


def _count(folder: Path, name: str) -> int:
    with open(folder / f"count-{name.replace('/', '.')}", "a") as file:
        file.write(".")
        return file.tell()


def _brood(folder: Path, name: str) -> None:
    """A child, a child in a session of its own, and a shell's child that left both."""
    nap = [sys.executable, "-c", "import signal; signal.pause()"]
    one = subprocess.Popen(nap)
    two = subprocess.Popen(nap, start_new_session=True)
    inner = f"'{nap[0]}' -c '{nap[2]}' & echo $!"
    three = subprocess.run(
        ["setsid", "sh", "-c", inner + " > " + str(folder / "third")], check=False
    )
    assert three.returncode == 0
    while not (folder / "third").read_text().strip():
        time.sleep(0.001)
    third = int((folder / "third").read_text())
    (folder / "brood.new").write_text(f"{one.pid} {two.pid} {third}")
    (folder / "brood.new").rename(folder / "brood")
