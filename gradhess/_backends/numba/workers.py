"""Threads for jobs that release the GIL.

Numba's own parallel loops are not used: its default threading layer must not be entered by two threads at once.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

# Threads are started on demand, so this only bounds what all concurrent callers can have together. A caller works on
# its own jobs too, so a full pool delays nobody for ever.
_MAX_WORKERS = 256

_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()


class _ThisThread(threading.local):
    calls_helpers = False
    """It holds locks of the pool, which must not be entered again: by a signal handler, say."""


_this_thread = _ThisThread()


def _executor() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - one pool for the process
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_MAX_WORKERS, "gradhess")
        return _pool


def _forget_pool() -> None:
    """After a fork the child has the pool's object and none of its threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run(count: int, job: Callable[[int], None], threads: int) -> None:
    """Call ``job(0)`` to ``job(count - 1)`` in any order on at most ``threads`` threads, the caller's among them.

    The first exception, KeyboardInterrupt included, stops the rest; it is raised once no job is running any more.
    Overflow in NumPy is silent in a job: what it leads to is found by its row. A signal handler may call this, too,
    wherever it interrupts another call.
    """
    if threads <= 1 or count <= 1 or _this_thread.calls_helpers:
        with np.errstate(all="ignore"):
            for index in range(count):
                job(index)
        return

    team = _Team(count, job)
    try:
        _call_helpers(team, min(threads, count) - 1)
        team.work()
    finally:
        team.wait()
    team.raise_error()


def _call_helpers(team: _Team, count: int) -> None:
    _this_thread.calls_helpers = True
    try:
        pool = _executor()
        for _ in range(count):
            pool.submit(team.help)
    finally:
        _this_thread.calls_helpers = False


class _Team:
    """The jobs of one call, and the threads at work on them.

    Nothing is kept of helpers that have not begun: one that comes late finds no job left. So an interrupt between any
    two instructions of the caller leaves none behind that writes to its arrays.
    """

    def __init__(self, count: int, job: Callable[[int], None]) -> None:
        self._job = job
        self._waiting = deque(range(count))
        # Helpers, counted by themselves; lists, as to append to one cannot be interrupted half way.
        self._begun: list[None] = []
        self._ended: list[None] = []
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._errors: list[BaseException] = []

    def work(self) -> None:
        try:
            with np.errstate(all="ignore"):
                while True:
                    try:
                        index = self._waiting.popleft()
                    except IndexError:
                        return
                    self._job(index)
        except BaseException:
            self._waiting.clear()
            raise

    def help(self) -> None:
        self._begun.append(None)
        try:
            self.work()
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._ended.append(None)
            self._wake.put(None)

    def wait(self) -> None:
        """Wait for the helpers that have begun, through interrupts: what they write to belongs to the caller."""
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                self._waiting.clear()  # after which nobody begins a job
                while len(self._ended) < len(self._begun):
                    self._wake.get()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def raise_error(self) -> None:
        if self._errors:
            try:
                raise self._errors[0]
            finally:
                self._errors.clear()  # it refers to the frame that refers to it
