"""The exceptions that gradhess raises. Each is also the built-in type that a caller would expect."""

from __future__ import annotations


class GradhessError(Exception):
    """Base class of every error that gradhess raises on purpose."""


class InputError(GradhessError, ValueError):
    """An argument has a wrong shape, value or domain."""


class InputTypeError(GradhessError, TypeError):
    """An argument has a dtype or a type that gradhess cannot use."""


class NonFiniteError(InputError):
    """A row holds NaN or infinity, or its gradient overflowed.

    Attributes
    ----------
    row : int
        Index of the first such row in the call's own rows.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[int, str]]:
        return type(self), (self.row, str(self))


class NotFittedError(InputError, AttributeError):
    """A result was asked for before any row was seen. An AttributeError, as scikit-learn's, so ``hasattr`` works."""


class ResultTooLargeError(GradhessError, MemoryError):
    """The result would not fit in memory; nothing was allocated."""


class BackendError(GradhessError, RuntimeError):
    """A backend that was asked for is not available, or cannot do what was asked."""


class DeviceError(BackendError):
    """The GPU, its driver or one of its libraries refused an operation; the message says which, and why."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The GPU has not enough memory; the message says how many bytes were asked for."""


class StateFileError(GradhessError, ValueError):
    """A state file is truncated, foreign, or of a version that this release cannot read."""
