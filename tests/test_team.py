"""Threads of the compiled kernels: where they may run is the user's choice, and stays so."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from gradhess._backends import registry
from gradhess.errors import BackendError

try:
    registry.get("cpu")
except BackendError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the affinity of threads")

PRELUDE = """
    import os, threading, time
    import numpy as np
    import gradhess as gh

    gh.set_num_threads(2)
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((20_000, 16)), np.zeros(16)
    y = X[:, 0].copy()
    job = lambda: gh.glm_gradients(X, y, w).gram()
    allowed = lambda: {t: os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")}
"""


def run(script: str) -> None:
    program = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_may_run_where_they_might_before() -> None:
    run(
        """
        everywhere = os.sched_getaffinity(0)
        expected = job()
        assert len(allowed()) > 1, "a team has no threads"
        for _ in range(20):
            time.sleep(0.005)  # long enough that they are called as if they were asleep
            assert np.array_equal(job(), expected)
            time.sleep(0.001)
            assert all(processors == everywhere for processors in allowed().values()), allowed()
        """
    )


def test_a_choice_made_between_calls_is_kept() -> None:
    run(
        """
        job()
        one = {min(os.sched_getaffinity(0))}
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), one)
        for _ in range(3):
            time.sleep(0.005)
            job()
            time.sleep(0.001)
            assert all(processors == one for processors in allowed().values()), allowed()
        """
    )


def test_a_process_on_one_processor() -> None:
    run(
        """
        expected = job()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for _ in range(3):
            time.sleep(0.005)
            assert np.array_equal(job(), expected)
        """
    )


def test_callers_that_come_and_go() -> None:
    run(
        """
        expected = job()
        wrong = []

        def caller():
            for _ in range(3):
                if not np.array_equal(job(), expected):
                    wrong.append(1)
                time.sleep(0.002)

        for _ in range(5):
            threads = [threading.Thread(target=caller) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            job()
        assert not wrong
        """
    )
