"""Ctrl-C held back while an accumulator is half written."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class InterruptDeferred:
    """While the block runs, SIGINT is only remembered; its handler runs when the block is left.

    Python delivers signals to the main thread alone, so elsewhere there is nothing to hold back; nor where the
    handler is not a Python function (ignored, or the process dies at once).
    """

    def __enter__(self) -> None:
        self._signal: tuple[int, FrameType | None] | None = None
        handler = signal.getsignal(signal.SIGINT)
        on_main = threading.current_thread() is threading.main_thread()
        self._handler = handler if on_main and callable(handler) else None
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = (number, frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is None:
            return
        signal.signal(signal.SIGINT, self._handler)
        if self._signal is not None:
            self._handler(*self._signal)
