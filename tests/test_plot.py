"""Figures: files of the right kind, what is in them, and nothing of matplotlib's global state touched."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from gradhess._plot import SUFFIXES, Spectrum, draw_spectra
from gradhess._plot import figure as look

SPECTRA = [
    Spectrum("features", np.array([3.0, 1.0, 1e-3, 0.0])),
    Spectrum("gradients", np.geomspace(5.0, 1e-6, 100)),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_ending_decides_the_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"spectrum{suffix}"
    draw_spectra(SPECTRA, path, title="two spectra")
    head = path.read_bytes()[:300]
    assert {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<svg"}[suffix] in head
    assert list(tmp_path.iterdir()) == [path]


def test_both_colours_are_drawn_on_white(tmp_path: Path) -> None:
    path = tmp_path / "spectrum.png"
    draw_spectra(SPECTRA, path, title="two spectra")
    pixels = np.round(imread(path)[..., :3] * 255).astype(int)
    assert pixels.shape[:2] == (4 * look.DPI, 9 * look.DPI)
    assert (pixels[0, 0] == 255).all()
    for colour in look.COLOURS[:2]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(axis=-1).sum() > 500


@pytest.mark.parametrize("eigenvalues", [[2.0], [0.0, 0.0], [1.0, 1.0, 1.0], [1e-300, 1e-301]])
def test_degenerate_spectra_are_drawn_without_warnings(tmp_path: Path, eigenvalues: list[float]) -> None:
    draw_spectra([Spectrum("one", np.array(eigenvalues))], tmp_path / "spectrum.png", title="one spectrum")
    assert (tmp_path / "spectrum.png").stat().st_size > 1000


@pytest.mark.parametrize(("smallest", "low", "high"), [(0.3, 0.1, 0.3), (0.02, 0.005, 0.01)])
def test_only_several_decades_are_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smallest: float, low: float, high: float
) -> None:
    limits = []
    monkeypatch.setattr(look, "save", lambda figure, path: limits.append(figure.axes[0].get_ylim()))
    draw_spectra([Spectrum("one", np.array([2.5, smallest]))], tmp_path / "spectrum.png", title="one")
    assert low < limits[0][0] < high
    assert limits[0][1] > 2.5


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    draw_spectra(SPECTRA, tmp_path / "spectrum.png", title=r"data.csv: $\frac$, squared loss")
    assert (tmp_path / "spectrum.png").exists()


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spectrum.png"
    path.write_text("old")

    def half_written(figure: Figure, target: Path) -> None:
        target.write_text("half of a pict")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        draw_spectra(SPECTRA, path, title="two spectra")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_global_state_is_left_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    had_pyplot = "matplotlib.pyplot" in sys.modules
    draw_spectra(SPECTRA, tmp_path / "spectrum.png", title="two spectra")
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
