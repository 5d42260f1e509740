"""Continuous gradients: a differential equation for the adjoint, solved back in time.

With a(t) = dL/dz(t), the seed of continuous backpropagation (Chen et al. 2018, appendix B) is

    dz/dt = f(t, z, θ),   da/dt = -aᵀ ∂f/∂z,   dL/dθ = -∫ aᵀ ∂f/∂θ dt from t1 to t0.

Two choices make three methods: z is solved back with a, or is had from the way there; and the integral over the
parameters, which needs no state and is summed over the accepted steps, has the weights of the method where that is
cheap, or those of Gauss.

z: (*shape) in joint, (B, *D) per sample; the state of the solve back: see `back`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, absolute, across, anywhere, most, where, wide_dtype
from ..core.field import Field, time_of
from ..core.rows import stand_ins
from ..core.status import Status
from ..external.integrate import ExternalStepper
from ..loop.integrate import Problem, Result
from ..methods import Method
from ..methods.tableau import Tableau
from ..output.dense import DenseOutput
from ..output.saving import EndSaver
from ..steppers.adams import VariableAdamsStepper
from ..stepsize.stops import Stops
from .back import BackField, Path, WayBack
from .base import Integrate, Request, SolveNode
from .quadrature import quadrature_for


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """What continuous gradients share: the options of the solve back in time; each is as in the solve itself if None.

    Attributes
    ----------
    whole : bool
        Whether z is solved back with a.
    exact : bool
        Whether the integral over the parameters has the method's own weights where these are cheap.
    """

    method: str | Method | Tableau | None = None
    rtol: Any = None
    atol: Any = None
    norm: Callable[..., float | Tensor] | None = None
    step_size: float | None = None
    first_step: float | None = None
    max_step: float | None = None
    min_step: float | None = None
    max_steps: int | None = None
    controller: Any = None
    step_ts: Any = None
    jump_ts: Any = None
    callback: Callable[[Any], bool | None] | None = None

    whole: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def given(self) -> dict[str, Any]:
        """What is not left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Solve without a graph, and put the solve back behind the outputs."""
        return _Node.solve(integrate, request)


class Adjoint(Continuous):
    """The continuous gradient: memory of one step, whatever their number; its error is that of the backward solve.

    States are solved back with the adjoint, from each output anew. Where the flow contracts, that is unstable.

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

    References
    ----------
    Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations (2018), appendix B.

    Examples
    --------
    >>> import torch, thalweg
    >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> tight = thalweg.Adjoint(rtol=1e-9, atol=1e-9)
    >>> thalweg.solve_ivp(lambda t, y: -y, (0, 1), y0, gradient=tight, rtol=1e-6).ys[-1].sum().backward()
    >>> round(y0.grad.item(), 5)
    0.36788
    """


class Interpolating(Continuous):
    """The continuous gradient with states from the way there, so that nothing unstable is solved back.

    The memory is that of all accepted steps and their stages.

    Parameters
    ----------
    method, rtol, atol, step_size, first_step, max_step, min_step, max_steps, controller, step_ts, jump_ts : optional
        As in `solve_ivp`, for the solve back in time; as in the solve itself where they are left out.
    norm : callable, optional
        norm(a), how large the error of a step back is: that of the adjoint relative to what is allowed, structured as
        the state. Where it is left out, the solve's own norm, or root mean square.
    callback : callable, optional
        callback(step), of each step back, where `y` is the adjoint.

    References
    ----------
    Serban & Hindmarsh, CVODES: the sensitivity-enabled ODE solver in SUNDIALS (2005).

    Examples
    --------
    Of a flow that contracts a millionfold each half second, which cannot be solved back:

    >>> import torch, thalweg
    >>> rate = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    >>> y0 = torch.zeros(1, dtype=torch.float64)
    >>> options = {"args": rate, "rtol": 1e-8, "gradient": thalweg.Interpolating(atol=1e-8)}
    >>> thalweg.solve_ivp(lambda t, y, k: 1 - k * y, (0, 4), y0, **options).ys[-1].sum().backward()
    >>> round(rate.grad.item() * 30**2, 4)
    -1.0
    """

    whole: ClassVar[bool] = False


class Gauss(Continuous):
    """As `Interpolating`, with the integral over the parameters by Gauss's formula in each step back.

    By half as many evaluations a step as the method has orders, instead of one for each stage, so that stages are
    differentiated by the state alone. It is worth it where there are many parameters.

    Parameters
    ----------
    method, rtol, atol, step_size, first_step, max_step, min_step, max_steps, controller, step_ts, jump_ts : optional
        As in `solve_ivp`, for the solve back in time; as in the solve itself where they are left out.
    norm : callable, optional
        norm(a), how large the error of a step back is: that of the adjoint relative to what is allowed, structured as
        the state. Where it is left out, the solve's own norm, or root mean square.
    callback : callable, optional
        callback(step), of each step back, where `y` is the adjoint.

    References
    ----------
    `GaussAdjoint` of SciMLSensitivity.jl (Rackauckas et al., Universal differential equations for scientific machine
    learning, 2020).

    Examples
    --------
    >>> import torch, thalweg
    >>> rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    >>> y0 = torch.ones(1, dtype=torch.float64)
    >>> tight = {"rtol": 1e-9, "atol": 1e-9}
    >>> sol = thalweg.solve_ivp(lambda t, y, k: -k * y, (0, 1), y0, args=rate, gradient=thalweg.Gauss(), **tight)
    >>> sol.ys[-1].sum().backward()
    >>> round(rate.grad.item(), 5)
    -0.60653
    """

    whole: ClassVar[bool] = False
    exact: ClassVar[bool] = False


class _Node(SolveNode):
    """One solve, and the one back."""

    keeps_outputs = True
    dense: DenseOutput | None = None

    def forward(self) -> Result:
        problem, way = self.request.problem, self.request.backward
        assert way is not None
        if way.state.whole:
            return self.integrate(problem)
        result = self.integrate(replace(problem, dense=True))
        assert result.dense is not None
        self.dense = result.dense.finish(problem.stepper, problem.y0, problem.t0, result.t, lambda y: y)
        return result if problem.dense else replace(result, dense=None)

    def backward(self, cotangent: Tensor, ys: Tensor | None) -> Sequence[Tensor | None]:
        assert ys is not None
        self.check_constants()
        return _Backward(self, ys, cotangent).run()


class _Backward:
    """The backward pass: from output to output, re-anchored at each where states are solved back."""

    def __init__(self, node: _Node, ys: Tensor, cotangent: Tensor) -> None:
        self.integrate, self.request = node.integrate, node.request
        self.problem: Problem = node.request.problem
        assert node.request.backward is not None
        self.way: WayBack = node.request.backward
        self.stepper: Any = self.way.problem.stepper
        assert node.result is not None
        self.ends_only = isinstance(node.result.saver, EndSaver)
        self.status = node.result.status
        # the flow is as fast on the way back as it was at the end of the way there
        first = self.way.problem.first_step
        self.first_step = node.result.h if first is None else first
        self.by_row = self.problem.batching.by_row
        self.timed = node.request.times is not None
        self.ys = ys
        self.cotangent, self.failed = self._without_failures(cotangent)
        self.rows = None if self.failed is None else stand_ins(~self.failed)
        field, targets = node.sources.detached_field()
        assert isinstance(self.way.problem.field, Field)
        self.field = BackField(
            field.with_jumps(self.way.problem.field.jumps),
            targets,
            self.way.state,
            None if node.dense is None else Path(node.dense, self.rows),
            retain=node.sources.retain(),
        )
        self.quadrature = quadrature_for(
            self.field, self.stepper, self.way.order, self.problem.y0.device, exact=self.way.exact
        )
        self.evaluations = 0
        # the adjoint may rest where the field does not: steps back that are chosen by it alone would leave out of the
        # integral what those on the way there have seen
        self.stops = self.way.problem.stops
        if node.dense is not None and self.way.problem.controller.adaptive:
            self.stops = Stops.along(node.dense.ts, self.stops)

    def run(self) -> Sequence[Tensor | None]:
        """The gradients, in the order of the sources."""
        problem, failed, cotangent = self.problem, self.failed, self.cotangent
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
            z = self._finite_state(states[i])
            if self.timed:
                t_grads[i] = self._time_gradient(times[i], problem.t0 - times[i], z, pull)
            a = a + pull
            goal = times[i - 1] if i else problem.t0
            a, step = self._segment(times[i], goal, z, a, step)
        t0 = -self._time_gradient(problem.t0, problem.t1 - problem.t0, problem.y0, a) if self.timed else None
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
        if not anywhere(moving):
            return a, step
        way, first = self.way, self.way.problem.first_step
        if not isinstance(self.stepper, ExternalStepper | VariableAdamsStepper):  # those begin at an order of their own
            first = where(absolute(step) > 0, absolute(step), absolute(goal - t))
        back = replace(
            way.problem,
            field=self.field,
            y0=way.state.join(z, a),
            t0=t,
            t1=goal,
            t_eval=None,
            dense=False,
            shrink=False,
            watch=None,
            progress=None,
            stops=self.stops,
            first_step=first,
        )
        self.field.first = None
        result = self.integrate(back, self.quadrature)
        self.evaluations += most(result.nfev)
        self._check(result)
        return way.state.split(result.ys[-1])[-1], result.h

    def _check(self, result: Result) -> None:
        worst = Status(most(result.status))
        if worst is Status.SUCCESS:
            return
        advice = (
            "Where the flow contracts, going back is unstable; gradient='interpolating' takes the states from the way "
            "there, and 'checkpointed' does not go back"
            if self.way.state.whole
            else "Give it tolerances or a method of its own, such as thalweg.Interpolating(method='rodas5p') where the "
            "field is stiff; gradient='checkpointed' does not go back"
        )
        raise RuntimeError(f"the adjoint's solve back in time failed: {worst.message}. {advice}")

    def _time_gradient(self, t: Number, h: Number, z: Tensor, a: Tensor) -> Tensor:
        """<a, f(t, z)>, of each unit; where f jumps at t, on the side of a step of size h from it."""
        with torch.no_grad():
            slope = self.field.field(time_of(self.field, t, z.device, h), z)
        self.evaluations += 1
        product = (a.conj() * slope).real if a.is_complex() else a * slope
        product = torch.where(a == 0, 0.0, product)
        total = product.reshape(product.shape[0], -1).sum(1) if self.by_row else product.sum()
        return total.to(wide_dtype(z.device))

    def _without_failures(self, cotangent: Tensor) -> tuple[Tensor, Tensor | None]:
        """The cotangents with nothing asked of failed rows, and which these are."""
        if not isinstance(self.status, Tensor):
            if self.status != Status.SUCCESS:
                raise RuntimeError(
                    "the adjoint cannot go back from a solve that failed "
                    f"({Status(self.status).message}); gradient='checkpointed' can"
                )
            return cotangent, None
        failed = self.status != Status.SUCCESS.value
        if not bool(failed.any()):
            return cotangent, None
        mask = failed.view(1, -1, *(1,) * (cotangent.ndim - 2))
        return torch.where(mask, 0.0, cotangent), failed

    def _finite_state(self, z: Tensor) -> Tensor:
        """The state, where a row failed another row's."""
        return z if self.rows is None else z[self.rows]

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
