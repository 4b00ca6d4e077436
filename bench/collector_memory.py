"""Peak memory of a backward pass, plain and under GradientCollector, beside what the rows themselves would take.

    python bench/collector_memory.py      # Linux

Each runs in a process of its own, as in ``bench_support/memory.py``: resident memory at its highest, beyond the model,
its gradients and the batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext

from bench_support.memory import RESET, _status_bytes

WIDTH, LAYERS, BATCH = 512, 6, 16_384
MIB = 1 << 20


def measure(collected: bool) -> int:
    import torch

    from gradhess.torch import GradientCollector

    torch.manual_seed(0)
    layers = [m for _ in range(LAYERS) for m in (torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers)
    x = torch.randn(BATCH, WIDTH)

    def step(rows: torch.Tensor) -> None:
        with GradientCollector(model) if collected else nullcontext():
            model(rows).square().sum().backward()

    step(x[:64])  # libraries and their buffers
    RESET.write_text("5")
    before = _status_bytes("VmRSS")
    step(x)
    return _status_bytes("VmHWM") - before


def main() -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    found = {}
    for name in ("plain", "collected"):
        done = subprocess.run(
            [sys.executable, __file__, name], env=environment, capture_output=True, text=True, check=True
        )
        found[name] = int(done.stdout)
    activation = 4 * BATCH * WIDTH / MIB
    print(f"{LAYERS} layers of {WIDTH}, batch of {BATCH:,}: an activation takes {activation:.0f} MiB")
    for name, used in found.items():
        print(f"{name:<12}{used / MIB:8.0f} MiB  {used / MIB / activation:5.1f} activations")
    print(f"the rows would take {4 * BATCH * LAYERS * WIDTH**2 / MIB:,.0f} MiB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(sys.argv[1] == "collected"))
    else:
        main()
