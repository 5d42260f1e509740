"""The exact discrete gradient at the memory of one step: a reversible method, run backwards.

The forward pass keeps when each step was taken, the two states where the last of them ended, and those at the few
steps after which the two were joined. The backward pass finds where each step began from where it ended, as exactly as
floating-point numbers allow, takes it again in a graph, and pulls the cotangents back. Of y0, and of the states that
were kept, it knows whether it has come back to them.

y: (*shape) in joint, (B, *D) per sample; so is d, how far the second state of a reversible method is from y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Flag, across, anywhere, negate, of_rows, where
from ..core.field import Field
from ..core.norms import Tolerance
from ..core.step import TakenStep
from ..loop.integrate import Problem, Result
from ..steppers.explicit_rk import ExplicitRK
from ..steppers.reversible import ReversibleStepper
from .base import Integrate, Request, SolveNode
from .pullback import PullBack, unshrunk
from .tape import JointTimes, Level, RowTape

_Place: TypeAlias = tuple[Tensor | None, Tensor, Tensor]
"""Rows, or None in joint, and their y and d."""


@dataclass(frozen=True)
class Reversible:
    """The exact gradient of what was computed, at a memory that does not grow with the number of steps.

    An explicit Runge–Kutta method is made reversible: it takes two states along, of which the first is the answer, and
    each step can be undone. The order is that of the method, the answer as good as its own. A step costs twice as many
    evaluations, the backward pass four times. Of each step its time and its size are kept, a number each, per sample
    for each row.

    Where the flow contracts or expands, a state can be found again to fewer digits from step to step, and the two
    states come apart. Where they are farther from each other than the tolerance allows, or a third of the digits is
    lost, they are joined again, and both are kept: as often as the flow asks for it, however many steps it is solved
    by. `rtol` and `atol` say how far they may come apart where the size of steps is given, too.

    Choose it where states are large, steps are many, and their gradient must be exact: `checkpointed` keeps a state for
    each step, and the adjoint's gradient has an error. Choose `checkpointed` where that fits into memory, as it is
    faster, and where few steps are taken.

    Parameters
    ----------
    coupling : float, optional
        λ, between 0 and 1: each step brings the two states closer by 1 - λ, and lets rounding grow by 1 / λ on the way
        back.

    Raises
    ------
    ValueError
        When the coupling is no such number.
    RuntimeError
        In the backward pass, when it does not come back to a state that it knows, by the tolerance of the solve or to
        half the digits; so it is where others would run away from a solution that is itself at rest.

    References
    ----------
    McCallum & Foster, "Efficient, accurate and stable gradients for neural ODEs", arXiv:2410.11648 (2024).

    Examples
    --------
    >>> import torch, thalweg
    >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> sol = thalweg.solve_ivp(lambda t, y: -y, (0, 1), y0, gradient=thalweg.Reversible(0.99), rtol=1e-9, atol=1e-9)
    >>> sol.ys[-1].sum().backward()
    >>> round(y0.grad.item(), 6)
    0.367879
    """

    coupling: float = 0.999

    def __post_init__(self) -> None:
        if isinstance(self.coupling, bool) or not isinstance(self.coupling, int | float) or not 0 < self.coupling < 1:
            raise ValueError(f"coupling must lie between 0 and 1, such as 0.999, got {self.coupling!r}")

    def made(self, problem: Problem, name: str) -> Problem:
        """The same problem, with the method of that name made reversible.

        Raises
        ------
        ValueError
            When the method is no explicit Runge–Kutta method.
        """
        base = problem.stepper
        if not isinstance(base, ExplicitRK):
            raise ValueError(
                f"gradient='reversible' makes explicit Runge–Kutta methods reversible, and method {name!r} is none; "
                "choose such a method, as 'tsit5', or gradient='checkpointed'"
            )
        stepper = ReversibleStepper(
            base.tableau,
            problem.y0,
            by_row=base.by_row,
            tolerance=problem.tolerance,
            coupling=float(self.coupling),
            fixed=not problem.controller.adaptive,
        )
        return replace(problem, stepper=stepper)

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Solve, and put the backward pass behind the outputs; its problem is one that `made` made."""
        return _Node.solve(integrate, request)


class _Node(SolveNode):
    """One solve, and its way back."""

    def forward(self) -> Result:
        problem = self.request.problem
        self.track = _RowTrack(problem.y0) if problem.batching.by_row else _JointTrack(problem.y0)
        return self.integrate(replace(problem, stepper=unshrunk(problem)), self.track)

    def backward(self, cotangent: Tensor, ys: Tensor | None) -> Sequence[Tensor | None]:
        self.check_constants()
        field, targets = self.sources.detached_field()
        pull = PullBack(self, field, targets, cotangent)
        asked = pull.asked()
        undone = _Undone(self.track, field, self.request.problem, asked)
        gradients = pull.run(undone, asked)
        self.request.stats.nfev_backward += undone.evaluations
        return gradients


class _JointTrack:
    """When each step was taken, and where the last one ended.

    Attributes
    ----------
    y, apart : Tensor
        The states there.
    joined : dict
        The states at the end of step n, by n, if they were joined there: nothing else tells where the second one was.
        One entry of (None, y, d).
    """

    def __init__(self, y0: Tensor) -> None:
        self.y, self.apart = y0, torch.zeros_like(y0)
        self.joined: dict[int, list[_Place]] = {}
        self.tape = JointTimes(y0.new_empty(0))

    def record(self, taken: TakenStep) -> None:
        """Keep the numbers of a step, and where it ended: one read of the device."""
        assert taken.step.carry is not None
        n = self.tape.close()
        if n and (taken.carry is None or bool(taken.carry[1])):
            self.joined[n - 1] = [(None, self.y, self.apart)]
        self.tape.record(taken)
        self.y, self.apart = taken.step.y, taken.step.carry[0]


