"""``cupy.RawModule`` of the stand-in: compiles the same CUDA source for the host, and checks every argument."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

from cupy import _memory, cuda
from cupy._array import ndarray

PRELUDE = r"""
#include <cmath>
#include <cstdint>
struct Dim { unsigned x, y, z; };
static thread_local Dim blockIdx, threadIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define SHARED static thread_local
#define EACH_LANE(lane) for (int lane = 0; lane < 32; ++lane)
#define WARP_BARRIER()
using std::isfinite;
static void atomicMin(long long* place, long long value) { if (value < *place) *place = value; }
"""
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)', re.DOTALL)
BY_WARPS = ("predictor", "row_squares")  # the kernels of EACH_LANE, which is a loop here
SCALARS = {"int": np.int32, "i64": np.int64, "double": np.float64}
POINTERS = {"double": "float64", "i64": "int64", "signed char": "int8", "bool": "bool"}


def _parameters(text: str) -> list[tuple[str, bool]]:
    """(type, is pointer) of each parameter."""
    found = []
    for parameter in text.split(","):
        words = parameter.replace("const ", "").strip()
        kind, _, _ = words.rpartition("*" if "*" in words else " ")
        found.append((kind.strip(), "*" in words))
    return found


class RawModule:
    def __new__(cls, code: str, **options: Any) -> Any:
        return super().__new__(EmulatedModule if "GRADHESS_CUDA_EMULATOR" in code else cls)

    flags: tuple[str, ...] = ("-std=c++17",)

    def __init__(self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        assert all(isinstance(option, str) for option in options)
        self.code = code
        (self.type,) = re.findall(r"#define T (\w+)", code)
        self.kernels = {name: _parameters(text) for name, text in KERNEL.findall(code)}
        self._library: Any = None

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self, name)

    def library(self) -> Any:
        if self._library is None:
            self._library = ctypes.CDLL(str(self._compiled()))
        return self._library

    def _compiled(self) -> Path:
        compiler = shutil.which("g++") or shutil.which("c++")
        if compiler is None:
            raise cuda.CompileException("no C++ compiler for the stand-in")
        source = self._source()
        folder = Path(tempfile.gettempdir()) / f"gradhess-standin-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        target = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.so"
        if not target.exists():
            path = target.with_suffix(f".{os.getpid()}.cpp")
            path.write_text(source)
            command = [compiler, "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", *self.flags]
            made = path.with_suffix(".so")
            done = subprocess.run([*command, "-o", made, path], capture_output=True, text=True, check=False)
            if done.returncode:
                raise cuda.CompileException(done.stderr)
            made.replace(target)
            path.unlink()
        return target

    def _source(self) -> str:
        return PRELUDE + self.code + "\n".join(self._launcher(name) for name in self.kernels)

    def _launcher(self, name: str) -> str:
        types = [f"{kind}*" if pointer else kind for kind, pointer in self.kernels[name]]
        values = ", ".join(f"*({kind}*)values[{i}]" for i, kind in enumerate(types))
        return f"""
