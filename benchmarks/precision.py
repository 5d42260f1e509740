"""Work against precision: what each solver's answer costs, on DETEST and on stiff problems.

`make precision` runs it in the peers' environment, and writes tables and figures to `benchmarks/reports`. Every solver
solves every problem of `testset.py` at rtol from 1e-3 to 1e-10 (to 1e-7 where it is stiff, to 1e-6 by methods of order
3), and atol = rtol times the problem's scale. An error is that of the end, relative to scale + |y| in root mean square,
so that a solver that aims at 1e-6 and one that meets it by aiming at 1e-8 are compared at what they reach.

Evaluations are those that a solver counts itself. For implicit methods they leave out what Jacobians took, which SciPy
makes of differences and the others by automatic differentiation; diffrax's count each Jacobian as one more, and
LSODA's all of its differences. Times are the best of three where they are short, with one thread, and without
diffrax's compilation. What was measured lies beside the report as JSON, so that a run that was cut short goes on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.integrate import solve_ivp as scipy_solve_ivp

from side_by_side import hardware, report_path
from testset import DETEST, STIFF, Problem, problem

TOLERANCES = tuple(10.0**-k for k in range(3, 11))
ERRORS = tuple(10.0**-k for k in np.arange(3, 10.1, 0.5))
"""Where costs are compared."""

Run = Callable[[Problem, float], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Solver:
    """One method of one library: `run(problem, tolerance)` gives the end and the evaluations, and is what is timed.

    `counted` runs it in another way where the first cannot count.
    """

    library: str
    method: str
    order: int
    stiff: bool
    run: Run
    counted: Run | None = None

    @property
    def name(self) -> str:
        """Whose method it is, and which."""
        return f"{self.library} {self.method}"


@dataclass(frozen=True)
class Point:
    """What one solve cost and reached: evaluations, seconds, and the error relative to scale + |y|."""

    tolerance: float
    error: float
    evaluations: int
    seconds: float


def thalweg() -> Iterator[Solver]:
    """Ours."""
    from thalweg import solve_ivp
    from thalweg.methods import methods

    @torch.no_grad()
    def run(method: str, problem: Problem, tolerance: float) -> tuple[np.ndarray, int]:
        options = {"rtol": tolerance, "atol": tolerance * problem.scale, "max_steps": 200_000}
        sol = solve_ivp(problem.fun, problem.t_span, problem.state(), method, backend="eager", **options)
        return sol.ys[-1].numpy(), sol.stats.nfev

    implicit = ("dirk", "firk", "rosenbrock")
    for method in methods():
        if method.adaptive and method.order >= 3 and method.kind in ("explicit", "adams", *implicit):
            yield Solver("thalweg", method.name, method.order, method.kind in implicit, partial(run, method.name))


def scipy() -> Iterator[Solver]:
    """SciPy's, on NumPy arrays."""

    def run(method: str, problem: Problem, tolerance: float) -> tuple[np.ndarray, int]:
        options = {"rtol": tolerance, "atol": tolerance * problem.scale}
        sol = scipy_solve_ivp(partial(problem.slope, np), problem.t_span, np.array(problem.y0), method, **options)
        if not sol.success:
            raise RuntimeError(sol.message)
        return sol.y[:, -1], sol.nfev

    for method, order in (("RK23", 3), ("RK45", 5), ("DOP853", 8), ("LSODA", 12)):
        yield Solver("SciPy", method, order, False, partial(run, method))
    for method, order in (("Radau", 5), ("BDF", 5), ("LSODA", 5)):
        yield Solver("SciPy", method, order, True, partial(run, method))


def torchdiffeq() -> Iterator[Solver]:
    """Those of torchdiffeq that choose their steps."""
    from torchdiffeq import odeint

    @torch.no_grad()
    def run(method: str, problem: Problem, tolerance: float) -> tuple[np.ndarray, int]:
        count, fun = 0, problem.fun

        def counted(t, y):
            nonlocal count
            count += 1
            return fun(t, y)

        t = torch.tensor(problem.t_span, dtype=torch.float64)
        options = {"rtol": tolerance, "atol": tolerance * problem.scale, "method": method}
        return odeint(counted, problem.state(), t, **options)[-1].numpy(), count

    for method, order in (("bosh3", 3), ("dopri5", 5), ("dopri8", 8)):
        yield Solver("torchdiffeq", method, order, False, partial(run, method))


