"""The native engine beside its peers, each in its fastest way, on five workloads in one run: `make bench ARGS=engine`.

    python benchmarks/engine.py [workload ...] [--seconds S] [--report FILE]

The solvers take turns, each alone for a while before it is timed. Of each, every way that solves the workload is timed,
and the one with the least median counts: torchdiffeq's backpropagation or its adjoint, diffrax's batch as one state or
sample by sample under vmap, with each of its adjoints; ours with one step for all or a step for each sample.
Compilation is shown and not counted, nor is what turns the answers into one form to be compared. Errors are relative,
in the Euclidean norm, to a solution in float64 at a tolerance of 1e-10: where ours is the larger by more than half, the
ratio is marked. The share is that of the field's multiplications and additions in all evaluations, a second, to those
of a large torch.mm, which takes its turn with the solvers, both by their medians; a backward pass counts twice its
forward one, as it has two products for each.

y: (batch, features), float32.
"""

from __future__ import annotations

import argparse
import datetime
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from side_by_side import chosen_names, hardware, report_path, timed, write_report
from solvers import METHOD, gradients, joined, reference
from workloads import WORKLOADS, VanDerPol, Workload

BARS = {
    ("small", "forward"): {"torchdiffeq": 100.0, "diffrax": 4.0},
    ("small", "gradient"): {"torchdiffeq": 60.0, "diffrax": 6.0},
    ("tabular", "forward"): {"torchdiffeq": 7.0, "diffrax": 2.5},
    ("tabular", "gradient"): {"torchdiffeq": 4.0, "diffrax": 3.0},
    ("wide", "forward"): {"torchdiffeq": 2.0, "diffrax": 0.9},
    ("wide", "gradient"): {"torchdiffeq": 1.4, "diffrax": 1.25},
    ("large", "forward"): {"torchdiffeq": 4.0, "diffrax": 1.2},
    ("large", "gradient"): {"torchdiffeq": 2.5, "diffrax": 1.5},
    ("vdp", "forward"): {"torchdiffeq": 1000.0, "diffrax": 10.0},
}
"""How many times faster than a peer the engine is meant to be."""

Answer = tuple[Tensor, Tensor | None]
"""The end, and the gradient, side by side, where that is asked for."""


@dataclass
class Way:
    """One way of one solver on one workload."""

    solver: str
    label: str
    run: Callable[[], Any]
    read: Callable[[Any], Answer]
    """Of what a run returned."""
    compile_seconds: float = 0.0
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.times)

    def time(self) -> None:
        """Once against the clock."""
        self.times.append(timed(self.run))

    def answer(self) -> Answer:
        """What it comes to."""
        return self.read(self.run())


def torch_way(solver: str, label: str, workload: Workload, solve: Callable[..., Tensor], *, wanted: bool) -> Way:
    """A way in PyTorch: solve(field, y0) is the end."""
    net, y0 = workload.make(torch.float32)
    y0.requires_grad_(wanted)

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        if not wanted:
            with torch.no_grad():
                return solve(net, y0), ()
        end = solve(net, y0)
        return end, gradients(net, y0, end)

    return Way(solver, label, run, lambda found: (found[0].detach(), joined(found[1]) if wanted else None))


