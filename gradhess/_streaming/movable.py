"""The state of a ``StreamingCovariance`` in and out: files, dictionaries, pickles, other devices."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import NUMPY
from gradhess._backends.protocol import AnyArray
from gradhess._config import VERSION
from gradhess._device_arrays import CUPY, TORCH, place_named
from gradhess._streaming import movement, storage
from gradhess._streaming.device_stream import DeviceStream
from gradhess._streaming.parameters import Parameters
from gradhess._streaming.settings import Settings
from gradhess._streaming.stream import MomentStream
from gradhess.errors import InputError, StateFileError


class Movable(Parameters):
    """See ``StreamingCovariance``."""

    def to(self, device: str) -> Self:
        """A copy of this object on another device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``. It copies through the host.

        The open block of a stream of the host is closed exactly; rows that wait for a block go along. Between two GPUs
        nothing is lost to the bit.
        """
        new = type(self)(**{**self.get_params(), "device": None})
        new._restore_packed(*movement.pack(self._stream), device)
        new._library = self._library if device != "cpu" and self._library == TORCH else CUPY
        if device == "cpu":
            new._library = NUMPY
        return new

    def _restore_packed(
        self, settings: dict[str, Any], arrays: dict[str, AnyArray], device: str | None
    ) -> None:
        """Become what was packed, on a device; ``_settings`` say what is summed."""
        sums, centred, accumulator = (
            self._settings,
            not self.assume_centered,
            check.accumulator_dtype(self.dtype),
        )
        if device in (None, "cpu"):
            stream = MomentStream(sums.structure, centred=centred, accumulator=accumulator)
            movement.unpack(stream, settings, arrays)
            self._stream = stream
        else:
            assert device is not None
            place = place_named(device)
            packed = settings, arrays
            self._stream = movement.to_device(
                packed, sums.structure, centred=centred, accumulator=accumulator, place=place
            )
            self._library = CUPY

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a safetensors file: beside ``path``, to the disk, then renamed in one step.

        Nothing is finished by it: the object loaded goes on bit for bit, on the same kind of device. Needs the package
        safetensors.
        """
        settings, arrays = movement.pack(self._stream)
        storage.write(path, {**self._settings.plain(), **settings}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "cpu") -> Self:
        """The object that ``save`` wrote, on the host or on a GPU, wherever it was before.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        StateFileError
            The file is truncated, foreign, or of a newer format; the message says which.
        """
        new = cls()
        new._restore(*storage.read(path), device)
        return new

    def state_dict(self) -> dict[str, Any]:
        """Settings and arrays as a plain dictionary of copies: ``{"format", "format_version", "library_version",
        "settings", "arrays"}``."""
        with self._stream.lock:
            settings, arrays = copied(movement.pack(self._stream))
        return {
            "format": storage.FORMAT,
            "format_version": storage.FORMAT_VERSION,
            "library_version": VERSION,
            "settings": {**self._settings.plain(), **settings},
            "arrays": arrays,
        }

    def load_state_dict(self, state: dict[str, Any]) -> Self:
        """Become the object that ``state_dict`` described, its parameters included. The arrays are copied.

        Raises
        ------
        StateFileError
            The dictionary is not one of ``state_dict``, or its arrays do not fit together. Nothing has changed then.
        """
        if not isinstance(state, dict) or state.get("format") != storage.FORMAT:
            raise StateFileError("this is no dictionary that StreamingCovariance.state_dict returned")
        if state.get("format_version") != storage.FORMAT_VERSION:
            raise StateFileError(
                f"this state has format version {state.get('format_version')!r}; gradhess {VERSION} reads "
                f"{storage.FORMAT_VERSION}"
            )
        place = self._stream.place.name if isinstance(self._stream, DeviceStream) else "cpu"
        arrays = {name: np.array(array) for name, array in state["arrays"].items()}
        self._restore(state["settings"], arrays, place)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.state_dict(), "params": self.get_params(), "library": self._library}

    def __setstate__(self, state: dict[str, Any]) -> None:
        params = {**state["params"], "device": None}  # a pickle comes back on the host
        self.__init__(**params)  # type: ignore[misc]  # an object that is being made
        assert isinstance(self._stream, MomentStream)
        movement.unpack(self._stream, state["settings"], state["arrays"])
        self._library = NUMPY if state["settings"].get("layout") == "gpu" else state["library"]

    def _take_over(self, other: Movable) -> None:
        self._settings, self._stream, self._library = other._settings, other._stream, other._library
        self._forget()

    def _restore(self, settings: dict[str, Any], arrays: dict[str, AnyArray], device: str) -> None:
        names = [name for name in Settings.__dataclass_fields__ if name != "device"]
        try:
            new = type(self)(**{name: settings[name] for name in names})
        except (KeyError, TypeError, InputError) as error:
            raise StateFileError(f"this state has settings that cannot be read: {error}") from error
        new._restore_packed(settings, arrays, device)
        self._take_over(new)


def copied(packed: tuple[dict[str, Any], dict[str, AnyArray]]) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    return packed[0], {name: array.copy() for name, array in packed[1].items()}
