"""Times that can be compared: candidates run one after the other in every round, and ratios are formed within rounds.

Clock rates and neighbours change within minutes, so only what was measured side by side may be divided.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from bench_support.problems import QUICK

PAUSE_SECONDS = 0.02 if QUICK else 0.3
"""Before each timed call. Idle threads of OpenMP and OpenBLAS spin before they sleep, those of OpenBLAS for more than
0.1 s on slow clocks; without a pause, those of one candidate would take the cores from the next one."""

Times = dict[str, list[float]]


class Band(NamedTuple):
    """A median, and where the values between two quantiles lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], tail: float = 0.25) -> Band:
        """The median and the range without ``tail`` at either end: quartiles by default."""
        return cls(statistics.median(values), _quantile(values, tail), _quantile(values, 1 - tail))

    def __str__(self) -> str:
        return f"{self.median:6.2f} ({self.low:5.2f}-{self.high:5.2f})"


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def seconds(function: Callable[[], Any], *, pause: float = PAUSE_SECONDS) -> float:
    """Of one call."""
    if pause:
        time.sleep(pause)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def seconds_per_call(function: Callable[[], Any], spell: float) -> float:
    """Of a call that is too short to be timed alone: as many as fit into ``spell`` seconds, at least one."""
    calls, taken = 1, seconds(function, pause=0)
    while taken < spell:
        calls = max(calls + 1, min(10 * calls, int(calls * 1.2 * spell / max(taken, 1e-9))))
        start = time.perf_counter()
        for _ in range(calls):
            function()
        taken = time.perf_counter() - start
    return taken / calls


def interleaved(
    candidates: dict[str, Callable[[], Any]],
    rounds: int,
    *,
    measure: Callable[[Callable[[], Any]], float] = seconds,
    after_round: Callable[[], None] = lambda: None,
) -> Times:
    """Seconds of every candidate in every round. Each is called once before, to warm up.

    The order turns by one from round to round, so that no candidate always follows the same neighbour.
    """
    for function in candidates.values():
        function()
    times: Times = {name: [] for name in candidates}
    names = list(candidates)
    with no_garbage_collection():
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(measure(candidates[name]))
            after_round()
    return times


def ratios(times: Times, over: str, under: str, tail: float = 0.25) -> Band:
    """Of the times of ``over`` to those of ``under``, round by round."""
    return Band.of([a / b for a, b in zip(times[over], times[under], strict=True)], tail)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


RESOLUTION = 0.01
"""A build differs from itself by so much, in bands that leave out 1: where the memory of its processes lies."""
VERDICTS = ("faster", "slower", "no difference seen")


def verdict(over_to_under: Band) -> str:
    """What a band of ratios says about the candidate that is divided by: 1 inside it means nothing was seen."""
    if over_to_under.low > 1 + RESOLUTION:
        return VERDICTS[0]
    return VERDICTS[1] if over_to_under.high < 1 / (1 + RESOLUTION) else VERDICTS[2]


def count_verdicts(verdicts: Iterable[str]) -> str:
    """``"faster in 3, slower in 1, no difference seen in 6"``."""
    counted = Counter(verdicts)
    return ", ".join(f"{name} in {counted[name]}" for name in VERDICTS if counted[name])
