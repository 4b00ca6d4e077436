"""What every script here does around its measurements: options, and a JSON file of what came out."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_support import machine
from bench_support.problems import DTYPES, QUICK

RESULTS = Path(__file__).parents[1] / "results"
IMAGES = Path(__file__).parents[2] / "docs" / "images"


def shape(text: str) -> tuple[int, int]:
    """``"200000x256"``."""
    n, d = text.lower().split("x")
    return int(n), int(d)


def parser(
    doc: str | None, *, rounds: int | None, quick_rounds: int = 2, dtypes: bool = True
) -> argparse.ArgumentParser:
    """With the options that scripts share; no ``--rounds`` where nothing is timed."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=quick_rounds if QUICK else rounds)
    if dtypes:
        made.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    made.add_argument(
        "--output", type=Path, help="JSON file; by default one in bench/results (none in quick mode)"
    )
    return made


def write(name: str, output: Path | None, **content: Any) -> None:
    """Keep a run: its time, the machine, and ``content``. Quick runs mean nothing and are kept only on request."""
    now = datetime.now(UTC)
    if output is None:
        if QUICK:
            return
        output = RESULTS / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    kept = {"time": now.isoformat(), "machine": machine.facts(), **content}
    output.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"written: {output}")
