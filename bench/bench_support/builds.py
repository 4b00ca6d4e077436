"""Several builds of gradhess in one measurement: each in a process of its own, all waiting while one is timed.

A build is a folder in which a package ``gradhess`` lies (site-packages, or a source tree with its compiled module), or
a compiled module ``_cpu*.so`` by itself, which is then put into a copy of the package that is installed here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench_support import timing

BENCH = Path(__file__).parents[1]


class BuildError(Exception):
    """A build that cannot be run; the message says why."""


def package_folder(build: Path, scratch: Path) -> Path:
    """The folder to import ``gradhess`` from; a compiled module gets one of its own in ``scratch``."""
    if build.is_dir():
        if not (build / "gradhess" / "__init__.py").is_file():
            raise BuildError(f"{build} holds no package gradhess")
        return build.resolve()
    if not build.is_file():
        raise BuildError(f"there is no {build}")
    import gradhess

    folder = scratch / f"{build.parent.name}-{build.stem}"
    ours = Path(gradhess.__file__).parent
    shutil.copytree(
        ours, folder / "gradhess", ignore=shutil.ignore_patterns("_cpu*.so", "_cpu*.pyd", "__pycache__")
    )
    shutil.copy2(build, folder / "gradhess" / build.name)
    return folder


class Worker:
    """A Python process that runs jobs with one build. Between two calls it waits for its standard input."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(BENCH)))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench_support.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        answer = self._ask()
        if not Path(answer["package"]).is_relative_to(folder):
            self.close()
            raise BuildError(f"{answer['package']} was imported instead of the build in {folder}")

    def make(self, job: str, n: int, d: int, dtype: str) -> None:
        """Prepare a job, run it once, and check its answer."""
        self._ask({"make": {"job": job, "n": n, "d": d, "dtype": dtype}})

    def seconds(self, spell: float) -> float:
        """Of one call of the job, as the mean over ``spell`` seconds."""
        return float(self._ask({"spell": spell})["seconds"])

    def _ask(self, question: dict[str, Any] | None = None) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if question is not None:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BuildError("a worker ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def compare(
    folders: dict[str, Path],
    job: str,
    n: int,
    d: int,
    dtype: str,
    *,
    rounds: int,
    processes: int,
    spell: float,
) -> timing.Times:
    """Seconds a call for every build and round; the processes are started ``processes`` times over the rounds.

    Where the memory of a process happens to lie is worth some percent, and stays as it is while it lives.
    """
    times: timing.Times = {name: [] for name in folders}
    for generation in range(processes):
        share = rounds * (generation + 1) // processes - rounds * generation // processes
        if not share:
            continue
        with ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(folder)) for name, folder in folders.items()}
            for worker in workers.values():
                worker.make(job, n, d, dtype)
            calls = {name: lambda worker=worker: worker.seconds(spell) for name, worker in workers.items()}
            measured = timing.interleaved(calls, share, measure=_answer)
        for name, values in measured.items():
            times[name] += values
    return times


def _answer(call: Callable[[], float]) -> float:
    """What the worker says itself: its own clock around its own calls."""
    time.sleep(timing.PAUSE_SECONDS)
    return call()
