"""Drawing, shared by everything above: matplotlib without its global state."""

from gradhess._plot.figure import SUFFIXES
from gradhess._plot.spectrum import Spectrum, draw_spectra

__all__ = ["SUFFIXES", "Spectrum", "draw_spectra"]
