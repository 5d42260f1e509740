"""How the native engine scales: with threads, with samples, with steps, and how long a first call takes.

    python benchmarks/engine_scaling.py

Two threads against one on `tabular`, `wide` and `large`, taking turns; the time a sample from 64 to a million of them;
the most memory of a forward solve, with 100 times the steps; and the first call, in this process and in a fresh one.
Medians, in milliseconds or as said.

y: (batch, features), float32.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from side_by_side import hardware, peak_memory
from thalweg import solve_ivp
from workloads import MLP, WORKLOADS


def median(run: Callable[[], Any], repeats: int) -> float:
    """Milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def solve(name: str, batching: str, *, wanted: bool) -> Callable[[], Any]:
    """A solve of a workload, with its gradient where that is wanted."""
    workload = WORKLOADS[name]
    net, y0 = workload.make(torch.float32)
    y0.requires_grad_(wanted)
    options = {"rtol": workload.tolerance, "atol": workload.tolerance, "batching": batching, "backend": "native"}

    def run() -> None:
        with torch.set_grad_enabled(wanted):
            end = solve_ivp(net, (0.0, workload.t1), y0, "dopri5", **options).ys[-1]
            if wanted:
                torch.autograd.grad(end.square().sum(), [y0, *net.parameters()])

    return run


def threads() -> None:
    """Two against one."""
    print("| two threads against one | joint | per sample | gradient, joint | gradient, per sample |")
    print("| --- | --: | --: | --: | --: |")
    for name in ("tabular", "wide", "large"):
        cells = []
        for wanted in (False, True):
            for batching in ("joint", "per_sample"):
                run = solve(name, batching, wanted=wanted)
                found: dict[int, list[float]] = {1: [], 2: []}
                for _ in range(9):
                    for count, times in found.items():
                        torch.set_num_threads(count)
                        run()
                        times.append(median(run, 3))
                cells.append(f"{statistics.median(found[1]) / statistics.median(found[2]):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def samples() -> None:
    """The time a sample."""
    torch.manual_seed(0)
    net = MLP(2, 50, 2, gain=2.0)
    print("\n| samples | microseconds a sample |\n| --: | --: |")
    for batch in (64, 256, 1_024, 8_192, 65_536, 1_000_000):
        y0 = torch.randn(batch, 2)

        def run(y0: torch.Tensor = y0) -> None:
            with torch.no_grad():
                solve_ivp(net, (0.0, 5.0), y0, "dopri5", rtol=1e-5, atol=1e-5, batching="per_sample", backend="native")

        run()
        print(f"| {batch:,} | {1e3 * median(run, 5 if batch > 10_000 else 31) / batch:.2f} |", flush=True)


def memory() -> None:
    """In processes of their own: steps as given on the command line."""
    print("\n| steps | most memory, MiB |\n| --: | --: |")
    for steps in (100, 1_000, 10_000):
        out = subprocess.run(
            [sys.executable, __file__, "--steps", str(steps)], capture_output=True, text=True, check=True
        )
        print(f"| {steps:,} | {float(out.stdout):.1f} |", flush=True)


def steps(count: int) -> None:
    """A solve of so many steps, and the most memory of this process."""
    net = MLP(16, 64, 16, gain=1.0)
    with torch.no_grad():
        y0 = torch.randn(256, 16)
        solve_ivp(net, (0.0, 1.0), y0, "rk4", step_size=1 / count, max_steps=2 * count, backend="native")
    print(peak_memory() / 2**20)


FIRST = """
import time
start = time.perf_counter()
import sys
sys.path.insert(0, {folder!r})
import torch
import thalweg
imported = time.perf_counter()
from workloads import WORKLOADS
workload = WORKLOADS["tabular"]
def call():
    net, y0 = workload.make(torch.float32)
    begin = time.perf_counter()
    with torch.no_grad():
        sol = thalweg.solve_ivp(net, (0.0, 1.0), y0, "dopri5", rtol=1e-4, atol=1e-4, batching="per_sample")
    assert sol.stats.backend == "native"
    return time.perf_counter() - begin
first = call()
whole = time.perf_counter() - start
again = sorted(call() for _ in range(9))[4]
print(whole, whole - first, first, again)
"""


def first_call() -> None:
    """With the trace, in a fresh process, and for a fresh field in one that has traced before."""
    code = FIRST.format(folder=sys.path[0])
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # modules are compiled by the first of these processes
    found = [
        [
            float(x)
            for x in subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=compiled
            ).stdout.split()
        ]
        for _ in range(5)
    ]
    whole, imports, first, again = (statistics.median(column) for column in zip(*found, strict=True))
    print(
        f"\nA fresh process, imports and the first solve: {whole:.2f} s, of which imports {imports:.2f} s, the solve "
        f"with its trace {1e3 * first:.0f} ms; a fresh field in a process that has traced: {1e3 * again:.0f} ms."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--steps"]:
        steps(int(sys.argv[2]))
    else:
        print(hardware() + "\n")
        threads()
        samples()
        memory()
        first_call()
