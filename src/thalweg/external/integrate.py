"""A solve by a solver of another library, in place of the loop.

y: (*shape); joint batching alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arithmetic import wide_dtype
from ..core.field import FieldLike
from ..core.jacobian import LARGEST, Jacobians
from ..core.norms import Tolerance
from ..core.status import Status
from ..core.step import Step, TakenStep
from ..loop.integrate import Problem, Recorder, Result
from ..output.saving import EndSaver, JointSaver
from .methods import External
from .solvers import Array, Solver, Stopped, Task, start

_POINTS, _SHARES = np.polynomial.legendre.leggauss(4)
NODES: list[float] = ((_POINTS + 1) / 2).tolist()
WEIGHTS: list[float] = (_SHARES / 2).tolist()
"""Gauss's four places in [0, 1], at which a recorder is shown the states inside a step, and their weights."""


class ExternalStepper:
    """Stands where a problem has its stepper: it takes whole solves, and no steps.

    Raises
    ------
    ValueError
        When it cannot solve for a state like that.
    """

    needs_slope = False

    def __init__(self, method: External, like: Tensor, *, by_row: bool) -> None:
        if by_row:
            raise ValueError(
                f"method {method.name!r} has one step size for all of y0: choose batching='joint', or a method of "
                "thalweg's own"
            )
        if like.device.type != "cpu":
            raise ValueError(
                f"method {method.name!r} runs on the CPU alone, and y0 is on {like.device}: move it (y0.cpu()), or "
                "choose a method of thalweg's own"
            )
        if like.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"method {method.name!r} takes states of float32 or float64, got {like.dtype}; convert y0, or give "
                "real and imaginary parts side by side (torch.view_as_real)"
            )
        if method.implicit and like.numel() > LARGEST:
            raise ValueError(
                f"method {method.name!r} takes states of up to {LARGEST} numbers, got {like.numel()}; choose an "
                "explicit one"
            )
        self.method, self.implicit, self.by_row = method, method.implicit, False


def integrate_externally(problem: Problem, recorder: Recorder | None = None) -> Result:
    """Carry y0 from t0 to t1; the recorder's steps have the states at `NODES` for stages."""
    stepper: Any = problem.stepper
    assert isinstance(stepper, ExternalStepper)
    assert isinstance(problem.t0, float)
    assert isinstance(problem.t1, float)
    with torch.no_grad():
        return _Solve(stepper.method, problem, problem.t0, problem.t1, recorder).run()


class _Solve:
    """One solve."""

    def __init__(self, method: External, problem: Problem, t0: float, t1: float, recorder: Recorder | None) -> None:
        self.method, self.problem, self.t0, self.t1, self.recorder = method, problem, t0, t1, recorder
        self.y0 = problem.y0
        self._field = _OnArrays(problem.field, self.y0, strict=not method.recovers)
        direction = float(t1 > t0) - float(t1 < t0)
        self._saver = (
            EndSaver(self.y0) if problem.t_eval is None else JointSaver(problem.t_eval, t0, direction, self.y0)
        )
        self._direction = direction
        self._times = [] if problem.t_eval is None else problem.t_eval.tolist()
        self._ys = [self.y0] * sum(t == t0 for t in self._times)

    def run(self) -> Result:
        """From t0 to t1."""
        y0, status, n_steps, h = self.y0, Status.SUCCESS, 0, self.t1 - self.t0
        t, y, note, costs = self.t0, y0, "", (0, 0, 0)
        if self.t0 != self.t1 and y0.numel() and bool(torch.isfinite(y0).all()):
            try:
                while t != self.t1:
                    # such solvers know no times that no step crosses: it begins anew at each
                    goal = self.t1 if self.problem.stops is None else self.problem.stops.times.next(t, self.t1)
                    solver, before = start(self.method, self._task(t, goal, y)), costs
                    while solver.t != goal:
                        if n_steps == self.problem.max_steps:
                            raise Stopped(Status.MAX_STEPS, "")
                        solver.step()
                        h = solver.t - t
                        self._save(solver)
                        self._record(solver, t, h, y)
                        if self.problem.progress is not None:
                            self.problem.progress.advance(solver.t, self.t1, h, ended=solver.t == self.t1)
                        n_steps, t, y = n_steps + 1, solver.t, self._field.tensor(solver.y)
                        costs = _summed(before, solver.costs())
            except Stopped as stopped:
                status, note = stopped.status, stopped.note
                if status is Status.STEP_UNDERFLOW and not self._field.finite:
                    status = Status.NONFINITE
        if status is Status.SUCCESS and not bool(torch.isfinite(y).all()):
            status = Status.NONFINITE
        if isinstance(self._saver, EndSaver):
            ys = self._saver.finish(y, status is Status.SUCCESS)
        else:
            missing = len(self._times) - len(self._ys)
            at_end = y if y0.numel() == 0 else torch.full_like(y0, math.nan)
            ys = torch.stack([*self._ys, *[at_end] * missing]) if self._times else y0.new_empty(0, *y0.shape)
        nfev, njev, nlu = (int(x) for x in costs)
        return Result(
            ys, status.value, n_steps, n_steps, nfev, self._saver, None, t, h, y, njev, nlu,
            note=f"{self.method.library}: {note}" if note else "",
        )  # fmt: skip

    def _task(self, t: float, goal: float, y: Tensor) -> Task:
        """From y at t to a goal."""
        problem = self.problem
        first = None if problem.first_step is None else min(float(problem.first_step), abs(goal - t))
        rtol, atol = _tolerances(problem.tolerance, self.y0)
        jac = self._field.jacobian if self.method.implicit else None
        return Task(self._field, jac, self._field.array(y), t, goal, rtol, atol, first, problem.max_step)

    def _save(self, solver: Solver) -> None:
        """The outputs up to where the solver is."""
        while (i := len(self._ys)) < len(self._times) and self._direction * (self._times[i] - solver.t) <= 0:
            t = self._times[i]
            self._ys.append(self._field.tensor(solver.y if t == solver.t else solver.inside(t)))

    def _record(self, solver: Solver, t: float, h: float, y: Tensor) -> None:
        """Show the recorder a step."""
        if self.recorder is not None:
            stages = [self._field.tensor(solver.inside(t + c * h)) for c in NODES]
            step = Step(self._field.tensor(solver.y), None, stages, None, 0)
            self.recorder.record(TakenStep(step, t, h, y, None, True, solver.t == self.t1))


