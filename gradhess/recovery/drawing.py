"""Asking an oracle: noise, batches and gradients in chunks, and every gradient checked before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError, InputTypeError, NonFiniteError
from gradhess.recovery.arguments import NOISE, random_stream
from gradhess.recovery.calibration import REDUCTIONS, gradient_factor

CHUNK_BYTES: Final = 16 << 20
"""Noise, numbers of rows and gradients of as many batches as are asked for at a time."""
CHUNK_BATCHES: Final = 4096


class Asker:
    """An oracle, with what it may leave out filled in, and the generator of the noise."""

    def __init__(self, oracle: Any, rng: Any) -> None:
        if isinstance(oracle, type):
            raise InputTypeError(f"oracle is the class {oracle.__name__}; pass an instance of it")
        for name in ("batch_size", "n_params", "draw_batch", "gradient"):
            if not hasattr(oracle, name):
                raise InputTypeError(
                    f"oracle ({type(oracle).__name__}) has no {name}; it needs batch_size, n_params, draw_batch() and "
                    "gradient(batch, target_noise)"
                )
        self._oracle = oracle
        self.batch_size = check.count(oracle.batch_size, "oracle.batch_size", 1)
        self.n_params = check.count(oracle.n_params, "oracle.n_params", 1)
        self.n_targets = check.count(getattr(oracle, "n_targets", 1), "oracle.n_targets", 1)
        self.existing = check.nonnegative(getattr(oracle, "existing_noise", 0.0), "oracle.existing_noise")
        self.reduction = getattr(oracle, "reduction", "half_mean")
        check.one_of(self.reduction, REDUCTIONS, "oracle.reduction")
        self.n = self.batch_size * self.n_targets
        """Residuals in a batch."""
        self.factor = gradient_factor(self.reduction, self.n)
        self._in_one_call = hasattr(oracle, "draw_batches") and hasattr(oracle, "gradients")
        self._rng = random_stream(rng, NOISE)
        self.n_asked = 0

    def chunks(self, count: int) -> Iterator[int]:
        """Sizes that add up to ``count``."""
        size = max(1, min(CHUNK_BYTES // (24 * (self.n + self.n_params)), CHUNK_BATCHES))
        for start in range(0, count, size):
            yield min(size, count - start)

    def noise(self, count: int, variance: float) -> Float64Array:
        """(count, batch_size), or (count, batch_size, n_targets)."""
        shape = (count, self.batch_size) if self.n_targets == 1 else (count, self.batch_size, self.n_targets)
        return np.asarray(self._rng.standard_normal(shape) * np.sqrt(variance))

    def shaped(self, noise: Float64Array) -> Float64Array:
        """(count, n) as ``noise`` has it."""
        return noise if self.n_targets == 1 else noise.reshape(len(noise), self.batch_size, self.n_targets)

    def draw(self, count: int) -> Any:
        """``count`` fresh batches."""
        if self._in_one_call:
            return self._oracle.draw_batches(count)
        return [self._oracle.draw_batch() for _ in range(count)]

    def repeated(self, batch: Any, count: int) -> Any:
        """The same batch ``count`` times."""
        return np.repeat(batch, count, axis=0) if self._in_one_call else batch * count

    def gradients(self, batches: Any, noise: Float64Array) -> Float64Array:
        """(count, d), checked, and a copy: the oracle may write to ``noise``, and use its own arrays again."""
        count, d = len(noise), self.n_params
        if self._in_one_call:
            found = as_numpy(self._oracle.gradients(batches, noise), "the gradients of the oracle")
            if found.shape != (count, d):
                raise InputError(
                    f"oracle.gradients returned shape {found.shape} for {count} batches; it must be ({count}, {d})"
                )
            result = np.array(found, np.float64)
        else:
            result = np.empty((count, d))
            for row, (batch, one) in enumerate(zip(batches, noise, strict=True)):
                gradient = as_numpy(self._oracle.gradient(batch, one), "the gradient of the oracle")
                if gradient.shape != (d,):
                    raise InputError(
                        f"oracle.gradient returned shape {gradient.shape} for gradient {self.n_asked + row}; "
                        f"oracle.n_params says ({d},)"
                    )
                result[row] = gradient
        finite = np.isfinite(result).all(axis=1)
        if not finite.all():
            bad = self.n_asked + int(np.argmin(finite))
            raise NonFiniteError(
                bad,
                f"gradient {bad} of the oracle holds NaN or infinity; check the data and the parameters there",
            )
        self.n_asked += count
        return result
