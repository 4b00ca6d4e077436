"""The look of every figure, and how one is saved.

Figures are made with the object interface: neither ``pyplot`` nor ``rcParams`` are touched, so a program that imports
gradhess keeps its own backend and settings, and figures can be drawn from any thread.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gradhess.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES: Final = (".png", ".pdf", ".svg")
PAGE_SUFFIX: Final = ".html"
DPI: Final = 160

INK: Final = "#22262b"
MUTED: Final = "#6b7280"
GRID: Final = "#e5e7eb"
COLOURS: Final = ("#1f5fa8", "#d1691b", "#3d8b5f", "#8a4fa3")
"""Told apart also by those who do not see red and green, and in grey; markers and dashes differ too."""

TITLE_SIZE: Final = 12
TEXT_SIZE: Final = 10


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def title(figure: Figure, text: str) -> None:
    """A title over all panels, flush left; a dollar sign in it is one, not the start of a formula."""
    shown = figure.suptitle(text, x=0.01, ha="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK)
    shown.set_parse_math(False)


def tidy(axes: Axes, *, x: str, y: str) -> None:
    """Labels of the axes, two spines, and a grid behind the data."""
    axes.set_xlabel(x, fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel(y, fontsize=TEXT_SIZE, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(MUTED)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=3, color=MUTED, labelcolor=INK, labelsize=TEXT_SIZE)


def picture(path: str | os.PathLike[str], name: str = "path", *, page: bool = False) -> Path:
    """The path of a picture (or of a ``page``, in HTML), refused where it ends in no format that there is.

    ``name`` is that of the argument.
    """
    file = Path(path)
    known = (*SUFFIXES, PAGE_SUFFIX) if page else SUFFIXES
    if file.suffix.lower() not in known:
        raise InputError(f"{name}: {file.name} must end in {', '.join(known[:-1])} or {known[-1]}")
    return file


def save(figure: Figure, path: Path) -> None:
    """Write the figure, or leave what was there: the file appears in one step. Errors name ``path``."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    try:
        figure.savefig(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
