"""Which backend serves a call, with how many threads, and what ``show_config`` says about it.

Nothing here computes. A backend is imported when it is first asked for; one that cannot be imported is remembered
with the reason, which is what the error message and ``show_config`` then say.
"""

from __future__ import annotations

import importlib
import os
import platform
from contextvars import ContextVar, Token
from functools import lru_cache
from types import TracebackType
from typing import Any, Final

import numpy as np

from gradhess._backends.cupy.accuracy import CHOSEN
from gradhess._backends.cupy.engine import ACCURACIES, Accuracy
from gradhess._backends.protocol import Backend
from gradhess._backends.structured_backend import StructuredBackend
from gradhess._config import VERSION
from gradhess.errors import BackendError, InputError, InputTypeError

PREFERENCE: Final = ("cpu", "numba", "reference")
"""The backends that can serve a call on NumPy arrays, the fastest first."""

DEVICE_PREFERENCE: Final = ("cuda", "cupy")
"""Those for arrays on a GPU."""

MAX_THREADS: Final = 1024
"""More than any machine helps; far more would end the process where threads are started."""

MODULES: Final = {
    "cpu": "gradhess._backends.cpu",
    "numba": "gradhess._backends.numba",
    "reference": "gradhess._backends.reference",
    "cuda": "gradhess._backends.cuda",
    "cupy": "gradhess._backends.cupy",
}

_VARIABLES: Final[dict[Any, Any] | None] = getattr(os.environ, "_data", None)
_KEYS: Final = {
    name: os.environ.encodekey(name)
    for name in ("GRADHESS_BACKEND", "GRADHESS_NUM_THREADS", "OMP_NUM_THREADS")
}
_OWN_THREADS: Final = _KEYS["GRADHESS_NUM_THREADS"]
_OPENMP_THREADS: Final = _KEYS["OMP_NUM_THREADS"]
_loaded: dict[str, Backend] = {}
_reasons: dict[str, str] = {}
_override: ContextVar[Backend | None] = ContextVar("gradhess_backend", default=None)
_device_override: ContextVar[Any] = ContextVar("gradhess_device_backend", default=None)
_threads: int | None = None


def get(name: str) -> Backend:
    """The backend of that name; BackendError with the reason where it is not available."""
    backend = _loaded.get(name)
    if backend is not None:
        return backend
    if name not in MODULES:
        raise InputError(f"backend {name!r} is unknown; the backends are {', '.join(map(repr, MODULES))}")
    if name not in _reasons:
        try:
            loaded: Backend = importlib.import_module(MODULES[name]).load()
        except (ImportError, BackendError) as error:
            _reasons[name] = str(error) or type(error).__name__
        else:
            # On a GPU structured rows are a matter of the backend's own.
            _loaded[name] = loaded if name in DEVICE_PREFERENCE else StructuredBackend(loaded)
            return _loaded[name]
    raise BackendError(f"backend {name!r} is not available: {_reasons[name]}")


def active() -> Backend:
    """That of this call on NumPy arrays: ``use_backend``, else ``GRADHESS_BACKEND``, else the fastest there is."""
    chosen = _override.get()
    if chosen is not None:
        return chosen
    name = _environment("GRADHESS_BACKEND")
    return get(name) if name and name not in DEVICE_PREFERENCE else _fastest()


def active_device() -> Any:
    """The same for arrays on a GPU; BackendError with the reasons where none can be used."""
    chosen = _device_override.get()
    if chosen is not None:
        return chosen
    name = _environment("GRADHESS_BACKEND")
    if name in DEVICE_PREFERENCE:
        return get(name)
    for preferred in DEVICE_PREFERENCE:
        try:
            return get(preferred)
        except BackendError:
            pass
    raise BackendError(
        "no backend for arrays on a GPU: "
        + "; ".join(f"{preferred}: {_reasons[preferred]}" for preferred in DEVICE_PREFERENCE)
    )


def _environment(name: str) -> str | None:
    """``os.environ.get(name)``, but quick where the variable is not set.

    Every call asks for three, mostly in vain, and ``os.environ.get`` answers that by way of two exceptions: a fifth of
    the time of a tiny job. The dictionary inside ``os.environ`` says it at once; without one the detour is taken.
    """
    if _VARIABLES is not None and _KEYS[name] not in _VARIABLES:
        return None
    return os.environ.get(name)


def _fastest() -> Backend:
    first = _loaded.get(PREFERENCE[0])
    if first is not None:  # as nearly always, and tiny calls notice the difference
        return first
    for name in PREFERENCE[:-1]:
        try:
            return get(name)
        except BackendError:
            if name == "cpu" and os.environ.get("GRADHESS_ISA"):
                raise  # an instruction set was asked for by name; a slower backend is not an answer to that
    return get(PREFERENCE[-1])


class BackendChoice:
    """What ``use_backend`` returns: the choice holds already; as a context manager it ends with the block."""

    def __init__(self, backend: Backend, accuracy: Accuracy | None = None) -> None:
        self._name = backend.name
        variable: ContextVar[Any] = _device_override if backend.name in DEVICE_PREFERENCE else _override
        self._tokens: list[tuple[ContextVar[Any], Token[Any]]] = [(variable, variable.set(backend))]
        if accuracy is not None:
            self._tokens.append((CHOSEN, CHOSEN.set(accuracy)))

    def __enter__(self) -> BackendChoice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for variable, token in reversed(self._tokens):
            variable.reset(token)

    def __repr__(self) -> str:
        return f"<gradhess backend {self._name!r}>"