def diffrax() -> Iterator[Solver]:
    """Those of diffrax, compiled, in float64; their evaluations are counted in a run of its own."""
    import diffrax as dfx
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    count, compiled = 0, {}

    def seen() -> None:
        nonlocal count
        count += 1

    def solve(solver: object, slope: Callable, problem: Problem) -> Callable:
        def end(tolerance):
            controller = dfx.PIDController(rtol=tolerance, atol=tolerance * problem.scale)
            y0 = jnp.array(problem.y0)
            options = {"stepsize_controller": controller, "max_steps": None, "saveat": dfx.SaveAt(t1=True)}
            return dfx.diffeqsolve(dfx.ODETerm(slope), solver, 0.0, problem.t1, None, y0, **options).ys[-1]

        return jax.jit(end)

    def run(name: str, counts: bool, problem: Problem, tolerance: float) -> tuple[np.ndarray, int]:
        nonlocal count
        if (key := (name, problem.name, counts)) not in compiled:

            def slope(t, y, args):
                if counts:
                    jax.debug.callback(seen)
                return problem.slope(jnp, t, y)

            compiled[key] = solve(getattr(dfx, name)(), slope, problem)
        count = 0
        y = np.asarray(jax.block_until_ready(compiled[key](tolerance)))
        jax.effects_barrier()
        return y, count

    explicit = (("Bosh3", 3), ("Dopri5", 5), ("Tsit5", 5), ("Dopri8", 8))
    for chosen, stiff in ((explicit, False), ((("Kvaerno3", 3), ("Kvaerno5", 5)), True)):
        for name, order in chosen:
            yield Solver("diffrax", name, order, stiff, partial(run, name, False), partial(run, name, True))


LIBRARIES = {"thalweg": thalweg, "SciPy": scipy, "torchdiffeq": torchdiffeq, "diffrax": diffrax}
SAME_ORDER = (
    ("bosh3", "RK23"),
    ("dopri5", "RK45"),
    ("tsit5", "RK45"),
    ("vern7", "DOP853"),
    ("dopri8", "DOP853"),
    ("vern8", "DOP853"),
    ("vern9", "DOP853"),
    ("adams", "LSODA"),
)
SAME_ORDER_STIFF = tuple(
    (ours, theirs) for theirs in ("Radau", "BDF", "LSODA") for ours in ("kvaerno5", "rodas5p", "radau5")
)


def curve(solver: Solver, problem: Problem) -> list[Point]:
    """What a solver makes of a problem at all tolerances; those at which it fails are left out."""
    points = []
    if solver.counted is not None:
        solver.run(problem, TOLERANCES[0])  # compiled
    for tolerance in TOLERANCES:
        if tolerance < (1e-6 if solver.order <= 3 else 1e-7 if problem.stiff else 0):
            continue  # minutes, and nobody's choice
        try:
            seconds, (y, evaluations) = _timed(solver, problem, tolerance)
            if solver.counted is not None:
                y, evaluations = solver.counted(problem, tolerance)
        except Exception as error:
            reason = str(error).splitlines()[0][:80]
            print(f"{solver.name} fails at {problem.name}, {tolerance:.0e}: {reason}", flush=True)
            continue
        points.append(Point(tolerance, problem.error(torch.from_numpy(np.array(y)), 1.0), evaluations, seconds))
    return points


def _timed(solver: Solver, problem: Problem, tolerance: float) -> tuple[float, tuple[np.ndarray, int]]:
    """The best of three times, or the only one where it is long, and what came of it."""
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        found = solver.run(problem, tolerance)
        best = min(best, time.perf_counter() - start)
        if best > 0.1:
            break
    return best, found


def cost_at(points: Sequence[Point], error: float, cost: str = "evaluations") -> float:
    """The cost of an answer with this error at most, between points by logarithms; NaN beyond them."""
    reached: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: getattr(point, cost)):
        if point.error > 0 and (not reached or point.error < reached[-1][0]):
            reached.append((point.error, getattr(point, cost)))
    if len(reached) < 2:
        return math.nan
    errors, costs = np.log10(np.array(reached)[::-1].T)
    return float(10 ** np.interp(math.log10(error), errors, costs, left=math.nan, right=math.nan))


def ratios(ours: Sequence[Point], theirs: Sequence[Point], cost: str = "evaluations") -> list[float]:
    """Our cost by theirs at each error that both reach."""
    both = ((cost_at(ours, error, cost), cost_at(theirs, error, cost)) for error in ERRORS)
    return [a / b for a, b in both if math.isfinite(a / b)]


Curves = dict[tuple[str, str], list[Point]]


