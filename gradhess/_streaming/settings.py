"""The parameters of ``StreamingCovariance``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradhess import _validation as check
from gradhess._streaming.stream import MomentStream


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of the constructor, exactly as they were passed, once they are known to be right."""

    structure: Any = "full"
    assume_centered: Any = False
    ddof: Any = 0
    dtype: Any = "float64"
    on_nonfinite: Any = "error"

    def __post_init__(self) -> None:
        check.one_of(self.structure, check.STRUCTURES, "structure")
        check.flag(self.assume_centered, "assume_centered")
        check.count(self.ddof, "ddof", 0)
        check.accumulator_dtype(self.dtype)
        check.one_of(self.on_nonfinite, check.NONFINITE_POLICIES, "on_nonfinite")

    def empty_stream(self) -> MomentStream:
        accumulator = check.accumulator_dtype(self.dtype)
        return MomentStream(self.structure, centred=not self.assume_centered, accumulator=accumulator)

    def sums(self) -> tuple[Any, ...]:
        """The settings that decide what is summed; the others only concern reading and checking."""
        return self.structure, bool(self.assume_centered), check.accumulator_dtype(self.dtype).name

    def plain(self) -> dict[str, Any]:
        """As JSON can hold them."""
        structure, assume_centered, dtype = self.sums()
        return {
            "structure": structure,
            "assume_centered": assume_centered,
            "ddof": int(self.ddof),
            "dtype": dtype,
            "on_nonfinite": self.on_nonfinite,
        }
