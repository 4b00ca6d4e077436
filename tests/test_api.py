"""The public surface: one explicit list, documented, quick to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import gradhess as gh
from gradhess import losses

PUBLIC = {
    "StreamingCovariance",
    "__version__",
    "as_gradients",
    "errors",
    "estimate_memory",
    "glm_gradients",
    "grouped",
    "layer_gradients",
    "losses",
    "set_num_threads",
    "show_config",
    "sketches",
    "synchronize",
    "use_backend",
    "weighted_gram",
}


def test_the_list_is_the_surface():
    assert set(gh.__all__) == PUBLIC
    assert isinstance(gh.__version__, str)
    shown = {name for name in vars(gh) if not name.startswith("_")}
    assert shown <= PUBLIC | {
        "cli",
        "curvature",
        "informativeness",
        "recovery",
        "torch",
    }  # submodules show up once they are imported


def test_signatures_are_those_of_the_documentation():
    signatures = {
        gh.weighted_gram: "(X, weights=None, *, out=None)",
        gh.glm_gradients: "(X, y, coef, loss='squared', *, intercept=None, sample_weight=None)",
        gh.layer_gradients: "(activations, errors, *, bias=False, mask=None)",
        gh.as_gradients: "(G)",
        gh.grouped: (
            "(gradients, groups=None, *, group_size=None, offsets=None, factors=None, shifts=None, scale=1.0)"
        ),
        gh.estimate_memory: "(d, structure='full', dtype='float64', *, device=None)",
        gh.StreamingCovariance: (
            "(structure='full', assume_centered=False, ddof=0, *, dtype='float64', on_nonfinite='error', device=None)"
        ),
        losses.custom: "(derivative, value=None, second=None)",
        losses.huber: "(delta=1.35)",
    }
    for function, expected in signatures.items():
        signature = inspect.signature(function)
        plain = signature.replace(
            parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
            return_annotation=signature.empty,
        )
        assert str(plain) == expected


def public_callables():
    for name in sorted(PUBLIC - {"__version__"}):
        value = getattr(gh, name)
        if inspect.ismodule(value):
            yield from (
                (f"{name}.{n}", v) for n, v in vars(value).items() if inspect.isclass(v) and v.__doc__
            )
            continue
        yield name, value
        if inspect.isclass(value):
            yield from ((f"{name}.{n}", v) for n, v in vars(value).items() if not n.startswith("_"))
    for method, value in vars(type(gh.as_gradients([[1.0]])).__mro__[1]).items():
        if not method.startswith("_"):
            yield f"Gradients.{method}", value


PARAMETERS = {"structure", "assume_centered", "ddof", "dtype", "on_nonfinite"}  # documented with the class


@pytest.mark.parametrize(
    ("name", "value"), list(public_callables()), ids=lambda part: part if isinstance(part, str) else ""
)
def test_everything_public_is_documented(name, value):
    if name.startswith("StreamingCovariance.") and name.partition(".")[2] in PARAMETERS:
        return
    documented = value.fget if isinstance(value, property) else value
    assert inspect.getdoc(documented), f"{name} has no docstring"


def test_importing_is_light():
    """NumPy and the compiled module, and none of the large libraries."""
    heavy = (
        "scipy",
        "numba",
        "torch",
        "matplotlib",
        "pyarrow",
        "pandas",
        "safetensors",
        "sklearn",
        "typer",
        "rich",
    )
    code = f"import sys, gradhess; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"
