"""torchdiffeq's own calls, by torchdiffeq and by `thalweg.compat.torchdiffeq`: `make bench ARGS=door`.

    python benchmarks/door.py [--seconds S] [--report FILE]

Every call is what its users write, on a network small enough that what is measured is the solver: 2-32-2, 20 rows, 20
outputs from 0 to 1, rtol 1e-5, atol 1e-6, and a ball that falls until it meets the ground. The two take turns, each
alone for a while before it is timed. Times are medians, in milliseconds.

y: (batch, features), float32.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from side_by_side import hardware, report_path, timed, write_report

METHODS = ("dopri5", "bosh3", "dopri8", "adaptive_heun", "euler", "midpoint", "rk4", "explicit_adams", "implicit_adams")
OPTIONS: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}

Call = Callable[[Any, bool], Tensor]
"""Solves by the functions of a library, with gradients where they are wanted, and returns what a loss is made of."""


class Network(nn.Module):
    """The field."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.net(y)


class Pair(Network):
    """The field of a tuple, as of a state and what is summed up along it."""

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """dy/dt."""
        slope = self.net(y[0])
        return slope, slope.square().sum(1)


class Ball(nn.Module):
    """A height and a speed."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return torch.stack([y[1], torch.full_like(y[1], -9.8)])


def calls() -> Iterator[tuple[str, Call]]:
    """What is called, by its name."""
    field, pair, ball = Network(), Pair(), Ball()
    y0, t = torch.linspace(-1, 1, 40).view(20, 2), torch.linspace(0, 1, 20)

    def by(method: str, function: str = "odeint") -> Call:
        return lambda library, wanted: getattr(library, function)(field, y0, t, method=method, **OPTIONS)

    for method in METHODS:
        yield f"odeint, {method}", by(method)
    yield "odeint of a tuple, dopri5", lambda library, wanted: library.odeint(pair, (y0, y0[:, 0]), t, **OPTIONS)[1]
    for method in ("dopri5", "rk4"):
        yield f"odeint_adjoint, {method}", by(method, "odeint_adjoint")

    def fall(library: Any, wanted: bool) -> Tensor:
        start = torch.tensor([10.0, 0.0], requires_grad=wanted)
        return library.odeint_event(ball, start, torch.tensor(0.0), event_fn=lambda t, y: y[0], **OPTIONS)[0]

    yield "odeint_event, dopri5", fall


def times_of(call: Call, libraries: list[Any], *, wanted: bool, seconds: float) -> list[float]:
    """Medians, one of each library."""

    def run(library: Any) -> None:
        with torch.set_grad_enabled(wanted):
            found = call(library, wanted)
            if wanted:
                found.sum().backward()

    times: list[list[float]] = [[] for _ in libraries]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for library, found in zip(libraries, times, strict=True):
            found.append(timed(lambda library=library: run(library)))
    return [statistics.median(found) for found in times]


def main(arguments: list[str]) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each line, %(default)s")
    parser.add_argument("--report", type=Path, help="where to write the report, instead of benchmarks/reports")
    given = parser.parse_args(arguments)
    import torchdiffeq

    from thalweg.compat import torchdiffeq as door

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "thalweg", "torchdiffeq"))
    described = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    report = f"# The door of torchdiffeq: {hardware()}, {datetime.date.today()}\n\n{versions}.\n\n{described}\n\n"
    report += "| | torchdiffeq | thalweg | times faster | with its gradient: torchdiffeq | thalweg | times faster |\n"
    report += "| --- | --: | --: | --: | --: | --: | --: |"
    print(report)
    for name, call in calls():
        cells = [name]
        for wanted in (False, True):
            theirs, ours = times_of(call, [torchdiffeq, door], wanted=wanted, seconds=given.seconds)
            cells += [f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.1f}"]
        line = f"| {' | '.join(cells)} |"
        print(line, flush=True)
        report += "\n" + line
    write_report(report + "\n", given.report or report_path("door-"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