extern "C" void launch_{name}(const unsigned* grid, const unsigned* block, void** values) {{
    gridDim = {{grid[0], grid[1], grid[2]}}; blockDim = {{block[0], block[1], block[2]}};
    for (unsigned b = 0; b < grid[0]; ++b)
    for (unsigned y = 0; y < block[1]; ++y)
    for (unsigned x = 0; x < block[0]; ++x) {{
        blockIdx = {{b, 0, 0}}; threadIdx = {{x, y, 0}};
        {name}({values});
    }}
}}"""


class _Compiled:
    """What kernels of both kinds say of themselves."""

    max_dynamic_shared_size_bytes = 48 << 10
    module: RawModule
    identity: tuple[str, str]

    @property
    def kernel(self) -> Any:
        self.module.library()
        cuda.kernels[id(self)] = self
        return types.SimpleNamespace(ptr=id(self))

    @property
    def max_threads_per_block(self) -> int:
        self.module.library()
        return 1024


class RawKernel(_Compiled):
    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name = module, name
        self.parameters = module.kernels[name]
        self.identity = (name, module.type)

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], **rest: Any
    ) -> None:
        stream = cuda.get_current_stream()
        assert len(args) == len(self.parameters), f"{self.name} takes {len(self.parameters)} arguments"
        assert all(isinstance(size, int) and size >= 1 for size in (*grid, *block)), (grid, block)
        assert int(np.prod(block)) <= 1024
        assert grid[0] < 2**31
        assert all(size < 65536 for size in grid[1:])
        assert len(grid) == 1 or set(grid[1:]) == {1}
        cuda.require_legal(self, grid, int(np.prod(block)), 0)
        keep = [self._argument(value, *known) for value, known in zip(args, self.parameters, strict=True)]
        values = (ctypes.c_void_p * len(keep))(*(ctypes.addressof(value) for value in keep))
        sizes = [
            (ctypes.c_uint * 3)(*shape, *(1,) * (3 - len(shape)))
            for shape in (grid, (1, *block[1:]) if self.name in BY_WARPS else block)
        ]
        getattr(self.module.library(), f"launch_{self.name}")(*sizes, values)
        _memory.check_all()
        cuda.counts["launches"] += 1
        cuda.log.append((self.name, stream.ptr, grid, block))

    def _argument(self, value: Any, kind: str, pointer: bool) -> Any:
        if not pointer:
            expected = SCALARS[kind]
            assert type(value) is expected, f"{self.name}: {kind} is given {type(value).__name__}"
            made = {"int": ctypes.c_int32, "i64": ctypes.c_int64, "double": ctypes.c_double}[kind]
            return made(value)
        if isinstance(value, np.uint64):
            assert value == 0, "an address that is not an array"
            return ctypes.c_void_p(0)
        assert isinstance(value, ndarray), f"{self.name}: {kind}* is given {type(value).__name__}"
        wanted = POINTERS.get(kind) or {"float": "float32", "double": "float64"}[self.module.type]
        assert value.dtype == wanted, f"{self.name}: {kind}* is given {value.dtype}"
        assert value.device.id == cuda.get_device_id(), f"{self.name}: an array of another device"
        return ctypes.c_void_p(value.data.ptr)


class EmulatedModule(RawModule):
    """One of the kernels of csrc/cuda, made at run time: a block of threads at a time, by tests/cuda_emulator."""

    # fmt: off
    flags = (
        "-std=c++20", "-fvisibility=hidden", "-Werror", "-Wno-unknown-pragmas", "-DGRADHESS_CUDA_EMULATOR",
        f"-I{Path(__file__).parents[2]}",
    )
    # fmt: on
    KERNEL = re.compile(
        r'extern "C" __global__ void __launch_bounds__\((\d+), \d+\) (\w+)\(const __grid_constant__ ([\w:]+) job\)'
    )
    seed = 0
    """Of the order in which threads run."""

    def __init__(self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        assert "--fmad=false" in options, "a loss must have the same bits in every kernel"
        ((threads, self.name, self.job),) = self.KERNEL.findall(code)
        self.code, self.threads = code, int(threads)
        self._library = None

    def get_function(self, name: str) -> Any:
        assert name == self.name
        return EmulatedKernel(self)

    def _source(self) -> str:
        return f"""{self.code}
extern "C" __attribute__((visibility("default"))) int job_bytes() {{ return sizeof({self.job}); }}
extern "C" __attribute__((visibility("default"))) const char* launch(
    unsigned grid, unsigned threads, unsigned long shared_bytes, const void* job, unsigned long seed) {{
    static std::string message;
    cuda_emulator::emulator().settings.seed = seed;
    try {{
        cuda_emulator::emulator().launch({{dim3(grid), dim3(threads), shared_bytes, 1}},
                                         [&] {{ {self.name}(*static_cast<const {self.job}*>(job)); }});
    }} catch (const std::exception& error) {{
        message = error.what();
        return message.c_str();
    }}
    return nullptr;
}}"""


class EmulatedKernel(_Compiled):
    def __init__(self, module: EmulatedModule) -> None:
        self.module = module
        self.identity = (module.job, hashlib.sha256(module.code.encode()).hexdigest())

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        stream = cuda.get_current_stream()
        (job,) = args
        library = self.module.library()
        library.launch.restype = ctypes.c_char_p
        library.launch.argtypes = [
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_ulong,
            ctypes.c_void_p,
            ctypes.c_ulong,
        ]
        assert isinstance(job, np.ndarray)
        assert job.size == 1, "only arrays of one item are passed by value"
        assert job.nbytes == library.job_bytes()
        assert block == (self.module.threads,), "the launch bounds are those of the launch"
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        cuda.require_legal(self, grid, block[0], shared_mem)
        wrong = library.launch(grid[0], block[0], shared_mem, job.ctypes.data, EmulatedModule.seed)
        if wrong is not None:
            raise cuda.CompileException(wrong.decode())
        _memory.check_all()
        cuda.counts["launches"] += 1
        cuda.log.append((self.module.name, stream.ptr, grid, block))
