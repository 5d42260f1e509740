"""Times every solver on every workload in one run, and writes a report.

The solvers take turns, so that whatever slows the machine down slows all of them, each alone for a while before it is
timed. Times are medians, with the middle half beside them. Errors are relative to a solution in float64 at a tight
tolerance: equal tolerances that gave very different errors would make a ratio of times mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import random
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from solvers import FORWARD, KINDS, Way, gradient, reference, ways
from workloads import WORKLOADS, Workload

REPORTS = Path(__file__).with_name("reports")
DEFAULT = ("small", "tabular", "vdp")


@dataclass(frozen=True)
class Row:
    """One way on one workload: milliseconds, field evaluations, those for each row of y0, and relative errors."""

    way: Way
    times: list[float]
    nfev: int
    nfev_backward: int
    rows: float
    error: float
    gradient_error: float | None

    @property
    def median(self) -> float:
        """The time in the middle."""
        return statistics.median(self.times)

    @property
    def middle_half(self) -> tuple[float, float]:
        """What a quarter of the times lies below, and a quarter above."""
        low, _, high = statistics.quantiles(self.times, n=4)
        return low, high


class Counted(nn.Module):
    """A field that counts its evaluations."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.count, self.rows = field, 0, 0

    def forward(self, t: Tensor, y: Tensor, *args: Tensor) -> Tensor:
        """The field, one more time."""
        self.count += 1
        self.rows += len(y)
        return self.field(t, y, *args)

    def of_rows(self) -> tuple[Tensor, ...]:
        """What belongs to a row."""
        return self.field.of_rows()


