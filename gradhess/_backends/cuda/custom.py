"""Custom losses in the compiled kernels: the templates of ``csrc/cuda`` over a loss of the caller's.

The kernels of rows are templates over where slopes come from. For the functions of ``gradhess.losses.custom``, which
``gradhess._backends.cupy.custom`` translates to C, NVRTC compiles them once for each loss, type of X and device, so
that X is read once, as for the losses that are built in. The module chooses the shape of the launch and calls back
with it. Without contraction of products and sums (``--fmad=false``) the functions have the same bits in each kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from gradhess._backends.cupy.custom import Untranslatable, translated
from gradhess._backends.cupy.launch import device_errors, queue, raw_module
from gradhess._backends.custom_loss import require_second
from gradhess._backends.protocol import Rows

Launch: TypeAlias = Callable[[str, str, str, int, int, int, bytes], None]
"""(template with its arguments but the loss, type of its argument, launch bounds, thread blocks, threads, bytes of
shared memory, the argument) of csrc/cuda/run_time.hpp."""

HEADERS: Final = ("narrow.cuh", "row_slopes.cuh")

_KERNEL: Final = """
{headers}
{code}
namespace gradhess::cuda {{
struct CustomLoss {{
    GRADHESS_DEVICE static LossTerms evaluate(const Block&, double eta, double y) {{
        const double slope = {slope}(eta, y);
        return {{{value}(eta, y), slope, slope}};
    }}
    GRADHESS_DEVICE static bool has_label(const Block&, double) {{ return true; }}
}};
}}  // namespace gradhess::cuda
using namespace gradhess::cuda;
extern "C" __global__ void __launch_bounds__({bounds}) custom_rows(const __grid_constant__ {job} job) {{
    {function}, CustomLoss>(job);
}}
"""


def launcher(rows: Rows) -> Launch | None:
    """What compiles and launches kernels over the custom loss of ``rows``; None where it does not translate to C, or
    where there are no sources to compile: then its slopes come beforehand."""
    loss = rows.loss
    if loss is None or loss.functions is None or source_folder() is None:
        return None
    value_of, first_of, second_of = loss.functions
    if rows.kind == "hessian":
        require_second(loss)
    slope_of = second_of if rows.kind == "hessian" else first_of
    assert slope_of is not None
    try:
        code, names = translated(slope_of, value_of)
    except Untranslatable:
        return None
    return partial(_launch, code, names)


def _launch(
    code: str,
    names: tuple[str, str],
    function: str,
    job: str,
    bounds: str,
    grid: int,
    threads: int,
    shared_bytes: int,
    argument: bytes,
) -> None:
    with device_errors("a kernel over a custom loss"):
        kernel = compiled(code, names, function, job, bounds)
        # A struct is passed by value as an array of one item of that many bytes.
        value = np.frombuffer(argument, np.dtype((np.void, len(argument))))
        queue(kernel, (grid,), (threads,), (value,), shared_bytes)


@lru_cache(maxsize=256)
def compiled(code: str, names: tuple[str, str], function: str, job: str, bounds: str) -> Any:
    return raw_module(source(code, names, function, job, bounds)).get_function("custom_rows")


def source(code: str, names: tuple[str, str], function: str, job: str, bounds: str) -> str:
    """The whole of a kernel, without includes: so what CuPy keeps in files is found by all that it was made from."""
    return _KERNEL.format(
        headers=_headers(),
        code=code,
        slope=names[0],
        value=names[1],
        function=function,
        job=job,
        bounds=bounds,
    )


@cache
def source_folder() -> Path | None:
    """Where the headers of the kernels are: beside this file in an installation, in a checkout in csrc."""
    package = Path(str(resources.files("gradhess")))
    for folder in (package / "_backends" / "cuda" / "kernels", package.parent / "csrc" / "cuda"):
        if (folder / HEADERS[0]).is_file():
            return folder
    return None


@cache
def _headers() -> str:
    folder = source_folder()
    assert folder is not None
    seen: set[Path] = set()

    def text(path: Path) -> str:
        if path in seen:
            return ""
        seen.add(path)
        lines = path.read_text("utf-8").replace("#pragma once\n", "").splitlines()
        return "\n".join(included(path, line) for line in lines)

    def included(path: Path, line: str) -> str:
        found = re.fullmatch(r'#include "([^"]+)"', line)
        target = (path.parent / found[1]).resolve() if found else None
        return text(target) if target is not None and target.is_file() else line

    return "\n".join(text((folder / name).resolve()) for name in HEADERS)
