"""The parameters of ``StreamingCovariance``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from gradhess import _validation as check
from gradhess._device_arrays import Place, place_named
from gradhess._streaming.device_stream import DeviceStream
from gradhess._streaming.stream import MomentStream
from gradhess.errors import InputTypeError

AnyStream: TypeAlias = MomentStream | DeviceStream


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of the constructor, exactly as they were passed, once they are known to be right."""

    structure: Any = "full"
    assume_centered: Any = False
    ddof: Any = 0
    dtype: Any = "float64"
    on_nonfinite: Any = "error"
    device: Any = None

    def __post_init__(self) -> None:
        check.one_of(self.structure, check.STRUCTURES, "structure")
        check.flag(self.assume_centered, "assume_centered")
        check.count(self.ddof, "ddof", 0)
        check.accumulator_dtype(self.dtype)
        check.one_of(self.on_nonfinite, check.NONFINITE_POLICIES, "on_nonfinite")
        if self.device is not None and not isinstance(self.device, str):
            raise InputTypeError(f"device must be a string or None, not {type(self.device).__name__}")

    def empty_stream(self) -> AnyStream:
        """On the host, or on the GPU that ``device`` names."""
        if self.device in (None, "cpu"):
            accumulator = check.accumulator_dtype(self.dtype)
            return MomentStream(self.structure, centred=not self.assume_centered, accumulator=accumulator)
        return self.stream_at(place_named(self.device))

    def stream_at(self, place: Place) -> DeviceStream:
        """An empty one on a GPU."""
        accumulator = check.accumulator_dtype(self.dtype)
        return DeviceStream(
            self.structure, centred=not self.assume_centered, accumulator=accumulator, place=place
        )

    def sums(self) -> tuple[Any, ...]:
        """The settings that decide what is summed; the others only concern reading and checking."""
        return self.structure, bool(self.assume_centered), check.accumulator_dtype(self.dtype).name

    def plain(self) -> dict[str, Any]:
        """As JSON can hold them; without the device, which is no matter of the numbers."""
        structure, assume_centered, dtype = self.sums()
        return {
            "structure": structure,
            "assume_centered": assume_centered,
            "ddof": int(self.ddof),
            "dtype": dtype,
            "on_nonfinite": self.on_nonfinite,
        }