def use_backend(name: str, *, accuracy: str | None = None) -> BackendChoice:
    """Choose the backend that computes from here on.

    Parameters
    ----------
    name : {"cpu", "numba", "reference"} or {"cuda", "cupy"}
        For NumPy arrays ``"cpu"`` is the compiled code, ``"numba"`` the same algorithm compiled at run time, and
        ``"reference"`` plain NumPy, slow and obvious. For arrays on a GPU ``"cuda"`` is the compiled kernels, and
        ``"cupy"`` CuPy and cuBLAS alone. The two choices do not touch each other: arrays never change their device.
    accuracy : {"float32", "fp16x3", "tf32"}, optional
        Of a GPU backend: the least accuracy of products of float32 rows. ``"float32"``, the default, is that of sums
        in float32, or better; ``"fp16x3"`` about 1e-6 and ``"tf32"`` about 1e-3 of a diagonal entry. A backend may be
        more accurate, never less.

    Returns
    -------
    A context manager. Ignore it, and the choice stays; use it in a ``with`` statement, and the choice ends with
    the block.

    Raises
    ------
    BackendError
        The backend is not available; the message says why.
    InputError
        There is no backend, or no accuracy, of that name; an accuracy for a backend that is not on a GPU.

    Notes
    -----
    The choice belongs to the current context (``contextvars``): other threads do not see it. For a whole process,
    set the environment variable ``GRADHESS_BACKEND``.

    Examples
    --------
    >>> with gradhess.use_backend("reference"):
    ...     gradhess.weighted_gram(X)
    """
    if accuracy is not None:
        if accuracy not in ACCURACIES:
            raise InputError(
                f"accuracy is {accuracy!r}; it must be one of {', '.join(map(repr, ACCURACIES))}"
            )
        if name not in DEVICE_PREFERENCE:
            raise InputError(
                f"accuracy is for the backends of GPUs, {', '.join(DEVICE_PREFERENCE)}, not for {name!r}"
            )
    return BackendChoice(get(name), accuracy)


def num_threads(*, most: int = MAX_THREADS) -> int:
    """Threads that a call may use: ``set_num_threads``, else the environment, else the CPUs of the process.

    Work that is worth no more than ``most`` threads gets no more: for one, the CPUs are not counted.
    """
    if _threads is not None:
        return min(_threads, most)
    if _VARIABLES is None:
        asked = _threads_asked_for(os.environ.get("GRADHESS_NUM_THREADS"), os.environ.get("OMP_NUM_THREADS"))
    else:
        own, openmp = _VARIABLES.get(_OWN_THREADS), _VARIABLES.get(_OPENMP_THREADS)
        asked = None if own is None and openmp is None else _threads_encoded(own, openmp)
    if asked is None:
        return 1 if most == 1 else min(_cpus(), most)
    return min(asked, most)


def _cpus() -> int:
    """Those that the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=8)
def _threads_encoded(own: Any, openmp: Any) -> int | None:
    """``_threads_asked_for`` of values as they lie inside ``os.environ``; kept, as every call asks."""
    decode = os.environ.decodevalue
    return _threads_asked_for(
        None if own is None else decode(own), None if openmp is None else decode(openmp)
    )


def _threads_asked_for(own: str | None, openmp: str | None) -> int | None:
    """What the two environment variables say, or None."""
    if own:
        if not own.isdecimal() or not 1 <= int(own) <= MAX_THREADS:
            raise InputError(
                f"GRADHESS_NUM_THREADS is {own!r}; it must be an integer from 1 to {MAX_THREADS}"
            )
        return int(own)
    outer = (openmp or "").split(",")[0].strip()  # "4,2" gives a number for each nesting level
    if outer.isdecimal() and int(outer) > 0:
        return min(int(outer), MAX_THREADS)
    return None


def set_num_threads(n: int | None) -> None:
    """Bound the number of threads of every later call in this process.

    Parameters
    ----------
    n : int or None
        At least 1. None returns to the default: ``GRADHESS_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number
        of CPUs that the process may run on.

    Raises
    ------
    InputError, InputTypeError
        ``n`` is below 1, or no integer.

    Notes
    -----
    Results have the same bits for any number of threads.
    """
    global _threads  # noqa: PLW0603 - the one process-wide setting
    if n is not None:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise InputTypeError(f"n must be an integer or None, not {type(n).__name__}")
        if not 1 <= n <= MAX_THREADS:
            raise InputError(f"n is {n}; it must be at least 1 and at most {MAX_THREADS}")
    _threads = None if n is None else int(n)


def config() -> dict[str, Any]:
    """What was found, as plain data: versions, the active backend, threads, and for each backend its description
    or the reason why it is absent."""
    backends: dict[str, dict[str, Any]] = {}
    for name, module in MODULES.items():
        try:
            get(name)
        except BackendError:
            backends[name] = {"available": False, "reason": _reasons[name]}
        else:
            details: dict[str, str] = importlib.import_module(module).describe()
            backends[name] = {"available": True, "details": details}
    return {
        "gradhess": VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "threads": num_threads(),
        "active": _active_name(),
        "backends": backends,
    }


def _active_name() -> str:
    try:
        return active().name
    except (BackendError, InputError) as error:
        return f"none ({error})"


def show_config() -> None:
    """Print what was found: versions, threads, the active backend, and for each absent backend the reason."""
    found = config()
    print(
        f"gradhess {found['gradhess']} on Python {found['python']}, NumPy {found['numpy']}, {found['platform']}"
    )
    print(f"active backend: {found['active']}; threads: {found['threads']}")
    for name, facts in found["backends"].items():
        if facts["available"]:
            details = "; ".join(f"{key}: {value}" for key, value in facts["details"].items())
            print(f"  {name:<10} {details}")
        else:
            print(f"  {name:<10} not usable: {facts['reason']}")