def comparison(curves: Curves, problems: Iterable[Problem], pairs: Iterable[tuple[str, str]]) -> str:
    """Our evaluations by SciPy's at equal error, of each pair of methods on each problem: the median over errors."""
    names = {solver for solver, _ in curves}
    pairs = [(ours, theirs) for ours, theirs in pairs if f"thalweg {ours}" in names]
    lines = [
        f"| problem | {' | '.join(f'{ours} / {theirs}' for ours, theirs in pairs)} |",
        f"| --- |{' --: |' * len(pairs)}",
    ]
    columns: list[list[float]] = [[] for _ in pairs]
    for p in problems:
        cells = []
        for column, (ours, theirs) in zip(columns, pairs, strict=True):
            found = ratios(curves[f"thalweg {ours}", p.name], curves[f"SciPy {theirs}", p.name])
            cells.append(f"{np.median(found):.2f}" if found else "–")
            column += [float(np.median(found))] if found else []
        lines.append(f"| {p.name} | {' | '.join(cells)} |")
    for title, reduce in (("geometric mean", lambda x: math.exp(np.mean(np.log(x)))), ("most", max)):
        lines.append(f"| {title} | {' | '.join(f'{reduce(c):.2f}' if c else '–' for c in columns)} |")
    return "\n".join(lines) + "\n"


def totals(curves: Curves, problems: Sequence[Problem], base: str) -> str:
    """Evaluations and times of all solvers relative to one's, at equal error: geometric means over the problems."""
    lines = [
        f"| solver | evaluations | time | error / tolerance: median | most | fails |\n{'| --- |' + ' --: |' * 5}",
    ]
    for name in dict.fromkeys(solver for solver, _ in curves):
        means = []
        for cost in ("evaluations", "seconds"):
            per_problem = [ratios(curves[name, p.name], curves[base, p.name], cost) for p in problems]
            medians = [math.log(np.median(found)) for found in per_problem if found]
            means.append(f"{math.exp(np.mean(medians)):.2f}" if medians else "–")
        points = [point for p in problems for point in curves[name, p.name]]
        misses = [point.error / point.tolerance for point in points]
        tried = len(problems) * max(len(curves[name, p.name]) for p in problems)
        cells = [*means, f"{np.median(misses):.2g}", f"{max(misses, default=math.nan):.2g}", str(tried - len(points))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


STYLES = {"thalweg": ("-", "o"), "SciPy": ("--", "s"), "torchdiffeq": (":", "^"), "diffrax": ("-.", "D")}
COLOURS = {3: "#8a8f98", 5: "#1f6fb4", 7: "#2f9e6e", 8: "#c8553d", 9: "#7d4fa8", 12: "#b8860b"}
STIFF_COLOURS = ("#1f6fb4", "#c8553d", "#2f9e6e", "#7d4fa8", "#b8860b", "#8a8f98")


def figure(curves: Curves, solvers: Sequence[Solver], shown: Sequence[Problem], cost: str, path: Path) -> None:
    """Error against cost, one panel for each problem: lower left is better."""
    columns = 3
    rows = math.ceil(len(shown) / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(13, 4.1 * rows + 1.1), squeeze=False)
    stiff_colour: dict[str, str] = {}
    for p, ax in zip(shown, axes.flat, strict=False):
        for solver in solvers:
            line, marker = STYLES[solver.library]
            if solver.stiff:
                same = [s for s in solvers if s.library == solver.library]
                colour = stiff_colour.setdefault(solver.name, STIFF_COLOURS[same.index(solver) % len(STIFF_COLOURS)])
            else:
                colour = COLOURS[solver.order]
            _draw(ax, curves[solver.name, p.name], cost, solver, colour, line, marker)
        ax.set_title(textwrap.shorten(f"{p.name}: {_first_line(p)}", 52, placeholder=" …"), fontsize=10, loc="left")
        ax.set(xscale="log", yscale="log")
        low, high = ax.get_xlim()
        ax.xaxis.set_minor_formatter(_few_ticks() if high < 50 * low else NullFormatter())
        ax.grid(alpha=0.25, which="both", axis="x")
        ax.grid(alpha=0.25)
        ax.set_xlabel("evaluations of the field" if cost == "evaluations" else "seconds")
    for ax in axes[:, 0]:
        ax.set_ylabel("error at the end")
    for ax in list(axes.flat)[len(shown) :]:
        ax.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="lower center", ncols=6, fontsize=9, frameon=False)
    fig.tight_layout(rect=(0, 0.5 / fig.get_figheight() + 0.03, 1, 1))
    fig.savefig(path, dpi=110)
    plt.close(fig)


