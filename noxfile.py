"""The project's checks, as `.ci/run` and contributors run them: `nox -l` lists them, `nox -s tests` runs one."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import nox

nox.options.sessions = ["checks", "tests"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
TORCH_TESTS = [
    "tests/test_arrays_torch.py",
    "tests/test_curvature_torch.py",
    "tests/test_curvature_torch_refuses.py",
    "tests/test_docs_informativeness.py",
    "tests/test_torch_covariance.py",
    "tests/test_torch_layers.py",
    "tests/test_torch_models.py",
    "tests/test_torch_odd_layers.py",
    "tests/test_torch_recovery.py",
]
TORCH_PEERS = [
    "backpack-for-pytorch",
    "curvlinops-for-pytorch>=3.0",
    "einconv",
    "einops",
    "linear_operator",
    "opt-einsum",
    "tqdm",
    "unfoldNd",
]
NO_BUILD = {"GRADHESS_COMPILED": "off"}
NO_CUDA = {"GRADHESS_CUDA": "off"}  # a minute less, where the CUDA module is not what the session is about
PACKAGE_FOLDER = "import gradhess, pathlib; print(pathlib.Path(gradhess.__file__).parents[1])"
IMPORT_CHECK = "import gradhess; gradhess.show_config()"


def _sources(*suffixes: str) -> list[str]:
    return [str(path) for path in sorted(ROOT.glob("csrc/**/*")) if path.suffix in suffixes]


@nox.session
def checks(session: nox.Session) -> None:
    """Style, types and layers. Compiles nothing."""
    session.install(".[cli,dev]", env=NO_BUILD)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("clang-format", "--dry-run", "-Werror", *_sources(".cpp", ".hpp", ".inl", ".cu", ".cuh"))
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite against the installed package; arguments go to pytest."""
    session.install(".[test]")
    session.run("pytest", *session.posargs, env={"GRADHESS_EXPECT_INSTALLED": "1"})


@nox.session
def torch(session: nox.Session) -> None:
    """The tests that take arrays or models from PyTorch, and those against libraries that are made for it."""
    session.install("torch==2.13.0")
    session.install(".[test]", env=NO_CUDA)
    # Peers that single tests compare with, for the PyTorch that is here; where one will not install, its tests say so.
    session.install("--no-deps", *TORCH_PEERS, success_codes=[0, 1])
    session.run("pytest", *TORCH_TESTS, *session.posargs)


@nox.session
def strict_build(session: nox.Session) -> None:
    """Warnings are errors; no spills in CUDA kernels; no code shared between instruction sets."""
    session.install("cmake", "ninja", "pybind11>=3.0")
    build = Path(session.create_tmp()) / "build"
    # fmt: off
    session.run(
        "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DGRADHESS_WERROR=ON",
        f"-DPython_EXECUTABLE={session.bin}/python",
        f"-Dpybind11_DIR={session.run('pybind11-config', '--cmakedir', silent=True, log=False).strip()}",
    )
    # fmt: on
    log = session.run("cmake", "--build", str(build), "--clean-first", "--verbose", silent=True)
    (build / "build.log").write_text(log)
    session.run("python", ".ci/check_build.py", str(build))


@nox.session
def packages(session: nox.Session) -> None:
    """An sdist, a wheel built from it, and an installation without compiled code, each imported away from here."""
    session.install("build")
    tmp = Path(session.create_tmp()).resolve()
    dist = tmp / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), str(ROOT))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    session.chdir(tmp)
    session.install("--force-reinstall", str(wheel))
    has_cuda = any(name.startswith("gradhess/_cuda.") for name in zipfile.ZipFile(wheel).namelist())
    modules = "gradhess._cpu, gradhess._cuda" if has_cuda else "gradhess._cpu"
    session.run("python", "-c", f"import {modules}; {IMPORT_CHECK}")
    session.install("--force-reinstall", "--no-deps", "--no-cache-dir", str(sdist), env=NO_BUILD)
    session.run("python", "-c", IMPORT_CHECK, env={"GRADHESS_BACKEND": "numba"})


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks on tiny shapes: that they run and agree, not how fast. Peers that will not install are skipped."""
    # The last three: retune.py builds the kernels.
    session.install(".[bench]", "cmake", "ninja", "pybind11>=3.0", env=NO_CUDA)
    environment = {"GRADHESS_BENCH": os.environ.get("GRADHESS_BENCH", "quick")}
    session.run("pytest", "bench", *session.posargs, env=environment)
    for script in ("interleaved", "operations", "sweep", "tiny", "after_pause", "accuracy"):
        session.run("python", f"bench/{script}.py", env=environment)
    here = session.run("python", "-c", PACKAGE_FOLDER, silent=True).strip()
    session.run("python", "bench/compare.py", here, here, env=environment)
    session.run("python", "bench/retune.py", env=environment)
    session.run("python", "bench/gpu.py", "--dry-run", env=environment)
