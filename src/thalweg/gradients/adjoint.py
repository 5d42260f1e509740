"""The adjoint method: one augmented solve back in time.

With a(t) = dL/dz(t), the seed of continuous backpropagation (Chen et al. 2018, appendix B) is

    dz/dt = f(t, z, θ),   da/dt = -aᵀ ∂f/∂z,   dL/dθ = -∫ aᵀ ∂f/∂θ dt from t1 to t0,

solved together from t1 back to t0. z and a are the state of the solve. The integral over the parameters needs no state:
it is summed over the accepted steps with the weights of the method itself, which is what the method would have made
of it as a state, but for its part in the error norm.

z: (*shape) in joint, (B, *D) per sample; the augmented state stacks z and a: (2, *shape) or (B, 2, *D).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, absolute, across, where, wide_dtype
from ..core.field import Field
from ..core.norms import Tolerance
from ..core.status import Status
from ..external.integrate import ExternalStepper
from ..loop.integrate import Problem, Result
from ..methods import Method
from ..methods.tableau import Tableau
from ..output.saving import EndSaver
from ..steppers.choose import stepper_for
from ..steppers.dirk import DIRK
from ..steppers.explicit_rk import ExplicitRK
from ..steppers.firk import FIRK
from .augmented import AugmentedField, GaussQuadrature, JointQuadrature, RowQuadrature, StageQuadrature
from .base import Integrate, Request, SolveNode


@dataclass(frozen=True, kw_only=True)
class Adjoint:
    """The continuous gradient: memory of one step, whatever their number; its error is that of the backward solve.

    Parameters
    ----------
    method, rtol, atol, step_size, first_step, max_step, min_step, max_steps, controller, step_ts, jump_ts : optional
        As in `solve_ivp`, for the solve back in time; as in the solve itself where they are left out.
    norm : callable, optional
        norm(y, a), how large the error of a step back is: y and a, the errors of state and adjoint relative to what
        is allowed, are structured as the state. Where it is left out, the larger of the solve's own norm of both,
        or root mean square.
    callback : callable, optional
        callback(step), of each step back.

    Examples
    --------
    >>> import torch, thalweg
    >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> tight = thalweg.Adjoint(rtol=1e-9, atol=1e-9)
    >>> thalweg.solve_ivp(lambda t, y: -y, (0, 1), y0, gradient=tight, rtol=1e-6).ys[-1].sum().backward()
    >>> round(y0.grad.item(), 5)
    0.36788
    """

    method: str | Method | Tableau | None = None
    rtol: Any = None
    atol: Any = None
    norm: Callable[[Any, Any], float | Tensor] | None = None
    step_size: float | None = None
    first_step: float | None = None
    max_step: float | None = None
    min_step: float | None = None
    max_steps: int | None = None
    controller: Any = None
    step_ts: Any = None
    jump_ts: Any = None
    callback: Callable[[Any], bool | None] | None = None

    def given(self) -> dict[str, Any]:
        """What is not left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Solve without a graph, and put the augmented solve behind the outputs."""
        return _Node.solve(integrate, request)


class _Node(SolveNode):
    """One solve, and the one back."""

    keeps_outputs = True

    def forward(self) -> Result:
        return self.integrate(self.request.problem)

    def backward(self, cotangent: Tensor, ys: Tensor | None) -> Sequence[Tensor | None]:
        assert ys is not None
        return _Backward(self, ys, cotangent).run()


class _Backward:
    """The backward pass: from output to output, re-anchored at each."""

    def __init__(self, node: _Node, ys: Tensor, cotangent: Tensor) -> None:
        self.integrate, self.request = node.integrate, node.request
        self.problem: Problem = node.request.problem
        self.backward: Problem = node.request.backward or self.problem
        assert node.result is not None
        self.ends_only = isinstance(node.result.saver, EndSaver)
        self.status = node.result.status
        # the flow is as fast on the way back as it was at the end of the way there
        self.first_step = node.result.h if self.backward.first_step is None else self.backward.first_step
        self.ys, self.cotangent = ys, cotangent
        self.by_row = self.problem.batching.by_row
        self.dim = 1 if self.by_row else 0
        self.timed = node.request.times is not None
        field, targets = node.sources.detached_field()
        assert isinstance(self.backward.field, Field)
        field = field.with_jumps(self.backward.field.jumps)
        like = self._stack(self.problem.y0, self.problem.y0)
        retain, stepper = node.sources.retain(), self.backward.stepper
        self.quadrature: RowQuadrature | JointQuadrature | GaussQuadrature | StageQuadrature
        if isinstance(stepper, ExternalStepper):
            self.stepper: Any = ExternalStepper(stepper.method, like, by_row=False)
            self.field = AugmentedField(field, targets, self.dim, 0, retain)
            self.quadrature = GaussQuadrature(field, targets, retain)
        elif isinstance(stepper, DIRK | FIRK):
            tolerance, fixed = self._tolerance(self.problem.y0), not self.backward.controller.adaptive
            self.stepper = stepper_for(stepper.tableau, like, by_row=False, tolerance=tolerance, fixed=fixed)
            self.field = AugmentedField(field, targets, self.dim, 0, retain)
            self.quadrature = StageQuadrature(field, targets, stepper, retain)
        else:
            assert isinstance(stepper, ExplicitRK)
            tableau = stepper.tableau
            self.stepper = ExplicitRK(tableau, like, by_row=self.by_row)
            self.field = AugmentedField(field, targets, self.dim, 0 if self.by_row else tableau.stages, retain)
            self.quadrature = (
                RowQuadrature(field, targets, self.stepper, retain)
                if self.by_row
                else JointQuadrature(self.field, tableau)
            )
        self.evaluations = 0

    def run(self) -> Sequence[Tensor | None]:
        """The gradients, in the order of the sources."""
        problem = self.problem
        cotangent, failed = self._without_failures()
        times = [problem.t1] if self.ends_only else list(self._output_times())
        if failed is not None:  # these rows are not asked for: keep them where they are
            times = [where(failed, problem.t0, t) for t in times]
        states = self.ys[1:] if self.ends_only else self.ys
        pulls = cotangent[1:] if self.ends_only else cotangent
        a = torch.zeros_like(problem.y0)
        t_grads: list[Tensor | None] = [None] * len(times)
        step = self.first_step
        for i in reversed(range(len(times))):
            at_start = times[i] == problem.t0
            pull = self._masked(at_start, pulls[i])
            z = self._finite_state(states[i], failed)
            if self.timed:
                t_grads[i] = self._time_gradient(times[i], z, pull)
            a = a + pull
            goal = times[i - 1] if i else problem.t0
            a, step = self._segment(times[i], goal, z, a, step)
        t0 = -self._time_gradient(problem.t0, problem.y0, a) if self.timed else None
        a = a + self._initial_cotangent(pulls, times)
        if self.ends_only:
            a = a + cotangent[0]
        self.request.stats.nfev_backward += self.evaluations + self.quadrature.evaluations
        t1 = t_grads[0] if self.ends_only else None
        t_eval = torch.stack(t_grads) if self.timed and not self.ends_only else None  # type: ignore[arg-type]
        return [a, t0, t1, t_eval, *self.quadrature.sums.totals]

    def _output_times(self) -> Sequence[Number]:
        assert self.problem.t_eval is not None
        return self.problem.t_eval.unbind() if self.by_row else self.problem.t_eval.tolist()

    def _segment(self, t: Number, goal: Number, z: Tensor, a: Tensor, step: Number) -> tuple[Tensor, Number]:
        """The adjoint at `goal`, from (z, a) at t, and the size of the next step; that of the first one is given."""
        moving = t != goal
        if not (bool(moving.any()) if isinstance(moving, Tensor) else moving):
            return a, step
        first = self.backward.first_step
        if not isinstance(self.stepper, ExternalStepper):  # those begin at an order that wants other sizes
            first = where(absolute(step) > 0, absolute(step), absolute(goal - t))
        back = replace(
            self.backward,
            field=self.field,
            stepper=self.stepper,
            y0=self._stack(z, a),
            t0=t,
            t1=goal,
            t_eval=None,
            tolerance=self._tolerance(z),
            dense=False,
            shrink=False,
            watch=None,
            progress=None,
            first_step=first,
        )
        self.field.first = None
        result = self.integrate(back, self.quadrature)
        self.evaluations += int(result.nfev.max()) if isinstance(result.nfev, Tensor) else result.nfev
        self._check(result)
        return result.ys[-1].unbind(self.dim)[1], result.h

    def _tolerance(self, z: Tensor) -> Tolerance:
        """That of the solve back, for both halves of its state."""
        tolerance = self.backward.tolerance

        def both(x: Tensor) -> Tensor:
            return x.unsqueeze(1) if self.by_row and x.ndim == z.ndim else x

        rtol = both(tolerance.rtol) if isinstance(tolerance.rtol, Tensor) else tolerance.rtol
        return Tolerance(rtol, both(tolerance.atol))

    def _check(self, result: Result) -> None:
        status = result.status
        worst = int(status.max()) if isinstance(status, Tensor) else status
        if worst != Status.SUCCESS:
            raise RuntimeError(
                f"the adjoint's solve back in time failed: {Status(worst).message}. Where the flow contracts, going "
                "back is unstable; gradient='checkpointed' does not go back"
            )

    def _time_gradient(self, t: Number, z: Tensor, a: Tensor) -> Tensor:
        """<a, f(t, z)>, of each unit."""
        with torch.no_grad():
            (time,) = self.field.times(t, 0.0, torch.zeros(1, dtype=wide_dtype(z.device), device=z.device))
            slope = self.field.field(time, z)
        self.evaluations += 1
        product = (a.conj() * slope).real if a.is_complex() else a * slope
        product = torch.where(a == 0, 0.0, product)
        total = product.reshape(product.shape[0], -1).sum(1) if self.by_row else product.sum()
        return total.to(wide_dtype(z.device))

    def _without_failures(self) -> tuple[Tensor, Tensor | None]:
        """The cotangents with nothing asked of failed rows, and which these are."""
        if not isinstance(self.status, Tensor):
            if self.status != Status.SUCCESS:
                raise RuntimeError(
                    "the adjoint cannot go back from a solve that failed "
                    f"({Status(self.status).message}); gradient='checkpointed' can"
                )
            return self.cotangent, None
        failed = self.status != Status.SUCCESS.value
        if not bool(failed.any()):
            return self.cotangent, None
        mask = failed.view(1, -1, *(1,) * (self.cotangent.ndim - 2))
        return torch.where(mask, 0.0, self.cotangent), failed

    def _finite_state(self, z: Tensor, failed: Tensor | None) -> Tensor:
        """The state, where a row failed another row's."""
        if failed is None:
            return z
        donor = z[torch.argmin(failed.to(torch.int64))]
        return torch.where(across(failed, z.ndim), donor, z)

    def _masked(self, at_start: Flag, pull: Tensor) -> Tensor:
        """The cotangent of an output, none where it is y0 itself."""
        if isinstance(at_start, Tensor):
            return torch.where(across(at_start, pull.ndim), 0.0, pull)
        return torch.zeros_like(pull) if at_start else pull

    def _initial_cotangent(self, cotangent: Tensor, times: Sequence[Number]) -> Tensor:
        """The sum of the cotangents of outputs that are y0 itself."""
        total = torch.zeros_like(self.problem.y0)
        for t, pull in zip(times, cotangent, strict=True):
            total = total + (pull - self._masked(t == self.problem.t0, pull))
        return total

    def _stack(self, z: Tensor, a: Tensor) -> Tensor:
        return torch.stack([z, a], self.dim)
