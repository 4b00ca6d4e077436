"""Streaming M-estimation: fit a generalised linear model to more rows than fit in memory, with robust errors.

Pass one takes the moments of features and target, Newton passes (none for least squares) find the coefficients, and
the last pass takes the outer products of the gradients at the solution.
"""

from gradhess._regression.aliasing import Aliased
from gradhess._regression.fit import fit
from gradhess._regression.pieces import Pass, Progress, Source
from gradhess._regression.result import Regression

__all__ = ["Aliased", "Pass", "Progress", "Regression", "Source", "fit"]
