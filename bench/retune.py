"""Tries other values for the constants of csrc/cpu/tuning.hpp, and says which are best on this machine.

For each constant, the kernels are built once with the header as it is and once for every other value (in a copy of the
sources: the header itself stays the one place of the constants), and all builds run side by side on the shapes that the
constant matters for. Ratios are those of the present value to another one, above 1 where the other one is faster.

    python bench/retune.py [--constant NAME ...] [--rounds N] [--output FILE]

Needs CMake, pybind11 and the compiler. Results of the library do not depend on any of the constants.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_support import builds, record, timing
from bench_support.problems import QUICK

ROOT = Path(__file__).parents[1]
HEADER = Path("csrc/cpu/tuning.hpp")
CONSTANT = re.compile(r"^inline constexpr [\w:]+ (\w+) = ([^;]+);", re.MULTILINE)

Shape = tuple[int, int]
NARROW: tuple[Shape, ...] = ((1_000_000, 16), (300_000, 64))
MIDDLE: tuple[Shape, ...] = ((100_000, 128), (50_000, 256))
WIDE: tuple[Shape, ...] = ((20_000, 1024), (4_096, 4096))
FEW: tuple[Shape, ...] = ((1_000, 64), (4_096, 32), (10_000, 64), (250, 200), (3_000, 256), (20_000, 384))
TINY: tuple[Shape, ...] = ((500, 16), (2_000, 16), (256, 64), (1_000, 64))


@dataclass(frozen=True)
class Trial:
    """A constant, by its name in the header, what else to try, and where it matters."""

    name: str
    values: tuple[str, ...]
    shapes: tuple[Shape, ...]
    jobs: tuple[str, ...] = ("squared",)


TRIALS = (
    Trial("kGroupBytes", ("8 * 1024", "24 * 1024", "32 * 1024"), (*NARROW, *MIDDLE)),
    Trial("kGroupRowsMin", ("16", "32"), WIDE),
    Trial("kTileColumns", ("72", "240", "360"), (*MIDDLE, *WIDE)),
    Trial("kTeamMinWork", ("100'000", "200'000", "800'000", "1'600'000"), TINY),
    Trial("kTeamCostColumns", ("40.0", "160.0"), FEW),
    Trial("kTeamStart", ("250'000", "4'000'000"), FEW),
    Trial("kOwnSlabsStart", ("150'000", "2'400'000"), FEW),
    Trial("kOwnSlabCost", ("1.0", "1.3"), FEW),
    Trial("kFarTurnRows", ("2", "8"), WIDE),
    Trial("kPrefetchBytes", ("1024", "2048", "8192"), (*NARROW, *MIDDLE)),
    Trial("kBlockBufferBytes", ("128 * 1024", "256 * 1024", "1024 * 1024"), (*NARROW, *MIDDLE)),
    Trial("kBlockBuffersWanted", ("1", "2", "8"), MIDDLE),
    Trial("kRowJob", ("1024", "2048", "8192"), NARROW, ("gram_matvec", "norms")),
    Trial("kRowJobBytes", ("1024 * 1024", "4096 * 1024"), (*MIDDLE, *WIDE), ("gram_matvec", "norms")),
    Trial("kRowJobsWanted", ("4", "64"), FEW, ("gram_matvec", "norms")),
    Trial("kRowThreadBytes", ("256 * 1024", "4096 * 1024"), FEW, ("gram_matvec", "norms")),
    Trial("kRotatedRows", ("32", "128"), ((1_000_000, 16),), ("Fortran order",)),
    Trial("kTurnedBytes", ("256 * 1024", "1024 * 1024"), ((200_000, 64), *WIDE), ("Fortran order",)),
)
SMALLEST_GAIN = 1.01
"""Less than this is not worth a change."""
TAIL = 0.1
SPELL_SECONDS = 0.01 if QUICK else 0.05


class Sources:
    """A copy of what the kernels are built from, in which one constant at a time may have another value."""

    def __init__(self, scratch: Path) -> None:
        self._tree, self._build, self._modules = scratch / "tree", scratch / "build", scratch / "modules"
        for name in ("csrc", "cmake"):
            shutil.copytree(ROOT / name, self._tree / name)
        shutil.copy2(ROOT / "CMakeLists.txt", self._tree)
        self._header = (self._tree / HEADER).read_text()
        self.constants: dict[str, str] = dict(CONSTANT.findall(self._header))
        self._configure()

    def module(self, name: str, value: str) -> Path | None:
        """The compiled module with that value, or None where it does not compile (an assertion in the header)."""
        found = CONSTANT.sub(
            lambda match: match[0].replace(f"= {match[2]};", f"= {value};") if match[1] == name else match[0],
            self._header,
        )
        (self._tree / HEADER).write_text(found)
        done = subprocess.run(
            ["cmake", "--build", str(self._build), "--target", "_cpu"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            if value == self.constants[name]:
                raise builds.BuildError(
                    f"the kernels do not build:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                )
            return None
        (built,) = [path for path in self._build.rglob("_cpu*") if path.suffix in (".so", ".pyd")]
        kept = self._modules / f"{name}-{re.sub('[^0-9a-zA-Z]+', '_', value)}" / built.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(built, kept))

    def _configure(self) -> None:
        if shutil.which("cmake") is None:
            raise builds.BuildError("CMake is not there: pip install cmake ninja pybind11")
        try:
            import pybind11
        except ImportError:
            raise builds.BuildError("pybind11 is not there: pip install pybind11") from None
        command = [
            "cmake",
            "-S",
            str(self._tree),
            "-B",
            str(self._build),
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        command.append(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
        command += ["-G", "Ninja"] if shutil.which("ninja") else []
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "GRADHESS_CUDA": "off"}
        )
        if done.returncode:
            raise builds.BuildError(f"CMake failed:\n{done.stderr[-2000:]}")


def run_trial(
    trial: Trial, sources: Sources, scratch: Path, dtypes: list[str], rounds: int
) -> dict[str, Any]:
    present = sources.constants[trial.name]
    folders: dict[str, Path] = {}
    for value in dict.fromkeys((present, *trial.values)):
        module = sources.module(trial.name, value)
        if module is None:
            print(f"  {trial.name} = {value}: does not compile")
        else:
            folders[value] = builds.package_folder(module, scratch / "packages")
    others = [value for value in folders if value != present]
    print(f"\n{trial.name}, now {present}\n{'':42}" + "".join(f"{value:>24}" for value in others), flush=True)

    rows, logs = [], {value: [] for value in others}
    for job in trial.jobs:
        for n, d in trial.shapes:
            for dtype in dtypes:
                times = builds.compare(
                    folders, job, n, d, dtype, rounds=rounds, processes=1 if QUICK else 2, spell=SPELL_SECONDS
                )
                bands = {value: timing.ratios(times, present, value, TAIL) for value in others}
                for value, band in bands.items():
                    logs[value].append(math.log(band.median))
                cells = "".join(f"{band!s:>24}" for band in bands.values())
                print(f"{job:<14}{n:>9} x {d:<5}{dtype:>8}  {cells}", flush=True)
                rows.append({"job": job, "n": n, "d": d, "dtype": dtype, "ratios": bands})
    gains = {value: math.exp(sum(found) / len(found)) for value, found in logs.items()}
    print(f"{'geometric mean':<42}" + "".join(f"{gain:>24.3f}" for gain in gains.values()))
    best = max(gains, key=gains.__getitem__, default=present)
    change = best != present and gains[best] >= SMALLEST_GAIN
    print(f"  change it to {best}" if change else f"  keep {present}")
    return {
        "constant": trial.name,
        "present": present,
        "best": best if change else present,
        "gains": gains,
        "rows": rows,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=12)
    names = [trial.name for trial in TRIALS]
    parser.add_argument("--constant", choices=names, nargs="+", default=names)
    chosen = parser.parse_args(arguments)
    trials = [trial for trial in TRIALS if trial.name in chosen.constant]
    found = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            sources = Sources(Path(folder))
            for name in sources.constants.keys() - set(names):
                print(f"{name} is in {HEADER}, but nothing is known here about where it matters")
            for trial in trials:
                if trial.name not in sources.constants:
                    print(
                        f"{trial.name} is not in {HEADER} (any more); change the list at the top of this file"
                    )
            trials = [trial for trial in trials if trial.name in sources.constants]
            if QUICK:
                trials = [
                    Trial(trial.name, trial.values[:1], ((600, 40),), trial.jobs) for trial in trials[:1]
                ]
            for trial in trials:
                found.append(run_trial(trial, sources, Path(folder), list(chosen.dtype), chosen.rounds))
    except builds.BuildError as error:
        print(error, file=sys.stderr)
        return 2
    print()
    for result in found:
        print(f"{result['constant']}: best {result['best']} (now {result['present']})")
    record.write("retune", chosen.output, constants=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
