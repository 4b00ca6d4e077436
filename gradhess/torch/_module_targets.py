"""The functions that a torch module may be initialised to, as a class of targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gradhess._backends.protocol import AnyArray
from gradhess.errors import InputTypeError
from gradhess.informativeness import TargetClass
from gradhess.torch._module_function import ModuleFunction


def module_targets(make_module: Callable[[], Any], *, name: str = "initialised modules") -> TargetClass:
    """Targets drawn by initialising a module.

    Parameters
    ----------
    make_module : callable
        Gives a new module at each call, initialised by torch's random numbers; it takes (n, d) and gives (n,) or
        (n, 1). Integer points reach it as floats where it takes those, and else as integers, as an embedding needs.
    name : str

    Returns
    -------
    TargetClass
        To be drawn from, not enumerated. The numbers come from the ``rng`` of the draw alone: torch's own generator is
        left as it was.
    """

    def draw(n_targets: int, rng: np.random.Generator) -> list[Any]:
        modules = []
        with torch.random.fork_rng(devices=[]):
            for seed in rng.integers(0, 2**63 - 1, n_targets):
                torch.manual_seed(int(seed))
                module = make_module()
                if not isinstance(module, torch.nn.Module):
                    raise InputTypeError(
                        f"make_module gave a {type(module).__name__}; it must give a torch.nn.Module"
                    )
                modules.append(module.eval())
        return modules

    def evaluate(points: AnyArray, modules: list[Any]) -> AnyArray:
        columns = [ModuleFunction(module).predict(points).astype(np.float64) for module in modules]
        return np.stack(columns, axis=1)

    return TargetClass(name, evaluate, sampler=draw)
