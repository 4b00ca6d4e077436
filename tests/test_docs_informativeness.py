"""The Python of docs/informativeness.md runs, and prints what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "informativeness.md"


def blocks(language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_summary_is_the_one_that_is_shown(capsys):
    exec(blocks("python")[0], {})
    assert capsys.readouterr().out == blocks("text")[0]


def test_the_comparison_of_two_distributions_runs(capsys):
    pytest.importorskip("torch")
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    exec(blocks("python")[1], names)
    printed = capsys.readouterr().out
    uniform, sparse = (
        float(re.search(rf"{name} (-?[0-9.e-]+) ±", printed)[1]) for name in ("uniform", "sparse")
    )
    assert sparse > 10 * uniform


def test_every_picture_is_there():
    pictures = re.findall(r"\(images/(.*?)\)", PAGE.read_text(encoding="utf-8"))
    assert len(pictures) == 5
    for picture in pictures:
        assert (PAGE.parent / "images" / picture).stat().st_size < 100_000
