"""The threads of the Numba backend: bounded, stopped by the first error, waited for, and safe across a fork."""

from __future__ import annotations

import os
import threading
import time

import pytest

pytest.importorskip("numba")

from gradhess._backends.numba import workers


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_job_runs_once(threads):
    done = []
    workers.run(100, done.append, threads)
    assert sorted(done) == list(range(100))


def test_no_more_threads_than_asked_for():
    lock, now, most = threading.Lock(), 0, 0

    def job(index):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    workers.run(30, job, 3)
    assert 1 <= most <= 3


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("by_caller", [True, False])
def test_an_error_stops_the_rest_and_nothing_runs_after_it(error, by_caller):
    caller, running, begun = threading.get_ident(), threading.Semaphore(0), []
    together = threading.Barrier(2, timeout=600)

    def job(index):
        begun.append(index)
        if index < 2:
            together.wait()  # one job each, on both threads
            if (threading.get_ident() == caller) == by_caller:
                raise error
        time.sleep(0.01)
        running.release()

    with pytest.raises(error):
        workers.run(1000, job, 2)
    count = len(begun)
    assert count < 1000
    time.sleep(0.03)
    assert len(begun) == count


class InterruptedPool:
    """A signal handler runs while a job is handed to it: the job has begun, and the pool still holds its locks."""

    def __init__(self, handler):
        self.handler, self.threads, self.lock = handler, [], threading.Lock()

    def submit(self, work):
        assert self.lock.acquire(blocking=False), (
            "entered by a thread that is in it: it would wait for itself"
        )
        try:
            self.threads.append(threading.Thread(target=work))
            self.threads[-1].start()
            self.handler()
        finally:
            self.lock.release()


def test_a_signal_handler_may_call_it_while_the_pool_holds_its_locks(monkeypatch):
    nested, done = [], []
    pool = InterruptedPool(lambda: workers.run(10, nested.append, 2))
    monkeypatch.setattr(workers, "_executor", lambda: pool)
    workers.run(10, done.append, 2)
    assert sorted(nested) == sorted(done) == list(range(10))
    workers.run(10, done.append, 2)
    assert len(pool.threads) == 2  # the calls outside of the handler had a helper each, as before


def test_an_interrupt_between_a_helper_and_its_caller_leaves_none_behind(monkeypatch):
    begun, ended = threading.Event(), []

    def job(index):
        begun.set()
        time.sleep(0.05)
        ended.append(index)

    def interrupt():
        assert begun.wait(600)
        raise KeyboardInterrupt

    pool = InterruptedPool(interrupt)
    monkeypatch.setattr(workers, "_executor", lambda: pool)
    with pytest.raises(KeyboardInterrupt):
        workers.run(1000, job, 2)
    assert ended == [0]  # the job that ran is over, and nothing runs after it
    pool.threads[0].join()
    assert ended == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    workers.run(4, lambda index: time.sleep(0.001), 2)
    child = os.fork()
    if child == 0:
        done = []
        workers.run(10, done.append, 2)
        os._exit(0 if sorted(done) == list(range(10)) else 1)
    assert os.waitpid(child, 0)[1] == 0
