"""The writer thread: all waiting jobs, one durable transaction, the results back in order.

A job is a function of a `Batch` that yields its `Result`. If a transaction fails it is aborted and
its jobs are applied one by one, so that one offender costs the others nothing: the offender's
result is `Refused`. No space left: every commit of the transaction is answered `Retry`. Any other
error of the store ends the hub: what is on disk is whole, and its successor starts from there.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

from loomd.hub.mail import Batch
from loomd.hub.rules import Result, Rules, check_epoch
from loomd.store.env import DiskFull, Store, StoreError
from loomd.supervise.crash import crash_point

MAX_JOBS: Final = 2000
"""Of one transaction: the first of them must not wait for the last for too long."""

RETRY_S: Final = 0.5

log = structlog.get_logger()


class Job:
    """One thing to be written. `apply` runs in the writer thread, `then` in the loop.

    failed   what the loop calls instead, with `refused`, `disk_full` or `retired`, and a detail
    """

    __slots__ = ("apply", "failed", "name", "result", "then", "why")

    def __init__(
        self,
        apply: Callable[[Batch], Result],
        then: Callable[[Result], None],
        failed: Callable[[str, str], None],
        name: str = "",
    ) -> None:
        self.apply = apply
        self.then = then
        self.failed = failed
        self.name = name
        self.result: Result | None = None
        self.why: tuple[str, str] = ("", "")


class Dethroned(Exception):
    """Another hub has begun a newer epoch: this one must not write."""


class Writer:
    """Owns the write side of the store. `put` and `results` belong to the loop's thread."""

    def __init__(self, store: Store, rules: Rules, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._rules = rules
        self._clock = clock
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: deque[Job] = deque()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._broken: str = ""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.transactions = 0
        self.jobs = 0

    def start(self) -> None:
        self._thread.start()

    def put(self, job: Job) -> None:
        self._jobs.put(job)

    def results(self) -> list[Job]:
        """The jobs that are done, oldest first. Raises StoreError if the thread has died."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        done: list[Job] = []
        while self._done:
            done.append(self._done.popleft())
        if self._broken and not done:
            raise StoreError(self._broken)
        return done

    def stop(self) -> None:
        """Finishes what is queued; returns when the thread has ended."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def close(self) -> None:
        os.close(self.fd)

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                jobs, last = self._waiting()
                if jobs:
                    self._write(jobs)
                if last:
                    return
        except Exception as error:  # noqa: BLE001 - it ends the hub, in the loop's thread
            self._broken = f"{type(error).__name__}: {error}"
            log.critical("writer.broken", error=traceback.format_exc())
            os.eventfd_write(self.fd, 1)

    def _waiting(self) -> tuple[list[Job], bool]:
        job = self._jobs.get()
        jobs: list[Job] = []
        while True:
            if job is None:
                return jobs, True
            jobs.append(job)
            if len(jobs) == MAX_JOBS:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False

    def _write(self, jobs: list[Job]) -> None:
        try:
            self._transaction(jobs)
        except DiskFull as error:
            for job in jobs:
                self._no_room(job, error)
        except Dethroned:
            raise
        except Exception as error:  # an error of one job must not cost the others
            if isinstance(error, StoreError) and self._hopeless():
                raise
            if len(jobs) == 1:
                self._offence(jobs[0], error)
            else:
                self._one_by_one(jobs)
        self._done.extend(jobs)
        os.eventfd_write(self.fd, 1)

    def _transaction(self, jobs: list[Job]) -> None:
        with self._store.writing() as txn:
            if not check_epoch(txn, self._rules.epoch):
                raise Dethroned(f"epoch {self._rules.epoch} is over")
            batch = Batch(self._rules, txn, self._clock())
            for job in jobs:
                job.result = job.apply(batch)
            batch.flush()
            crash_point("hub.before_commit")
        self._rules.adopt(batch)
        self.transactions += 1
        self.jobs += len(jobs)
        crash_point("hub.after_commit")

    def _one_by_one(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.result = None
            try:
                self._transaction([job])
            except DiskFull as error:
                self._no_room(job, error)
            except Dethroned:
                raise
            except Exception as error:
                if isinstance(error, StoreError) and self._hopeless():
                    raise
                self._offence(job, error)

    def _no_room(self, job: Job, error: DiskFull) -> None:
        # It may be the commit that failed: then the job has a result, and nothing is stored.
        job.result = None
        job.why = ("disk_full", str(error))

    def _offence(self, job: Job, error: Exception) -> None:
        job.result = None
        job.why = ("internal", f"{type(error).__name__}: {error}")
        log.error("writer.refused", job=job.name, error=traceback.format_exc())

    def _hopeless(self) -> bool:
        """Whether not even an empty transaction can be stored."""
        try:
            with self._store.writing() as txn:
                return not check_epoch(txn, self._rules.epoch)
        except (StoreError, DiskFull):
            return True


def finish(job: Job) -> None:
    """In the loop: tells whoever sent the job what came of it."""
    if job.result is None:
        job.failed(*job.why)
    else:
        job.then(job.result)


def unused(*_: Any) -> None:
    """For jobs whose outcome nobody waits for."""