class _OnArrays:
    """The field on arrays (N,) of float64.

    Parameters
    ----------
    strict : bool
        Whether a slope that is not finite ends the solve, as the solver would go on with it. The first one always does:
        a solver makes its first step of it.

    Attributes
    ----------
    finite : bool
        Whether the last slope was finite.
    """

    def __init__(self, field: FieldLike, like: Tensor, *, strict: bool) -> None:
        self._field, self._like, self._strict = field, like, strict
        self._begun, self.finite = False, True
        self._zero = torch.zeros(1, dtype=wide_dtype(like.device), device=like.device)
        self._jacobians: Jacobians | None = None

    def __call__(self, t: float, y: Array) -> Array:
        """The slope."""
        slope = self.array(self._field(self._time(t), self.tensor(y)))
        self.finite = bool(np.isfinite(slope).all())
        if not self.finite and (self._strict or not self._begun):
            raise Stopped(Status.NONFINITE, "")
        self._begun = True
        return slope

    def jacobian(self, t: float, y: Array) -> Array:
        """J: the user's, or by automatic differentiation."""
        if self._jacobians is None:
            self._jacobians = Jacobians(self._like, by_row=False)
        found = self._jacobians.at(self._field, self._time(t), self.tensor(y)).jacobian
        if not bool(torch.isfinite(found).all()):
            raise Stopped(Status.NONFINITE, "")
        return found.to(torch.float64).numpy()

    def tensor(self, y: Array) -> Tensor:
        """A state, in a tensor of its own."""
        return torch.from_numpy(np.array(y, dtype=np.float64)).to(self._like.dtype).view(self._like.shape)

    def array(self, y: Tensor) -> Array:
        """A state, in an array of its own."""
        return y.detach().to(torch.float64).reshape(-1).numpy().copy()

    def _time(self, t: float) -> Tensor:
        (time,) = self._field.times(float(t), 0.0, self._zero)
        return time


def _summed(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    """Costs of two solves."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _tolerances(tolerance: Tolerance, like: Tensor) -> tuple[float | Array, float | Array]:
    """The numbers, or arrays (N,)."""

    def flat(x: float | Tensor) -> float | Array:
        if not isinstance(x, Tensor) or x.ndim == 0:
            return float(x)
        return x.expand_as(like).reshape(-1).to(torch.float64).numpy()

    return flat(tolerance.rtol), flat(tolerance.atol)


def either(loop: Callable[..., Result]) -> Callable[..., Result]:
    """The loop, or a solver of another library where the problem names one."""

    def integrate(problem: Problem, recorder: Recorder | None = None) -> Result:
        external = isinstance(problem.stepper, ExternalStepper)
        return (integrate_externally if external else loop)(problem, recorder)

    return integrate
