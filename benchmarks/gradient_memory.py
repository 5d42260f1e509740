"""What each gradient costs as a solve takes more steps, and as the field has more parameters.

    python benchmarks/gradient_memory.py

Chen et al. (2018) say that backpropagation through the solver costs memory and error, and that the adjoint costs
neither. Here each gradient method takes the same fixed steps of `rk4` over the same time, in a process of its own.
Memory is the most that the process held during a forward and a backward pass, less what it held before; time is that
of both; an error is the distance from the gradient of the solution itself, which was solved to twelve digits.
The report and its picture go to `benchmarks/reports`, and the picture to the guide.

y: (batch, features), float64.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import thalweg
from side_by_side import hardware, peak_memory, report_path, write_report
from thalweg.figures.style import styled

STEPS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
WIDTHS = (32, 128, 512, 2_048)
BATCH, FEATURES, WIDTH = 64, 16, 32
MIB = 2**20

GRADIENTS: dict[str, Callable[[], Any]] = {
    "direct": lambda: "direct",
    "checkpointed": lambda: "checkpointed",
    "checkpointed, 30 states": lambda: thalweg.Checkpointed(memory_limit=0, checkpoints=30),
    "reversible": lambda: "reversible",
    "adjoint": lambda: "adjoint",
    "interpolating": lambda: "interpolating",
    "gauss": lambda: "gauss",
}


@dataclass(frozen=True)
class Cost:
    """What one forward and one backward pass took: bytes, seconds, and the relative error of the gradient."""

    name: str
    steps: int
    width: int
    parameters: int
    memory: int
    seconds: float
    error: float


class Field(nn.Module):
    """One hidden layer; a rotation that turns faster and slower keeps the flow from dying out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(FEATURES, width), nn.Linear(width, FEATURES)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.outer(torch.tanh(self.inner(y))) + torch.cos(t) * y.roll(1, -1) - torch.cos(t) * y.roll(-1, -1)


def problem(width: int) -> tuple[Field, Tensor]:
    """The same field and state at each call."""
    torch.manual_seed(0)
    return Field(width).double(), torch.randn(BATCH, FEATURES, dtype=torch.float64)


def gradient(field: Field, y0: Tensor, **options: Any) -> Tensor:
    """That of the end's mean square to all parameters."""
    end = thalweg.solve_ivp(field, (0.0, 3.0), y0, max_steps=100_000, backend="eager", **options).ys[-1]
    return torch.cat([g.flatten() for g in torch.autograd.grad(end.square().mean(), list(field.parameters()))])


def measure(name: str, steps: int, width: int) -> Cost:
    """In this process, which does nothing else."""
    torch.set_num_threads(1)
    field, y0 = problem(width)
    how = GRADIENTS[name]()
    gradient(field, y0, method="rk4", step_size=1.0, gradient=how)  # what is loaded once is no cost of a solve
    before = peak_memory()
    start = time.perf_counter()
    found = gradient(field, y0, method="rk4", step_size=3.0 / steps, gradient=how)
    seconds = time.perf_counter() - start
    held = peak_memory() - before
    exact = gradient(field, y0, method="dopri8", rtol=1e-12, atol=1e-12, gradient="checkpointed")
    error = float((found - exact).norm() / exact.norm())
    return Cost(name, steps, width, sum(p.numel() for p in field.parameters()), held, seconds, error)


def measured(name: str, steps: int, width: int) -> Cost:
    """In a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps([name, steps, width])]
    # glibc would leave holes between what is kept, of hundreds of MiB or of none from one run to the next
    tidy = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=tidy).stdout
    return Cost(**json.loads(printed))


@styled
def picture(by_steps: Sequence[Cost], by_width: Sequence[Cost], path: Path) -> None:
    """Memory, time and error against steps, and memory against parameters."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 4.6))
    colours = dict(zip(GRADIENTS, plt.cm.tab10.colors, strict=False))
    panels = (
        (by_steps, "steps", lambda cost: max(cost.memory, MIB / 8) / MIB, "memory, MiB"),
        (by_steps, "steps", lambda cost: cost.seconds, "time, seconds"),
        (by_steps, "steps", lambda cost: cost.error, "error of the gradient"),
        (by_width, "parameters", lambda cost: max(cost.memory, MIB / 8) / MIB, "memory, MiB, at 300 steps"),
    )
    for ax, (costs, x, value, title) in zip(axes, panels, strict=True):
        for i, name in enumerate(GRADIENTS):
            mine = [cost for cost in costs if cost.name == name]
            style = {"color": colours[name], "marker": "osD^vPX"[i], "ms": 5, "lw": 1.6}
            ax.plot([getattr(cost, x) for cost in mine], [value(cost) for cost in mine], label=name, **style)
        ax.set(xscale="log", yscale="log", xlabel=x, title=title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(costs: Sequence[Cost], across: str, value: Callable[[Cost], str]) -> str:
    """One row a method, one column a size."""
    sizes = sorted({getattr(cost, across) for cost in costs})
    lines = [f"| {across} | " + " | ".join(f"{size:,}" for size in sizes) + " |", "| --- |" + " --: |" * len(sizes)]
    for name in GRADIENTS:
        row = {getattr(cost, across): value(cost) for cost in costs if cost.name == name}
        lines.append(f"| {name} | " + " | ".join(row.get(size, "") for size in sizes) + " |")
    return "\n".join(lines)


def report(by_steps: Sequence[Cost], by_width: Sequence[Cost], figure: str) -> str:
    """All of it in words and tables."""

    def memory(cost: Cost) -> str:
        return f"{cost.memory / MIB:.1f}"

    parts = (
        ("Memory against steps, MiB", table(by_steps, "steps", memory)),
        ("Time against steps, seconds", table(by_steps, "steps", lambda cost: f"{cost.seconds:.2f}")),
        ("Error of the gradient against steps", table(by_steps, "steps", lambda cost: f"{cost.error:.1e}")),
        ("Memory against parameters at 300 steps, MiB", table(by_width, "parameters", memory)),
    )
    head = (
        f"# What gradients cost\n\n{hardware()}, one thread, {datetime.date.today()}; torch {torch.__version__}; `rk4` "
        f"in fixed steps, t from 0 to 3, a field {FEATURES}-{WIDTH}-{FEATURES}, batch {BATCH}, float64. Each figure is "
        "of a process of its own: the most it held, less what it held after a solve of three steps, with "
        f"MALLOC_MMAP_THRESHOLD_=131072, which keeps glibc from holding more than it was asked for.\n\n![]({figure})\n"
    )
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in parts)


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, default=STEPS[-1], help="the most steps, %(default)s")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asdict(measure(*given.one))))
        return
    by_steps, by_width = [], []
    for name in GRADIENTS:
        by_steps += [measured(name, steps, WIDTH) for steps in STEPS if steps <= given.most]
        by_width += [measured(name, 300, width) for width in WIDTHS]
        print(f"{name} done", flush=True)
    path = report_path("gradients-")
    picture(by_steps, by_width, path.with_suffix(".png"))
    write_report(report(by_steps, by_width, path.with_suffix(".png").name), path)


if __name__ == "__main__":
    main()