def torchdiffeq(workload: Workload, *, wanted: bool) -> Iterator[Way]:
    """By backpropagation through its steps, and by its adjoint."""
    from torchdiffeq import odeint, odeint_adjoint

    for function in (odeint, odeint_adjoint) if wanted else (odeint,):

        def solve(net: nn.Module, y0: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            t = torch.tensor([0.0, workload.t1])
            return function(net, y0, t, rtol=workload.tolerance, atol=workload.tolerance, method=METHOD)[-1]

        yield torch_way("torchdiffeq", function.__name__, workload, solve, wanted=wanted)


def torchode(workload: Workload, *, wanted: bool) -> Iterator[Way]:
    """With a step for each sample."""
    import torchode as to

    def solve(net: nn.Module, y0: Tensor) -> Tensor:
        term = to.ODETerm(net)
        controller = to.IntegralController(atol=workload.tolerance, rtol=workload.tolerance, term=term)
        solver = to.AutoDiffAdjoint(to.Dopri5(term=term), controller)
        t0 = torch.zeros(len(y0))
        return solver.solve(to.InitialValueProblem(y0=y0, t_start=t0, t_end=t0 + workload.t1)).ys[:, -1]

    yield torch_way("torchode", "AutoDiffAdjoint", workload, solve, wanted=wanted)


def thalweg(workload: Workload, *, wanted: bool) -> Iterator[Way]:
    """By the engine, with one step for all samples and with a step for each."""
    from thalweg import solve_ivp

    for batching in ("joint", "per_sample"):

        def solve(net: nn.Module, y0: Tensor, batching: str = batching) -> Tensor:
            args = net.of_rows() if isinstance(net, VanDerPol) else ()
            sol = solve_ivp(
                net, (0.0, workload.t1), y0, METHOD, args=args, rtol=workload.tolerance, atol=workload.tolerance,
                batching=batching, backend="native",
            )  # fmt: skip
            return sol.ys[-1]

        yield torch_way("thalweg", batching, workload, solve, wanted=wanted)


def diffrax(workload: Workload, *, wanted: bool) -> Iterator[Way]:
    """Compiled: the batch as one state, or each sample under vmap; with each adjoint where a gradient is wanted."""
    import diffrax as dfx
    import jax
    import jax.numpy as jnp

    net, y0 = workload.make(torch.float32)
    start = jnp.asarray(y0.numpy())
    if isinstance(net, VanDerPol):
        given: Any = jnp.asarray(net.mu.numpy())

        def slope(t: Any, y: Any, mu: Any) -> Any:
            x, v = y[..., 0], y[..., 1]
            return jnp.stack([v, mu * (1 - x * x) * v - x], -1)

    else:
        given = [jnp.asarray(p.detach().numpy()) for p in net.parameters()]

        def slope(t: Any, y: Any, weights: Any) -> Any:
            layers = [weights[i : i + 2] for i in range(0, len(weights), 2)]
            for weight, bias in layers[:-1]:
                y = jnp.tanh(y @ weight.T + bias)
            weight, bias = layers[-1]
            return y @ weight.T + bias

    adjoints: dict[str, Any] = {"": dfx.RecursiveCheckpointAdjoint()}
    if wanted:
        adjoints = {
            "checkpointed": dfx.RecursiveCheckpointAdjoint(),
            "backsolve": dfx.BacksolveAdjoint(),
        }
    for label, adjoint in adjoints.items():
        # solved back sample by sample, gradients of shared weights are carried by every sample: 50 times slower
        for vmap in (False, True) if label != "backsolve" else (False,):

            def one(y: Any, weights: Any, adjoint: Any = adjoint) -> Any:
                return dfx.diffeqsolve(
                    dfx.ODETerm(slope), dfx.Dopri5(), 0.0, workload.t1, None, y, args=weights, adjoint=adjoint,
                    stepsize_controller=dfx.PIDController(rtol=workload.tolerance, atol=workload.tolerance),
                    max_steps=4096,
                ).ys[-1]  # fmt: skip

            of_each = 0 if isinstance(net, VanDerPol) else None
            batch = jax.vmap(one, in_axes=(0, of_each)) if vmap else one

            def loss(y: Any, weights: Any, batch: Any = batch) -> Any:
                end = batch(y, weights)
                return (end**2).sum(), end

            function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True) if wanted else batch)

            def run(function: Any = function) -> Any:
                return jax.block_until_ready(function(start, given))

            def read(found: Any) -> Answer:
                if not wanted:
                    return torch.from_numpy(np.array(found)), None
                (_, end), (to_y, to_weights) = found
                flat = np.concatenate([np.asarray(g).ravel() for g in (to_y, *to_weights)])
                return torch.from_numpy(np.array(end)), torch.from_numpy(flat)

            begin = time.perf_counter()
            run()
            way = "vmap" if vmap else "one state"
            yield Way("diffrax", f"{way}, {label}" if label else way, run, read, time.perf_counter() - begin)


SOLVERS = (torchdiffeq, torchode, diffrax, thalweg)

_LARGE = 1024
"""The rows and columns of the matrices of a large product."""


def large_mm() -> Way:
    """A product of large matrices, whose rate is taken as the machine's limit."""
    a, b = torch.randn(2, _LARGE, _LARGE)
    return Way("torch", "mm", lambda: a @ b, lambda found: (found, None))


def measure(workload: Workload, *, wanted: bool, seconds: float) -> list[Way]:
    """All ways in turn, and a large product of matrices the last; until the time is up, each five times at least."""
    ways = [*(way for solver in SOLVERS for way in solver(workload, wanted=wanted)), large_mm()]
    for way in ways:
        way.run()
        way.run()
    end = time.perf_counter() + seconds
    for done in range(1001):
        if done >= 5 and time.perf_counter() > end:
            break
        for way in random.sample(ways, len(ways)):
            way.time()
    return ways


def relative(found: Any, exact: Tensor) -> float:
    """The error in the Euclidean norm."""
    return float((found.double() - exact).norm() / exact.norm())


