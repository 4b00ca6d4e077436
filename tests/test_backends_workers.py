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
    together = threading.Barrier(2, timeout=10)

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
