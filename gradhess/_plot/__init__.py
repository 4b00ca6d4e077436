"""Drawing, shared by everything above: matplotlib without its global state."""

from gradhess._plot.figure import PAGE_SUFFIX, SUFFIXES, picture
from gradhess._plot.panels import Panel, Series, draw_panels
from gradhess._plot.spectrum import Spectrum, draw_spectra

__all__ = ["PAGE_SUFFIX", "SUFFIXES", "Panel", "Series", "Spectrum", "draw_panels", "draw_spectra", "picture"]