def best_of(ways: Sequence[Way], solver: str) -> Way:
    """The way of a solver with the least median."""
    return min((way for way in ways if way.solver == solver), key=lambda way: way.median)


def work(workload: Workload) -> tuple[float, float]:
    """1e9 multiplications and additions of the field in one solve of ours, joint and per sample."""
    from thalweg import solve_ivp

    net, y0 = workload.make(torch.float32)
    if isinstance(net, VanDerPol):
        return 0.0, 0.0
    sizes = [layer.weight.shape for layer in net.layers if isinstance(layer, nn.Linear)]
    each = 2e-9 * sum(rows * columns for rows, columns in sizes)
    found = []
    for batching in ("joint", "per_sample"):
        with torch.no_grad():
            nfev = solve_ivp(
                net, (0.0, workload.t1), y0, METHOD, rtol=workload.tolerance, atol=workload.tolerance, batching=batching
            ).stats.nfev
        found.append(each * (float(nfev.sum()) if isinstance(nfev, Tensor) else float(nfev) * len(y0)))
    return found[0], found[1]


def table(workload: Workload, ways: Sequence[Way], exact: tuple[Tensor, Tensor], *, wanted: bool) -> str:
    """The results as Markdown."""
    kind = "gradient" if wanted else "forward"
    ours = best_of(ways, "thalweg")
    mine = relative(ours.answer()[0], exact[0])
    lines = [
        f"| {kind}, {len(ours.times)} runs | ms | middle half | best | times ours | bar | error | gradient's error | "
        "compiled in |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    bars = BARS.get((workload.name, kind), {})
    for way in ways:
        end, found = way.answer()
        low, _, high = statistics.quantiles(way.times, n=4)
        error = relative(end, exact[0])
        best = way is best_of(ways, way.solver)
        bar = bars.get(way.solver) if best and way.solver != "thalweg" else None
        ratio = way.median / ours.median
        verdict = "" if bar is None else f"{bar:g} {'met' if ratio >= bar else 'missed'}"
        if mine > 1.5 * error and bar is not None:
            verdict += ", at a smaller error"
        name = f"**{way.solver} {way.label}**" if best else f"{way.solver} {way.label}"
        cells = [
            name,
            f"{way.median:.3f}",
            f"{low:.3f} – {high:.3f}",
            f"{min(way.times):.3f}",
            f"{ratio:.2f}",
            verdict,
            f"{error:.1e}",
            "" if found is None else f"{relative(found, exact[1]):.1e}",
            f"{way.compile_seconds:.1f} s" if way.compile_seconds else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def share(workload: Workload, ways: Sequence[Way], mm: Way, *, wanted: bool) -> str:
    """How near the engine comes to the rate of a large product of matrices."""
    amounts = dict(zip(("joint", "per_sample"), work(workload), strict=True))
    limit = 2e-9 * _LARGE**3 / (mm.median * 1e-3)
    told = []
    for way in ways:
        if way.solver == "thalweg" and amounts[way.label]:
            rate = amounts[way.label] * (3 if wanted else 1) / (way.median * 1e-3)
            told.append(f"{way.label} {rate:.0f} GFLOP/s, {rate / limit:.2f} of torch.mm's {limit:.0f}")
    return "; ".join(told) + ("." if told else "")


def main(arguments: Sequence[str]) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(WORKLOADS)}; all")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each table, %(default)s")
    parser.add_argument("--report", type=Path, help="where to write the report, instead of benchmarks/reports")
    given = parser.parse_args(arguments)
    names = chosen_names(parser, given.workloads or list(WORKLOADS))
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "thalweg", "torchdiffeq", "torchode", "diffrax", "jax"))
    report = f"# The native engine: {hardware()}, {datetime.date.today()}\n\n{versions}; float32, {METHOD}.\n\n"
    described = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    report += described + "\n"
    print(report)
    for name in names:
        workload = WORKLOADS[name]
        exact = reference(workload)
        part = f"\n## {name}\n\n{workload.title}, t from 0 to {workload.t1:g}, rtol = atol = {workload.tolerance:g}.\n"
        net, _ = workload.make(torch.float32)
        for wanted in (False, True) if list(net.parameters()) else (False,):
            *ways, mm = measure(workload, wanted=wanted, seconds=given.seconds)
            part += "\n" + table(workload, ways, exact, wanted=wanted)
            part += "\n" + share(workload, ways, mm, wanted=wanted) + "\n"
        print(part, flush=True)
        report += part
    write_report(report, given.report or report_path("engine-"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