class _RowTrack:
    """The same of each row; an entry of `joined` holds some rows, and their states."""

    def __init__(self, y0: Tensor) -> None:
        self.y, self.apart = y0, torch.zeros_like(y0)
        self.joined: dict[int, list[_Place]] = {}
        self.tape = RowTape(y0)
        self._rows = torch.arange(len(y0), device=y0.device)
        self._counts = torch.zeros_like(self._rows)

    def record(self, taken: TakenStep) -> None:
        """Keep the numbers of a step, and where it ended: one read of the device."""
        rows = self._rows if taken.rows is None else taken.rows
        assert isinstance(taken.accept, Tensor)
        assert taken.step.carry is not None
        self._keep_joined(taken, taken.accept, rows)
        self.tape.record(taken._replace(y=rows, carry=None))  # in the place of a row's state, which row it is
        self._counts = self._counts.index_add(0, rows, taken.accept.to(rows.dtype))
        self.y, self.apart = self._put(taken, taken.step.y, self.y), self._put(taken, taken.step.carry[0], self.apart)

    def _keep_joined(self, taken: TakenStep, accept: Tensor, rows: Tensor) -> None:
        """Keep the states of rows whose step begins where they were joined, as their last step left them."""
        assert taken.carry is not None
        where_joined = taken.carry[1] & accept & (self._counts[rows] > 0)
        if bool(where_joined.any()):
            before = self._counts[rows] - 1
            for n in before[where_joined].unique().tolist():
                mine = rows[where_joined & (before == n)]
                self.joined.setdefault(n, []).append((mine, self.y[mine], self.apart[mine]))

    def _put(self, taken: TakenStep, new: Tensor, old: Tensor) -> Tensor:
        """The new states of the rows that took the step, among those of all."""
        accept = across(of_rows(taken.accept), new.ndim)
        if taken.rows is None:
            return torch.where(accept, new, old)
        return old.index_copy(0, taken.rows, torch.where(accept, new, old[taken.rows]))


class _Undone:
    """The steps of a solve, each found from where it ended, as the backward pass asks for them.

    A row that is not asked for, or has fewer steps than others, takes part with the first step of its own, which is
    known to be finite; one that took none, with another row's.
    """

    def __init__(self, track: _JointTrack | _RowTrack, field: Field, problem: Problem, asked: Flag) -> None:
        assert isinstance(problem.stepper, ReversibleStepper)
        self._track, self._field, self._problem, self._asked = track, field, problem, asked
        self._stepper = problem.stepper
        self._y, self._apart = track.y, track.apart
        self.evaluations = 0

    def close(self) -> int:
        """The number of steps; none where nothing is asked for."""
        return 0 if self._asked is False else self._track.tape.close()

    def at(self, n: int) -> Level:
        """Step n, once those after it are undone."""
        self._part(n)
        problem, stepper, tape = self._problem, self._stepper, self._track.tape
        level, select = tape.at(n), problem.batching.select
        y, apart = stepper.reverse(self._field, level.t, level.h, self._y, self._apart)
        self.evaluations += stepper.evaluations_back
        valid = level.valid & self._asked
        self._y, self._apart = select(valid, y, self._y), select(valid, apart, self._apart)
        if n == 0:
            self._compare(problem.y0, valid)
        if not isinstance(valid, Tensor):
            return level._replace(y=self._y, carry=stepper.carry(self._apart, self._joined_before(n)))
        first = tape.at(0)
        return Level(
            where(valid, level.t, first.t),
            where(valid, level.h, first.h),
            select(valid, self._y, problem.y0[first.y]),
            stepper.carry(self._apart, self._joined_before(n) | ~valid),
            level.last & valid,
            valid,
        )

    def _part(self, n: int) -> None:
        """Put the states apart again that were joined after step n."""
        y, apart = self._y, self._apart
        for rows, y_before, apart_before in self._track.joined.get(n, ()):
            y = y_before if rows is None else y.index_copy(0, rows, y_before)
            apart = apart_before if rows is None else apart.index_copy(0, rows, apart_before)
        if y is not self._y:
            self._compare(y, self._asked)
            self._y, self._apart = y, apart

    def _joined_before(self, n: int) -> Flag:
        """Which units begin step n with both states at one."""
        if not self._problem.batching.by_row:
            return n == 0 or n - 1 in self._track.joined
        joined = torch.full((len(self._y),), n == 0, device=self._y.device)
        for rows, _, _ in self._track.joined.get(n - 1, ()):
            joined[rows] = True
        return joined

    def _compare(self, expected: Tensor, units: Flag) -> None:
        """Refuse a state that is not the expected one, neither by the solve's tolerance nor to half the digits."""
        batching = self._problem.batching
        off, alike = self._y - expected, Tolerance(0.0, torch.ones((), device=expected.device))
        miss = batching.reduce(off.clone(), self._problem.tolerance, expected)
        far, size = batching.reduce(off, alike, expected), batching.reduce(expected.clone(), alike, expected)
        lost = units & negate(miss <= 1) & negate(far <= torch.finfo(expected.dtype).eps ** 0.5 * size)
        if anywhere(lost):
            rows = f" of rows {lost.nonzero().flatten().tolist()}" if isinstance(lost, Tensor) else ""
            raise RuntimeError(
                f"gradient='reversible' did not come back to the states{rows}, so that its gradient would be wrong: "
                "the flow contracts or expands more than rounding allows to undo, or the solve failed; "
                "gradient='checkpointed' keeps where each step began"
            )
