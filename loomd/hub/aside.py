"""Work that takes too long for the hub's loop and needs nothing of the hub: one thread beside it.

`do` and `results` belong to the loop's thread, which watches `fd`. What is done there waits for a
disk or the kernel, so that the loop has the interpreter meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Aside:
    """Results come in the order in which they were asked for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "aside")
        self._thread.submit(int)  # it begins now: later there may be no room for a thread
        self._done: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def do(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Calls `work` in the thread, and `then` with what it has returned in `results`."""

        def ended(future: Future[Any]) -> None:
            if not future.cancelled():
                self._done.append((future, then))
                os.eventfd_write(self.fd, 1)

        self._thread.submit(work).add_done_callback(ended)

    def results(self) -> None:
        """Raises what `work` has raised."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while self._done:
            future, then = self._done.popleft()
            then(future.result())

    def close(self) -> None:
        """Drops what has not begun, and waits for what has."""
        self._thread.shutdown(cancel_futures=True)
        os.close(self.fd)