def _few_ticks() -> FuncFormatter:
    """Numbers at 2 and 5 times a power of ten, for axes of about one decade."""

    def label(x: float, position: int) -> str:
        return f"{x:g}" if f"{x:e}"[0] in "25" else ""

    return FuncFormatter(label)


def _draw(ax: Axes, points: Sequence[Point], cost: str, solver: Solver, colour: str, line: str, marker: str) -> None:
    x, y = [getattr(point, cost) for point in points], [point.error for point in points]
    strong = solver.library == "thalweg"
    filled = solver.method in ("tsit5", "Tsit5", "vern8", "rodas5p") or solver.stiff
    ax.plot(
        x, y, line, marker=marker, ms=4, lw=1.8 if strong else 1.1, color=colour, label=solver.name,
        mfc=colour if filled else "white", alpha=1.0 if strong else 0.8,
    )  # fmt: skip


def _first_line(p: Problem) -> str:
    slope = p.slope.func if isinstance(p.slope, partial) else p.slope
    return (slope.__doc__ or "").splitlines()[0].split(":")[0].rstrip(".").lower()


def heading() -> str:
    """What was run where, and what the tables say."""
    libraries = ", ".join(f"{n} {version(n)}" for n in ("torch", "thalweg", "scipy", "torchdiffeq", "diffrax", "jax"))
    return f"""# Work against precision: {hardware()}, {datetime.date.today()}

Python {platform.python_version()}, {libraries}; float64.

{(__doc__ or "").split(chr(10) * 2, 1)[1].strip()}
"""


def part(
    title: str, solvers: Sequence[Solver], problems: Sequence[Problem], shown: Sequence[Problem], stem: Path
) -> str:
    """Measure, draw, and say it as Markdown."""
    curves: Curves = {}
    kept = stem.with_suffix(".json")
    measured = json.loads(kept.read_text()) if kept.exists() else {}
    for solver in solvers:
        for p in problems:
            key = f"{solver.name}, {p.name}"
            if key not in measured:
                measured[key] = [astuple(point) for point in curve(solver, p)]
                kept.write_text(json.dumps(measured))
            curves[solver.name, p.name] = [Point(*point) for point in measured[key]]
        print(f"{solver.name} done", flush=True)
    stiff = solvers[0].stiff
    kind = "stiff" if stiff else "detest"
    base = "SciPy Radau" if stiff else "SciPy RK45"
    text = f"## {title}\n\n"
    for cost in ("evaluations", "seconds"):
        path = stem.with_name(f"{stem.name}-{kind}-{cost}.png")
        figure(curves, solvers, shown, cost, path)
        text += f"![Error against {cost}]({path.name})\n\n"
    text += (
        f"At equal error, relative to {base}, geometric means over the problems:\n\n{totals(curves, problems, base)}\n"
    )
    text += "Our evaluations by those of SciPy's method, at equal error; 1 is as many, less is better:\n\n"
    return text + comparison(curves, problems, SAME_ORDER_STIFF if stiff else SAME_ORDER)


def main(arguments: Sequence[str]) -> None:
    """Read the command line, measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", metavar="problem", help="all, unless some are named")
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="of %(default)s; thalweg and SciPy always")
    parser.add_argument("--report", type=Path, help="where to write the report, instead of benchmarks/reports")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = [problem(name) for name in given.problems] or [*DETEST, *STIFF]
    libraries = dict.fromkeys(["thalweg", "SciPy", *given.libraries.split(",")])
    solvers = [solver for library in libraries for solver in LIBRARIES[library]()]
    path = given.report or report_path("precision-")
    path.parent.mkdir(parents=True, exist_ok=True)
    report = heading()
    for title, stiff, shown in (
        ("DETEST", False, ("A3", "B1", "C4", "C5", "D5", "E2")),
        ("Stiff problems", True, tuple(p.name for p in STIFF)),
    ):
        problems = [p for p in chosen if p.stiff == stiff]
        if problems:
            panels = [p for p in problems if p.name in shown] or problems[:6]
            same = [solver for solver in solvers if solver.stiff == stiff]
            report += "\n" + part(title, same, problems, panels, path.with_suffix(""))
            path.write_text(report)
    print(report, f"\nWritten to {path}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # LSODA's advice, and tolerances that a solver cannot hold
    main(sys.argv[1:])