class Trial:
    """One way on one workload, ready to run again and again."""

    def __init__(self, way: Way, workload: Workload, device: str) -> None:
        self.way, self.workload = way, workload
        self.field, self.y0 = workload.make(torch.float32, device)
        self.y0.requires_grad_(way.kind != FORWARD)
        self.times: list[float] = []

    def run(self, field: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
        """The end, and the gradient where it is part of the kind."""
        field = self.field if field is None else field
        if self.way.kind == FORWARD:
            with torch.no_grad():
                return self.way.solve(field, self.y0, self.workload), None
        end = self.way.solve(field, self.y0, self.workload)
        return end, gradient(field, self.y0, end)

    def time(self) -> None:
        """Run once against the clock."""
        self.times.append(timed(self._to_the_end))

    def _to_the_end(self) -> None:
        self.run()
        if self.y0.is_cuda:
            torch.cuda.synchronize()  # until then operations are on their way

    def row(self, exact: tuple[Tensor, Tensor]) -> Row:
        """What came of it."""
        counted = Counted(self.field)
        end = self.way.solve(counted, self.y0, self.workload)
        forward, rows, found = counted.count, counted.rows / len(self.y0), None
        if self.way.kind != FORWARD:
            found = gradient(self.field, self.y0, end)
        return Row(
            self.way,
            self.times,
            forward,
            counted.count - forward,
            rows,
            _relative(end.detach(), exact[0]),
            None if found is None else _relative(found, exact[1]),
        )


def _relative(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


_ALONE = 0.02
"""Seconds that a solver runs before it is timed: threads of the one before look out for work for some milliseconds."""


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of one run, after a while of such: what the solver before left in caches and awake is gone then."""
    alone = time.perf_counter() + _ALONE
    run()
    while time.perf_counter() < alone:
        run()
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure(workload: Workload, chosen: Sequence[Way], repeats: int, seconds: float, device: str) -> list[Row]:
    """All chosen ways in turn, until each ran `repeats` times or the time is up."""
    exact = reference(workload, device)
    trials = [Trial(way, workload, device) for way in chosen if workload.per_sample or not way.by_row]
    if not list(trials[0].field.parameters()):
        trials = [trial for trial in trials if trial.way.kind == FORWARD]  # nothing to train
    for trial in trials:
        trial.run()
        trial.run()
    end = time.perf_counter() + seconds
    for done in range(repeats):
        if done >= 5 and time.perf_counter() > end:
            break
        for trial in random.sample(trials, len(trials)):
            trial.time()
    return [trial.row(exact) for trial in trials]


def table(workload: Workload, rows: Sequence[Row]) -> str:
    """A workload's results as Markdown."""
    lines = [
        f"## {workload.name}",
        "",
        f"{workload.title}, t from 0 to {workload.t1:g}, rtol = atol = {workload.tolerance:g}; "
        f"{len(rows[0].times)} runs of each.",
    ]
    for kind in KINDS:
        group = [row for row in rows if row.way.kind == kind]
        if not group:
            continue
        base = group[0]
        lines += [
            "",
            f"| {kind} | ms | middle half | best | times faster | at best | evaluations | error | gradient's error |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        ]
        for row in group:
            low, high = row.middle_half
            cells = [
                f"{row.way.solver} {row.way.label}",
                f"{row.median:.2f}",
                f"{low:.2f} – {high:.2f}",
                f"{min(row.times):.2f}",
                f"{base.median / row.median:.2f}",
                f"{min(base.times) / min(row.times):.2f}",
                f"{row.nfev}"
                + (f" + {row.nfev_backward}" if row.way.kind != FORWARD else "")
                + (f", {row.rows:.0f} a row" if workload.per_sample else ""),
                f"{row.error:.1e}",
                "" if row.gradient_error is None else f"{row.gradient_error:.1e}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def hardware(device: str = "cpu") -> str:
    """The GPU; or the processor, and how many threads torch uses of it."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        model = found[1]
    threads = torch.get_num_threads()
    return f"{model.strip()}, {threads} thread{'s' * (threads > 1)}"


def heading(device: str) -> str:
    """What was run where."""
    date = datetime.date.today()
    return "\n".join(
        [
            f"# {hardware(device)}, {date}",
            "",
            f"Python {platform.python_version()}, "
            + ", ".join(f"{name} {version(name)}" for name in ("torch", "torchdiffeq", "torchode", "thalweg"))
            + "; float32, dopri5, the eager backend.",
            "",
            "Times are medians in milliseconds of runs that took turns, with the middle half of them and the best",
            "beside. How many times faster than the first of its table is said of the medians and of the best, which",
            "a busy machine disturbs least. Errors are relative, in the Euclidean norm, to a solution in float64 at a",
            "tolerance of 1e-10. The gradient is that of the end's sum of squares to y0 and all parameters.",
            "Evaluations are calls of the field, forward + backward, and beside them how often a row was evaluated, in",
            "the mean, where rows differ.",
            "",
        ]
    )


def peak_memory() -> int:
    """The most memory that this program held, in bytes; Linux alone.

    ru_maxrss would count what the process held before it began its program, which is its parent's.
    """
    return memory("VmHWM")


def memory(name: str) -> int:
    """What Linux says by that name of this program's memory, in bytes."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def chosen_names(parser: argparse.ArgumentParser, names: Sequence[str]) -> Sequence[str]:
    """The names of workloads that were given; an unknown one ends the program."""
    if unknown := set(names) - set(WORKLOADS):
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; choose from {', '.join(WORKLOADS)}")
    return names


def report_path(prefix: str = "", device: str = "cpu") -> Path:
    """Where a report of today on this hardware goes."""
    machine = re.sub(r"[^a-z0-9]+", "-", hardware(device).lower()).strip("-")
    return REPORTS / f"{prefix}{machine}-{datetime.date.today()}.md"


def write_report(report: str, path: Path) -> None:
    """Write it, and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report)
    print(f"Written to {path}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "workloads", nargs="*", metavar="workload", help=f"of {', '.join(WORKLOADS)}; all but wide, large"
    )
    parser.add_argument("--quick", action="store_true", help="few repeats, and no report unless --report is given")
    parser.add_argument("--report", type=Path, help="where to write the report, instead of benchmarks/reports")
    parser.add_argument("--device", default="cpu", help="where the tensors are: cpu (the default) or cuda")
    given = parser.parse_args(arguments)
    names = chosen_names(parser, given.workloads or DEFAULT)

    repeats, seconds = (7, 5.0) if given.quick else (101, 60.0)
    report = heading(given.device)
    print(report)
    for name in names:
        part = table(WORKLOADS[name], measure(WORKLOADS[name], ways(), repeats, seconds, given.device))
        print(part, flush=True)
        report += "\n" + part
    path = given.report
    if path is None and not given.quick:
        path = report_path(device=given.device)
    if path is not None:
        write_report(report, path)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1:])
