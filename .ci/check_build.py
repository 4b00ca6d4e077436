"""Two checks on a build folder: no register of a CUDA kernel in local memory, no code shared by instruction sets.

A function that two object files define as weak symbols is kept once by the linker. If the copy compiled for AVX-512
won, a machine without it would stop at an illegal instruction; so the kernel files may share none.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def spills(log: str) -> list[str]:
    """Lines of ``ptxas -v`` that report spilled registers, or arrays that went to (slow) local memory instead."""
    slow = r"[1-9]\d* bytes (stack frame|spill stores|spill loads)"
    return [line for line in log.splitlines() if re.search(slow, line)]


def shared_symbols(build: Path) -> list[str]:
    """Weak symbols of the kernel files that lie outside the namespace of their instruction set."""
    found = []
    for path in sorted(build.glob("CMakeFiles/_cpu.dir/csrc/cpu/kernels_*.o")):
        isa = path.name.removeprefix("kernels_").partition(".")[0]
        listing = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
        for line in listing.splitlines():
            weak = re.match(r"[0-9a-f]+ [WVu] (.*)", line)
            if weak and f"::{isa}::" not in weak[1]:
                found.append(f"{path.name}: {weak[1]}")
    return found


def main(build: Path) -> int:
    log = (build / "build.log").read_text()
    kernels = log.count("Compiling entry function")
    problems = spills(log) + shared_symbols(build)
    print(f"{kernels} CUDA kernels compiled" if kernels else "no CUDA compiler: CUDA kernels not compiled")
    for problem in problems:
        print("error:", problem)
    print(
        "build check:",
        f"{len(problems)} problems" if problems else "no spills, no code shared between instruction sets",
    )
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
