"""Threads for jobs that release the GIL.

Numba's own parallel loops are not used: its default threading layer must not be entered by two threads at once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock

import numpy as np

# Threads are started on demand, so this only bounds what all concurrent callers can have together. A caller works on
# its own jobs too, so a full pool delays nobody for ever.
_MAX_WORKERS = 256

_pool: ThreadPoolExecutor | None = None
_lock = Lock()


def _executor() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - one pool for the process
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_MAX_WORKERS, "gradhess")
        return _pool


def _forget_pool() -> None:
    """After a fork the child has the pool's object and none of its threads."""
    global _pool, _lock
    _pool, _lock = None, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run(count: int, job: Callable[[int], None], threads: int) -> None:
    """Call ``job(0)`` to ``job(count - 1)`` in any order on at most ``threads`` threads, the caller's among them.

    The first exception, KeyboardInterrupt included, stops the rest; it is raised once no job is running any more.
    Overflow in NumPy is silent in a job: what it leads to is found by its row.
    """
    if threads <= 1 or count <= 1:
        with np.errstate(all="ignore"):
            for index in range(count):
                job(index)
        return

    waiting = deque(range(count))

    def work() -> None:
        try:
            with np.errstate(all="ignore"):
                while True:
                    try:
                        index = waiting.popleft()
                    except IndexError:
                        return
                    job(index)
        except BaseException:
            waiting.clear()
            raise

    helpers = [_executor().submit(work) for _ in range(min(threads, count) - 1)]
    try:
        work()
    finally:
        _finish(helpers, waiting)
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def _finish(helpers: list[Future[None]], waiting: deque[int]) -> None:
    """Wait for the helpers that have begun, through interrupts: what they write to belongs to the caller."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            for helper in helpers:
                helper.cancel()
            wait(helpers)
            break
        except KeyboardInterrupt as error:
            waiting.clear()
            interrupt = error
    if interrupt is not None:
        raise interrupt
