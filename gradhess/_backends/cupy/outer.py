"""Gram matrices of outer rows: by the engine at once, or pair by pair of outputs."""

from __future__ import annotations

from abc import abstractmethod

from gradhess._backends.cupy import layout
from gradhess._backends.cupy.cublas_engine import CublasEngine
from gradhess._backends.cupy.engine import Accuracy, Block, DeviceArray, Engine
from gradhess._backends.cupy.launch import cupy, empty
from gradhess._backends.cupy.pieces import spans
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import PairWeights, Rows


class OuterGram:
    """Part of ``CupyBackend``."""

    engine: Engine
    cublas: CublasEngine

    @property
    @abstractmethod
    def accuracy(self) -> Accuracy: ...

    @abstractmethod
    def symmetrize(self, lower: DeviceArray, scale: float, out: DeviceArray) -> None: ...

    def outer_gram(
        self,
        A: DeviceArray,
        pairs: PairWeights,
        unit_column: bool,
        out: DeviceArray,
        *,
        begin: bool,
        end: bool,
        threads: int = 1,
    ) -> None:
        """Pieces of any length; block by block, unless the engine does it at once."""
        if begin:
            out.fill(0)
        k = int(pairs.errors.shape[1])
        width = int(A.shape[1]) + unit_column
        full = A
        if unit_column:
            full = empty((int(A.shape[0]), width), A.dtype, "activations")
            full[:, :-1] = A
            full[:, -1] = 1
        served = self.engine.outer_rank_update(
            full, pairs.errors, pairs.row_weight, pairs.curvature, out, accuracy=self.accuracy
        )
        if not served:
            self._outer_blocks(DeviceRows(full), pairs, out, k, width)
        if end:
            self.symmetrize(out, 1.0, out)

    def _outer_blocks(self, rows: Rows, pairs: PairWeights, out: DeviceArray, k: int, width: int) -> None:
        """Each pair of outputs as a weighted product of its own, symmetric, so a quarter of the whole again."""
        xp = cupy()
        aside = empty((width, width), out.dtype, "a block")
        size = layout.block_rows(width)
        engine = self.engine if self.engine.serves(rows) else self.cublas
        panel = engine.panel(min(rows.n_samples, size), width, rows.compute_dtype, accuracy=self.accuracy)
        for start, stop in spans(rows.n_samples, size):
            e = pairs.errors[start:stop]
            c = None if pairs.row_weight is None else pairs.row_weight[start:stop]
            for p in range(k):
                for q in range(p + 1):
                    other = ((1.0 if p == q else 0.0) - e[:, q]) if pairs.curvature else e[:, q]
                    s = e[:, p] * other
                    weights = xp.ascontiguousarray(s if c is None else s * c)
                    block = Block(rows.slice(start, stop), weights)
                    aside.fill(0)
                    if not engine.fused(block, panel, aside):
                        engine.prepare(block, panel)
                        engine.rank_update(panel, aside)
                    self.symmetrize(aside, 1.0, aside)
                    out[p * width : (p + 1) * width, q * width : (q + 1) * width] += aside
