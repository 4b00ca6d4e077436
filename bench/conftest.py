"""Puts the figures of each benchmark into its JSON entry, and prints them as one table at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

_table: list[tuple[str, str, dict[str, float]]] = []


@pytest.fixture
def record(benchmark: Any) -> Callable[..., None]:
    """``record(name, flop, bytes, peak)``: rates from the median time, and peak memory where it was measured."""

    def write(name: str, flop: float, n_bytes: int, peak: int | None = None) -> None:
        if benchmark.stats is None:  # under --benchmark-disable nothing is timed
            return
        seconds = benchmark.stats.stats.median
        figures = {"ms": seconds * 1e3, "GFLOP/s": flop / seconds * 1e-9, "GB/s": n_bytes / seconds * 1e-9}
        if peak is not None:
            figures["peak MiB"] = peak / 2**20
        benchmark.extra_info.update({key: round(value, 3) for key, value in figures.items()})
        _table.append((benchmark.group, name, figures))

    return write


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _table:
        return
    columns = ("ms", "GFLOP/s", "GB/s", "peak MiB")
    terminalreporter.section("medians; peak memory beyond the input")
    terminalreporter.write_line(f"{'':46}" + "".join(f"{column:>12}" for column in columns))
    for group, name, figures in sorted(_table, key=lambda entry: (entry[0], entry[2]["ms"])):
        cells = (f"{figures[column]:12.2f}" if column in figures else f"{'-':>12}" for column in columns)
        terminalreporter.write_line(f"{group:<26}{name:<20}" + "".join(cells))
