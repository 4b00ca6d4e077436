"""Errors as one readable line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from gradhess.errors import GradhessError, InputError

FAILED = 1
INTERRUPTED = 130  # as shells report a process that SIGINT ended


def stdout() -> Console:
    """The console for results. Names of columns are printed as they are, never read as markup."""
    return Console(markup=False, highlight=False, emoji=False)


def stderr() -> Console:
    """The console for progress and errors."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


@contextmanager
def readable_errors(*, debug: bool) -> Iterator[None]:
    """Turn exceptions into one line and an exit status; with ``debug`` let them pass."""
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        _say("interrupted", INTERRUPTED)
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except ModuleNotFoundError as error:
        if debug:
            raise
        _say(f'{error.name} is not installed: pip install "gradhess[cli]"', FAILED)
    except GradhessError as error:
        if debug:
            raise
        _say(str(error), FAILED)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}", FAILED)
    except MemoryError as error:
        if debug:
            raise
        _say(f"out of memory: {error}" if str(error) else "out of memory", FAILED)
    except Exception as error:
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)", FAILED)


@contextmanager
def named_as_options(**options: str) -> Iterator[None]:
    """In errors about arguments, name the options that they come from: ``n_gradients=5`` becomes ``--gradients 5``."""
    try:
        yield
    except InputError as error:
        if type(error) is not InputError:  # about rows, which have no option
            raise
        message = str(error)
        for name, option in options.items():
            message = re.sub(rf"\b{name}='?([\w.]+)'?", rf"{option} \1", message)
            message = re.sub(rf"^{name}(?= is )", option, message)
            if "_" in name:  # else it may be a word
                message = re.sub(rf"\b(oracle\.)?{name}\b", option, message)
        raise InputError(message) from error


def _say(message: str, status: int) -> None:
    sys.stdout.flush()
    one_line = " ".join(message.split())
    stderr().print(
        Text("error: ", style="bold red").append(one_line, style="not bold default"), soft_wrap=True
    )
    raise typer.Exit(status) from None
