"""The compiled CUDA kernels: whether they are there, for what, and on which devices.

Compiled, and run by an emulator in the tests; **not yet run on hardware**.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from gradhess.errors import BackendError

if TYPE_CHECKING:
    from gradhess._backends.cupy.backend import CupyBackend

NO_DRIVER = 35
"""cudaErrorInsufficientDriver: what the runtime answers where there is no driver, or one that is too old."""


def _module() -> ModuleType:
    try:
        return importlib.import_module("gradhess._cuda")
    except ImportError as error:
        raise BackendError(
            "the CUDA module was not compiled; install with nvcc on PATH, and GRADHESS_CUDA=on to insist"
        ) from error


def _version(code: int) -> str:
    return f"{code // 1000}.{code % 1000 // 10}"


def describe() -> dict[str, str]:
    """What ``show_config`` says: whether compiled, for what, and the devices or the reason for none."""
    try:
        module = _module()
    except BackendError as error:
        return {"compiled": "no", "reason": str(error)}
    facts = {"compiled": f"CUDA {_version(module.RUNTIME_VERSION)} for {module.ARCHITECTURES}"}
    count, error_code, text = module.device_count()
    if error_code == NO_DRIVER:
        facts["reason"] = f"no CUDA driver (error {error_code}: {text})"
    elif error_code:
        facts["reason"] = f"error {error_code}: {text}"
    elif count == 0:
        facts["reason"] = "no CUDA device"
    else:
        facts["devices"] = ", ".join(module.device_name(device) for device in range(count))
    return facts


def load() -> CupyBackend:
    """The backend over the compiled kernels; BackendError with what was found where it cannot be used."""
    facts = describe()
    if facts["compiled"] == "no":
        raise BackendError(facts["reason"])
    if "reason" in facts:
        raise BackendError(f"compiled ({facts['compiled']}); {facts['reason']}")
    from gradhess._backends.cupy import devices

    devices()  # CuPy holds the arrays
    from gradhess._backends.cuda.engine import CudaEngine
    from gradhess._backends.cupy.backend import CupyBackend

    return CupyBackend("cuda", CudaEngine())
