"""What the bare mechanisms cost on this machine, without any of our logic. In milliseconds."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from loomd.store.env import Store
from loomd.wire import endpoints, sockets


def durable_write(n: int = 100) -> float:
    """Median of one LMDB transaction with two small rows and its fsync."""
    base = Path(tempfile.mkdtemp(prefix="loom-floor-", dir="/tmp"))
    places = endpoints.Instance(base / "config.toml", base / "state", base / "run")
    store = Store.writer(places)
    try:
        spent = []
        for i in range(n):
            began = time.perf_counter()
            with store.writing() as txn:
                txn.put("mail", b"floor\0" + i.to_bytes(8, "big"), b"x" * 200)
                txn.put("actors", b"floor\0", b"x" * 300)
            spent.append(time.perf_counter() - began)
        return statistics.median(spent) * 1000
    finally:
        store.close()
        shutil.rmtree(base, ignore_errors=True)


def round_trip(n: int = 500) -> float:
    """Median of one ROUTER-DEALER round trip between two processes over ipc."""
    base = tempfile.mkdtemp(prefix="loom-floor-", dir="/tmp")
    address = f"ipc://{base}/s"
    child = os.fork()
    if child == 0:
        try:
            dealer = sockets.make_dealer(address, "floor")
            dealer.send(b"hello")
            while (frame := dealer.receive(10.0)) not in (None, b"end"):
                dealer.send(frame)
        finally:
            os._exit(0)
    router = sockets.make_router(address)
    try:
        router.receive(10.0)
        spent = []
        for _ in range(n):
            began = time.perf_counter()
            router.send_to(b"floor", b"x" * 100)
            router.receive(10.0)
            spent.append(time.perf_counter() - began)
        router.send_to(b"floor", b"end")
        return statistics.median(spent) * 1000
    finally:
        os.waitpid(child, 0)
        router.close()
        shutil.rmtree(base, ignore_errors=True)


def fork(n: int = 50) -> float:
    """Median of forking this process until the child has gone again."""
    spent = []
    for _ in range(n):
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1000
