"""Fixtures of all tests. Every test fails on what it leaves: processes, descriptors, threads."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests.openai_server import OpenAIServer
from tests.support import Daemon, TestInstance, describe, eventually, make_instance, remove_instance

# How long an example takes says nothing: by default one of 200 ms, on a machine that stalls, fails.
settings.register_profile(
    "untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one of the listing itself
            continue
    return found


def _harmless(target: str) -> bool:
    """Descriptors that a library opens once for the life of the process."""
    return target.startswith(("/dev/null", "/dev/urandom", "/dev/random"))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves a child process, a descriptor, a thread or a socket file behind."""
    me = psutil.Process()
    descriptors = _descriptors()
    threads = set(threading.enumerate())
    tasks = len(os.listdir("/proc/self/task"))
    children = set(me.children(recursive=True))
    yield

    def left() -> dict[str, object]:
        found = {
            "children": describe([p for p in me.children(recursive=True) if p not in children]),
            "threads": [t.name for t in threading.enumerate() if t not in threads],
            "descriptors": {
                fd: target
                for fd, target in _descriptors().items()
                if descriptors.get(fd) != target and not _harmless(target)
            },
        }
        if len(os.listdir("/proc/self/task")) > tasks:
            found["tasks"] = "threads of a library (a zmq context?)"
        return {what: value for what, value in found.items() if value}

    if not left():
        return
    gc.collect()
    eventually(lambda: not left(), what=lambda: f"nothing left behind: {left()}")


@pytest.fixture
def instance() -> Iterator[TestInstance]:
    """An instance of its own, with an empty config; removed afterwards, nothing of it may live."""
    made = make_instance()
    yield made
    sockets = [] if made.killed else made.sockets()
    remove_instance(made)
    assert sockets == [], f"socket files left: {sockets}"


@pytest.fixture
def daemon(instance: TestInstance) -> Iterator[Daemon]:
    """A ready daemon on `instance`, stopped in order afterwards."""
    made = Daemon(instance)
    try:
        made.start()
        yield made
        made.stop()
    finally:
        made.kill()


@pytest.fixture
def daemons() -> Iterator[Callable[..., Daemon]]:
    """A maker of daemons on instances of their own: `daemons(config="...", LOOM_X="...")`."""
    made: list[Daemon] = []

    def make(config: str = "", **env: str) -> Daemon:
        daemon = Daemon(make_instance(config), env=env)
        made.append(daemon)
        return daemon.start()

    yield make
    try:
        for daemon in made:
            daemon.stop()
    finally:
        for daemon in made:
            daemon.kill()
            remove_instance(daemon.instance)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A model that says what it is told."""
    with OpenAIServer() as made:
        yield made
