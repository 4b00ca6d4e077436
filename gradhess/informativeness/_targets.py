"""Classes of target functions: what the gradient might tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError
from gradhess.informativeness import _checks


@dataclass(frozen=True, slots=True, eq=False)
class TargetClass:
    """A family of functions of the input, and a distribution over it.

    Either ``members`` enumerates it, or ``sampler`` draws from it (or both).

    Attributes
    ----------
    name : str
    evaluate : callable
        ``evaluate(points, members)`` gives (n_inputs, n_targets): the value of each of the given members at each point
        (n_inputs, d). Integers in 0..q-1 if ``q`` is given, else real numbers.
    members : array or sequence, optional
        Whatever tells one member from another, one a row; what ``evaluate`` takes slices of.
    weights : array_like, shape (n_targets,), optional
        Of the members, divided by their sum; equal by default.
    sampler : callable, optional
        ``sampler(n_targets, rng)`` gives that many independent members. By default they are drawn from ``members``.
    q : int, optional
        Number of labels of a class with labels. Without it nothing can be said about pairwise dependence.
    values : array_like, shape (q,), optional
        What a model learns for each label; 0, 1, ..., q - 1 by default.
    """

    name: str
    evaluate: Callable[[AnyArray, Any], AnyArray]
    members: Any = None
    weights: Any = None
    sampler: Callable[[int, np.random.Generator], Any] | None = None
    q: int | None = None
    values: Any = None

    def __post_init__(self) -> None:
        if self.members is None and self.sampler is None:
            raise InputError(f"the target class {self.name!r} needs members, or a sampler that draws them")
        if self.members is not None and len(self.members) == 0:
            raise InputError(f"the target class {self.name!r} has no members")
        if self.q is not None:
            _checks.label_count(self.q)
            if self.values is not None:
                object.__setattr__(self, "values", _checks.real_vector(self.values, "values", self.q))
        elif self.values is not None:
            raise InputError("values belong to labels; pass q as well")
        if self.weights is not None:
            if self.members is None:
                raise InputError("weights belong to members; a sampler has its own distribution")
            shares = _checks.probabilities(self.weights, "weights", len(self.members))
            object.__setattr__(self, "weights", shares)

    def __len__(self) -> int:
        if self.members is None:
            raise InputError(
                f"the target class {self.name!r} is drawn from, not enumerated: it has no length"
            )
        return len(self.members)

    def __repr__(self) -> str:
        count = "to be drawn" if self.members is None else f"{len(self.members):,} members"
        return f"<TargetClass: {self.name}, {count}>"

    @property
    def label_values(self) -> Float64Array:
        """(q,): the value of each label."""
        if self.q is None:
            raise InputError(f"the target class {self.name!r} has real values, not labels")
        return np.arange(self.q, dtype=np.float64) if self.values is None else np.asarray(self.values)

    def draw(self, n_targets: int, rng: np.random.Generator) -> Any:
        """That many independent members."""
        if self.sampler is not None:
            drawn = self.sampler(n_targets, rng)
            if len(drawn) != n_targets:
                raise InputError(f"the sampler was asked for {n_targets} members and gave {len(drawn)}")
            return drawn
        chosen = rng.choice(len(self.members), size=n_targets, p=self.weights)
        if isinstance(self.members, np.ndarray):
            return self.members[chosen]
        return [self.members[at] for at in chosen]

    def labels(self, points: Any, members: Any = None) -> npt.NDArray[np.uint8]:
        """(n_targets, n_inputs): the labels of the members (all by default) at the points."""
        if self.q is None:
            raise InputError(f"the target class {self.name!r} has real values, not labels")
        return _checks.label_matrix(self._evaluated(points, members).T, self.q)

    def targets(self, points: Any, members: Any = None) -> Float64Array:
        """(n_inputs, n_targets): the values of the members (all by default) at the points."""
        found = self._evaluated(points, members)
        if self.q is None:
            return check.finite(
                np.ascontiguousarray(found, np.float64), f"values of {self.name}", whole=False
            )
        return self.label_values[_checks.label_matrix(found, self.q)]

    def _evaluated(self, points: Any, members: Any) -> AnyArray:
        if members is None:
            members = self.members
            if members is None:
                raise InputError(f"the target class {self.name!r} cannot be enumerated; draw members first")
        rows = as_numpy(points, "points")
        rows = rows.reshape(len(rows), -1)
        found = as_numpy(self.evaluate(rows, members), f"values of {self.name}")
        if found.shape != (len(rows), len(members)):
            raise InputError(
                f"evaluate of {self.name!r} gave shape {found.shape}; for {len(rows)} points and "
                f"{len(members)} members it must be {(len(rows), len(members))}"
            )
        return found
