"""A service that a test steers: `python service.py FOLDER NAME [WORD..]`.

It writes a line to FOLDER/story when it starts (`+NAME PID`) and when it is told to stop
(`-NAME`), and then does what the pipe FOLDER/NAME says, a line at a time: `exit N`, `kill N` (a
signal to itself), `say TEXT`, `notify TEXT`, `listen PORT`, `shout BYTES`, `eat MB`, `brood`.

Words: `slow` waits for a line `go` before it starts; `failing` starts only if FOLDER/NAME.good is
there; `deaf` ignores SIGTERM; `late` needs a line `bye` after SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

MEALS: list[bytes] = []


class Stop(BaseException):
    """SIGTERM: raised wherever it is, for a file that is being read cannot be read in between."""


def main(folder: Path, name: str, *words: str) -> None:
    def tell(text: str) -> None:
        fd = os.open(folder / "story", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, f"{text}\n".encode())  # one short write: whole lines, in order
        os.close(fd)

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in words else stop)
    pipe = folder / name
    if not pipe.exists():
        os.mkfifo(pipe)
    orders = os.fdopen(os.open(pipe, os.O_RDWR), "r", buffering=1)
    try:
        live(folder, name, words, orders, tell)
    except Stop:
        tell(f"-{name}")
    while "late" in words and orders.readline() != "bye\n":
        continue
    os._exit(0)


def live(
    folder: Path, name: str, words: tuple[str, ...], orders: TextIO, tell: Callable[[str], None]
) -> None:
    """Until it is told to stop."""
    if "slow" in words:
        tell(f"~{name} {os.getpid()}")
        while orders.readline() != "go\n":
            continue
    if "failing" in words and not (folder / f"{name}.good").exists():
        tell(f"!{name}")
        os._exit(3)
    tell(f"+{name} {os.getpid()}")
    print("up", flush=True)
    while True:
        obey(folder, *orders.readline().strip().partition(" ")[::2])


def obey(folder: Path, order: str, text: str) -> None:
    match order:
        case "exit":
            os._exit(int(text))
        case "kill":
            os.kill(os.getpid(), int(text))
        case "say":
            print(text, flush=True)
        case "notify":
            address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(text.encode(), address)
        case "listen":
            listener = socket.create_server(("127.0.0.1", int(text)))
            listener.detach()
        case "shout":
            left = int(text)
            while left > 0:
                left -= os.write(1, (b"\0\xff\x1b[31m" + os.urandom(58)) * 512)
            print("\ndone", flush=True)
        case "eat":
            MEALS.append(b"x" * (int(text) << 20))
        case "brood":
            brood(folder)


def brood(folder: Path) -> None:
    """A daemon of the old school (forked twice, in a session of its own), and a child that left
    for its own session; both are deaf to SIGTERM. Their pids are in FOLDER/daemon and /child."""
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if 'daemon' in sys.argv[1]:\n"
        "    if pid := os.fork(): os.waitpid(pid, 0); os._exit(0)\n"
        "    os.setsid()\n"
        "    read, write = os.pipe()\n"
        "    if os.fork(): os.close(write); os.read(read, 1); os._exit(0)\n"
        "with open(sys.argv[1] + '.new', 'w') as file: file.write(str(os.getpid()))\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "if 'daemon' in sys.argv[1]: os.close(write)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, "-c", program]
    subprocess.Popen([*command, str(folder / "child")], start_new_session=True)
    subprocess.run([*command, str(folder / "daemon")], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
