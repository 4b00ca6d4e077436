"""The parameters of ``StreamingCovariance``, as scikit-learn has them, and what the object is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Self

import numpy.typing as npt

from gradhess._arrays import NUMPY
from gradhess._backends.protocol import Float64Array
from gradhess._streaming import spectral
from gradhess._streaming.host_feed import HostFeed
from gradhess._streaming.settings import AnyStream, Settings
from gradhess.errors import InputError


class Parameters:
    """See ``StreamingCovariance``."""

    def __init__(
        self,
        structure: str = "full",
        assume_centered: bool = False,
        ddof: int = 0,
        *,
        dtype: npt.DTypeLike = "float64",
        on_nonfinite: str = "error",
        device: str | None = None,
    ) -> None:
        self._settings = Settings(structure, assume_centered, ddof, dtype, on_nonfinite, device)
        self._stream: AnyStream = self._settings.empty_stream()
        self._feed: HostFeed | None = None
        self._library = NUMPY
        self._eigen: spectral.Spectrum | None = None
        self._leading: tuple[Float64Array, Float64Array] | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor. ``deep`` is there for scikit-learn and changes nothing."""
        return asdict(self._settings)

    def set_params(self, **params: Any) -> Self:
        """Change parameters; what is summed, and where (structure, centring, dtype, device), only before the first row.

        Raises
        ------
        InputError
            An unknown name, a value that is not allowed, or a change that the rows already seen do not allow.
        """
        current = asdict(self._settings)
        unknown = sorted(params.keys() - current.keys())
        if unknown:
            raise InputError(f"unknown parameters {', '.join(unknown)}; there are {', '.join(current)}")
        settings = Settings(**{**current, **params})
        if settings.sums() != self._settings.sums() or settings.device != self._settings.device:
            if self._stream.n_seen:
                raise InputError(
                    "structure, assume_centered, dtype and device cannot change once rows were seen; call reset() first"
                )
            self._stream = settings.empty_stream()
        self._settings = settings
        self._forget()
        return self

    @property
    def structure(self) -> str:
        return str(self._settings.structure)

    @property
    def assume_centered(self) -> bool:
        return bool(self._settings.assume_centered)

    @property
    def ddof(self) -> int:
        return int(self._settings.ddof)

    @property
    def dtype(self) -> Any:
        return self._settings.dtype

    @property
    def on_nonfinite(self) -> str:
        return str(self._settings.on_nonfinite)

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"StreamingCovariance({params})"

    def _forget(self) -> None:
        """Drop what was derived from the rows; they are about to change."""
        self._eigen = None
        self._leading = None
