"""The front door: check what came, choose the parts, run, return a solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .arguments import (
    Time,
    as_time,
    as_tolerance,
    blotted,
    check_functions,
    check_jacobian,
    check_shrink,
    ends_of,
    is_number,
    no_times,
    one_of,
    output_times,
    positive,
    positive_integer,
    stop_times,
)
from .core.arithmetic import Flag, Number, anywhere, negate, wide_dtype
from .core.derivatives import transformed, unwrapped
from .core.field import FIELDS, Field, Pair, SeparableField
from .core.holdings import all_tensors
from .core.norms import AsGiven, LargestOfLeaves
from .core.solution import Solution, Stats
from .core.sparsity import Sparsity
from .core.state import Layout, layout_of
from .core.status import STATUSES, SolveError, Status
from .core.step import Step, Stepper, TriedStep
from .engine.backend import TOO_WIDE, Unsuitable, is_too_wide, keep, kept
from .engine.backend import chosen as chosen_engine
from .engine.call import Native
from .engine.keys import key_of
from .external.integrate import ExternalStepper, either
from .external.methods import External, get_external
from .gradients import (
    GRADIENTS,
    Adjoint,
    Checkpointed,
    Continuous,
    DirectOrNative,
    GradientMethod,
    GradientName,
    Request,
    Reversible,
)
from .gradients.back import BackState, WayBack
from .gradients.base import Integrate
from .gradients.segments import solve_with_events
from .gradients.starting import with_moving_starts
from .gradients.transforms import refuse_vmap, refuse_writing
from .loop.batching import Batching, Joint, PerSample
from .loop.integrate import GraphTimes, Problem, Result, integrate
from .methods import Method, as_method
from .methods.tableau import RungeKutta
from .output.events import Event, Found, as_events
from .output.progress import SolveProgress
from .steppers.choose import stepper_for
from .stepsize.controllers import CONTROLLERS, Controller, Fixed
from .stepsize.stops import Stops


def solve_ivp(
    fun: Callable[..., Any] | Pair,
    t_span: tuple[Time, Time] | Sequence[Time] | Tensor,
    y0: Any,
    method: str | Method | RungeKutta = "tsit5",
    t_eval: Tensor | Sequence[float] | None = None,
    *,
    args: tuple[Any, ...] | Any = (),
    jac: Callable[..., Tensor] | Tensor | None = None,
    jac_sparsity: Any = None,
    dense_output: bool = False,
    events: Event | Callable[..., Any] | Sequence[Event | Callable[..., Any]] | None = None,
    rtol: float | Tensor = 1e-3,
    atol: float | Tensor = 1e-6,
    norm: Callable[[Any], float | Tensor] | None = None,
    step_size: float | None = None,
    first_step: float | None = None,
    max_step: float = math.inf,
    min_step: float = 0.0,
    step_ts: Tensor | Sequence[float] = (),
    jump_ts: Tensor | Sequence[float] = (),
    max_steps: int = 10_000,
    controller: Controller | Literal["i", "pi", "pid", "gustafsson"] | None = None,
    batching: Literal["joint", "per_sample"] = "joint",
    shrink: bool = False,
    gradient: GradientName | GradientMethod | None = None,
    callback: Callable[[TriedStep], bool | None] | None = None,
    progress: bool = False,
    backend: Literal["auto", "eager", "native"] = "auto",
    on_failure: Literal["raise", "return"] = "raise",
) -> Solution:
    """Solve dy/dt = fun(t, y, *args), y(t0) = y0, with gradients to everything that needs one.

    Gradients reach y0, both times, t_eval, tensors in args, the parameters of a module, and tensors that a function
    captured; one that cannot be reached is an error.

    Parameters
    ----------
    fun : callable
        The field, `fun(t, y, *args) -> dy/dt`, shaped, typed and structured as y. `t` is a 0-d tensor with joint
        batching and has shape (batch, 1, …, 1), with as many dimensions as y, per sample; (batch,) where y is a pytree
        whose leaves differ in their number of dimensions.
        Some methods take a pair instead, the others one function alone. `kencarp4`: fun=(f, g) for
        dy/dt = f(t, y, *args) + g(t, y, *args), of which g is stiff and f is not. `leapfrog`, `yoshida4`: fun=(v, f)
        for dq/dt = v(t, p, *args), dp/dt = f(t, q, *args), where the state is y0 = (q, p), two tensors or pytrees of
        one structure.
    t_span : (t0, t1)
        Numbers or tensors, in either direction of time; per sample, each may have shape (batch,). Equal times give y0.
    y0 : Tensor or pytree of Tensor
        The initial state, floating or complex; per sample, the first dimension of every leaf is the batch.
    method : str, Tableau or Method
        See `thalweg methods`; or the coefficients of a method of your own (see `thalweg.register_method`).
        With the name of another library in front, as `"scipy:LSODA"` or `"sundials:cvode_bdf"`, that library takes the
        steps: on the CPU, with joint batching and the adjoint's gradient.
    t_eval : Tensor (T,), or (T, batch) per sample
        The times of the outputs, within t_span, as far as the coarsest dtype of both can tell, and in its direction.
        Without it: t0 and t1. Rows with fewer times than others are filled up with NaN, and so are their outputs.
    args : tuple
        Further arguments of `fun`.
    jac : callable or Tensor, optional
        The Jacobian of fun for implicit methods, `jac(t, y, *args)`, or the matrix that it is everywhere: of shape
        (N, N), or (batch, N, N) per sample, N the length of the state, or of a row of it, in the order of its entries;
        with fun=(f, g) that of g.
        Made by automatic differentiation where it is left out, and where gradients are wanted and cannot pass through
        it.
    jac_sparsity : Tensor, array, sparse matrix, ("banded", lower, upper) or Sparsity, optional
        Which entries of the Jacobian may differ from zero, of shape (N, N): where it is made here, it then costs as
        many products, or evaluations, as its columns or rows need colours, and entries outside are taken to be zero. A
        band is given by the numbers of its diagonals below and above the main one. `thalweg.Sparsity` serves many
        solves.
    dense_output : bool
        Whether the solution can be called as a function of time.
    events : callable, Event, or sequence of these
        Functions `event(t, y, *args)` whose zeros are found, recorded in `t_events` and `y_events`, and may end the
        solve (`terminal`) or change its state (`apply`); see `thalweg.Event`.
    rtol, atol : float or Tensor
        The error allowed in each step is `atol + rtol * abs(y)`, in root mean square; a tensor must broadcast against
        y0, and where y0 is a pytree against its leaves one after the other, flattened.
    norm : callable, optional
        norm(e) -> number, in place of the root mean square: how large is the error e, structured as y0 and relative to
        what is allowed? A step is accepted where it is at most 1. Joint batching alone.
    step_size : float, optional
        Take steps of this size, instead of those that the tolerance asks for. Methods without an error estimate need
        it.
    first_step, max_step : float
        The size of the first step and the bound on all.
    min_step : float
        No step is chosen smaller; one of this size is accepted, whatever its error.
    step_ts, jump_ts : Tensor (K,) or sequence of float, or (K, batch) per sample
        Times that no step crosses, in any order, such as those of kinks in the field; an implicit method makes its
        Jacobian anew there. At those of jump_ts the field jumps: a step that ends there evaluates it just before, the
        next one just after; no gradient reaches these times. Rows with times of their own have NaN for those that they
        lack, and stop at no neighbour's. To step on a grid, give its times as step_ts, and a step_size that is no
        smaller than any of its intervals.
    max_steps : int
        The number of steps, rejected ones too, after which a solve fails; with events that change the state, after
        which it does not begin again.
    controller : {"i", "pi", "pid", "gustafsson"} or Controller, optional
        How the step size follows the error; by default "gustafsson" for fully implicit methods, "i", as in SciPy, for
        the others. "pi" is worth a trial where stability limits the steps of an explicit one.
    batching : {"joint", "per_sample"}
        Whose error counts together. `joint`: one step size for all, right for every field. `per_sample`: each row of
        y0 has its own, as if solved alone; rows of the field must not depend on each other.
    shrink : bool
        Per sample, whether rows that have ended leave the batch, in groups, so that a tenth of the evaluations at most
        is in vain. The field is then called with fewer and fewer rows, and must get what belongs to a row by `args`: a
        tensor there whose first dimension is the batch is taken to hold an entry for each row. Worth it where the
        field is dear, or some rows take many more steps than others.
    gradient : str, or an object with options such as Adjoint
        How gradients are made; the guide's page on gradients compares them.
        `checkpointed`, the default, `thalweg.Checkpointed(memory_limit=…, checkpoints=…)`: the exact gradient of what
        was computed, of any order; recorded in one graph as long as that holds no more than 256 MiB, otherwise each
        accepted step is computed again, from as many stored states as memory allows.
        `direct`: the same by backpropagation through the solver, at the memory of all that it did.
        `forward`, `thalweg.Forward(limit=…)`: the same as `direct` by forward-mode differentiation, at a memory that
        does not grow with the steps; for few numbers that need a gradient, and explicit methods.
        `adjoint`, `thalweg.Adjoint(rtol=…)`: the continuous adjoint, solved back in time (Chen et al. 2018), at the
        memory of one step. The default, and the only one, where another library takes the steps.
        `interpolating`, `thalweg.Interpolating(…)`: the same with states from the way there, which a flow that
        contracts needs; at the memory of all steps and their stages, and not with shrink.
        `gauss`, `thalweg.Gauss(…)`: as `interpolating`, with fewer gradients to parameters, at Gauss's nodes.
        `reversible`, `thalweg.Reversible(coupling=…)`: the exact gradient of steps that can be undone (McCallum &
        Foster 2024), by twice the evaluations, at a memory that grows with how much the flow contracts or expands and
        not with the number of steps; explicit Runge–Kutta methods alone.
    callback : callable, optional
        callback(step), called with a `TriedStep` of every step that is tried, kept or not: its `t`, `h`, `y`, `y_new`
        and `accepted`. The solve fails with `Status.STOPPED` where it returns true.
    progress : bool
        Whether to show how far the solve has come, on standard error: a bar over time, the steps taken, and the size
        of the last.
    backend : {"auto", "eager", "native"}
        What runs the loop: PyTorch, operation by operation, or the native engine, which takes a solve whole where it
        can (`thalweg.explain` says whether, and why not). `auto` is the native engine where that is so. It watches
        the field once and runs what it saw; a field that changes, or whose Python matters beyond its result, is left
        to PyTorch.
    on_failure : {"raise", "return"}
        Whether a solve that does not reach t1 raises `SolveError`, or returns with NaN in its place and its status.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        When an argument is not what is described here.
    SolveError
        When the solve does not reach t1 and `on_failure="raise"`.

    Examples
    --------
    The gradient of the end of an exponential decay with respect to its rate, which is -exp(-1):

    >>> import torch, thalweg
    >>> rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> y0 = torch.ones(1, dtype=torch.float64)
    >>> sol = thalweg.solve_ivp(lambda t, y, k: -k * y, (0.0, 1.0), y0, args=(rate,), rtol=1e-9, atol=1e-9)
    >>> sol.ys[-1].sum().backward()
    >>> round(rate.grad.item(), 6)
    -0.367879
    """
    if torch.compiler.is_dynamo_compiling():
        return _uncompiled(
            fun, t_span, y0, method, t_eval, args=args, jac=jac, jac_sparsity=jac_sparsity, dense_output=dense_output,
            events=events, rtol=rtol, atol=atol, norm=norm, step_size=step_size, first_step=first_step,
            max_step=max_step, min_step=min_step, step_ts=step_ts, jump_ts=jump_ts, max_steps=max_steps,
            controller=controller, batching=batching, shrink=shrink, gradient=gradient, callback=callback,
            progress=progress, backend=backend, on_failure=on_failure,
        )  # fmt: skip
    refuse_writing()
    args = args if isinstance(args, tuple) else (args,)  # as SciPy does
    usual = not (
        dense_output or shrink or progress or jac is not None or jac_sparsity is not None or events is not None
        or not (norm is None or isinstance(norm, LargestOfLeaves)) or callback is not None
        or not (no_times(step_ts) and no_times(jump_ts))
        or not (gradient is None or gradient == "checkpointed" or isinstance(gradient, Checkpointed))
    )  # fmt: skip
    key = None
    if usual and backend != "eager":
        key = key_of(
            y0, t_span, t_eval, method, rtol, atol, step_size, first_step, max_step, min_step, max_steps, controller,
            batching, gradient, backend, on_failure, norm,
        )  # fmt: skip
        if key is not None and (again := kept(key, fun, y0, args)) is not None:
            return _solved_again(again, y0, args, on_failure)
    by_row = one_of("batching", batching, ("joint", "per_sample")) == "per_sample"
    one_of("on_failure", on_failure, ("raise", "return"))
    one_of("backend", backend, ("auto", "eager", "native"))
    chosen = _method(method)
    maker = _gradient(gradient, chosen)
    if shrink:
        along = {f"gradient={gradient!r}": isinstance(maker, Continuous) and not maker.whole}
        check_shrink(
            by_row, dense_output=dense_output, events=events is not None, callback=callback is not None, **along
        )
    check_functions(fun, chosen)

    inside = transformed()
    if inside:
        backend = "eager" if backend == "auto" else backend
        refuse_vmap((*pytree.tree_leaves((y0, t_span, t_eval, args)), *all_tensors(fun)))
    layout, packed = layout_of(y0, by_row=by_row)
    rows = packed.shape[0] if by_row else None
    t0, t1 = (
        as_time(name, t, rows, packed)
        for name, t in zip(("t0 in t_span", "t1 in t_span"), ends_of(t_span), strict=True)
    )
    times, padding = (None, None) if t_eval is None else output_times(t_eval, t_span, t0, t1, rows, packed)
    units: Batching = PerSample(packed.shape[0], packed.device) if by_row else Joint()
    choice = _Choice(
        chosen, rtol, atol, norm, step_size, first_step, max_step, min_step, max_steps, controller, step_ts, jump_ts,
        callback,
    )  # fmt: skip

    # a transform has its tangents and gradients at levels of its own, also of what says that it needs none
    timed = inside or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (t0, t1, times)))
    wanted = torch.is_grad_enabled() and (
        timed
        or packed.requires_grad
        or any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(args))
    )
    if dense_output and wanted and maker is not GRADIENTS["direct"]:
        raise ValueError(
            "dense_output carries gradients with gradient='direct' alone; choose that, "
            "ask for times by t_eval, or solve under torch.no_grad()"
        )
    stats = Stats(backend="eager")
    if isinstance(chosen, External):
        stats.backend = chosen.library
        _refuse_looks_inside(chosen, dense_output=dense_output, events=events is not None)
    size = math.prod(packed.shape[1:]) if by_row else packed.numel()
    sparsity = None if jac_sparsity is None else Sparsity.of(jac_sparsity, size)
    field = FIELDS[chosen.pair](fun, args, layout, packed, jac, sparsity=sparsity)
    problem = Problem(
        **choice.parts(field, layout, packed, units),
        y0=packed.detach(),
        t0=units.number(t0.detach()),
        t1=units.number(t1.detach()),
        t_eval=None if times is None else times.detach(),
        dense=dense_output,
        shrink=shrink,
    )
    bar = SolveProgress(problem.t1 - problem.t0) if progress else None
    problem = problem if bar is None else replace(problem, progress=bar)
    check_jacobian(jac, sparsity, chosen.name, problem.stepper.implicit)
    if problem.stepper.implicit and inside:
        raise ValueError(
            f"method {chosen.name!r} makes Jacobians, which torch.func's transforms and forward-mode differentiation "
            "cannot go through; choose an explicit method, or differentiate by torch.autograd"
        )
    if isinstance(maker, Reversible):
        problem = maker.made(problem, chosen.name)
    backward = None
    if isinstance(maker, Continuous) and torch.is_grad_enabled():
        way, state = choice.back(maker), BackState(maker.whole, by_row, turned=isinstance(field, SeparableField))
        back = replace(problem, **way.parts(field, layout, packed, units, state))
        # beside a path the steps are as long as the method of the way there allows: the integral is of its order too
        least = 0 if maker.whole else choice.order
        backward = WayBack(back, state, max(way.order, least), maker.exact and way.order >= least)
    graph_times, run = GraphTimes(t0, t1, times), either(integrate)
    times = None if times is None else blotted(times, padding)
    watched = as_events(events)
    if watched and inside:
        raise ValueError(
            "events do not go with torch.func's transforms and forward-mode differentiation, which do not see how the "
            "times of events move; differentiate by torch.autograd, with .backward() or torch.autograd.grad"
        )
    request = Request(problem, packed, graph_times if timed or watched else None, stats, backward)
    found: Sequence[Found] | None = None if events is None else ()
    t_end = t1
    if watched:
        if backend == "native":
            raise _refused("the engine does not know events")
        with bar or nullcontext():
            evented = solve_with_events(run, maker, request, watched)
        ys, result, t_end, found = evented.ys, evented.result, evented.t_end, evented.found
    else:
        engine = None if backend == "eager" else _engine(chosen, maker, request, run, insist=backend == "native")
        with bar or nullcontext():
            ys, result = (maker if engine is None else engine).run(run, request)
        if engine is not None and key is not None and not timed and padding is None:
            keep(key, fun, args, engine)
    if timed:
        ys, result = with_moving_starts(ys, result, request)
    ys = blotted(ys, padding)
    return _solution(problem, result, ys, t0, t_end, times, stats, layout.unpack, packed, on_failure, found)


_uncompiled = torch._compile._disable_dynamo(solve_ivp)
"""`solve_ivp` where torch.compile reads what calls it: a solve is run as it is, and no part of it compiled, as it goes
by the numbers in tensors. Without the import of `torch.compiler.disable`, which takes a second."""


@dataclass(frozen=True)
class _Choice:
    """How steps are taken, as `solve_ivp` is told; what the adjoint may choose anew for its own solve."""

    method: str | Method | External
    rtol: float | Tensor | AsGiven
    atol: float | Tensor
    norm: Callable[..., float | Tensor] | None
    step_size: float | None
    first_step: float | None
    max_step: float
    min_step: float
    max_steps: int
    controller: Controller | str | None
    step_ts: Tensor | Sequence[float]
    jump_ts: Tensor | Sequence[float]
    callback: Callable[[TriedStep], bool | None] | None

    def back(self, gradient: Continuous) -> _Choice:
        """The choice of a solve back in time."""
        given = gradient.given()
        if given.keys() & {"step_size", "first_step", "controller"}:  # they exclude each other
            given = {"step_size": None, "first_step": None, "controller": None, **given}
        norm = self.norm
        largest = None if norm is None else lambda *parts: max(float(norm(part)) for part in parts)
        return replace(self, **{"norm": largest, "callback": None, **given})

    @property
    def order(self) -> int:
        """That of the method; 0 where another library changes it."""
        method = _method(self.method)
        return 0 if isinstance(method, External) else method.order

    def parts(
        self, field: Field, layout: Layout, y0: Tensor, units: Batching, back: BackState | None = None
    ) -> dict[str, Any]:
        """What the loop needs to know, checked; `back`: how a solve back in time makes its state of those like y0."""
        method = _method(self.method)
        tolerance = as_tolerance(self.rtol, self.atol, y0)
        if back is not None:
            if not isinstance(field, FIELDS[method.pair]):
                raise ValueError(
                    f"the way back cannot be by method {method.name!r}, which takes two functions that fun does not "
                    "give; choose another, such as thalweg.Adjoint(method='tsit5')"
                )
            y0, tolerance = back.join(y0, y0), back.tolerance(tolerance)
        control, first = _control(method, self.controller, self.step_size, self.first_step)
        if self.max_step != math.inf:
            positive("max_step", self.max_step)
        if not (is_number(self.min_step) and 0 <= self.min_step <= self.max_step):
            raise ValueError(f"min_step must lie between 0 and max_step, {self.max_step}, got {self.min_step!r}")
        if units.by_row and self.norm is not None:
            raise ValueError("norm is one for all rows of y0 and needs batching='joint'")
        if not (self.norm is None or callable(self.norm)):
            raise ValueError(f"norm must be callable as norm(e) -> number, got {type(self.norm).__name__}")
        if not (self.callback is None or callable(self.callback)):
            raise ValueError(f"callback must be callable as callback(step), got {type(self.callback).__name__}")
        rows = y0.shape[0] if units.by_row else None
        stops = Stops.of(*(stop_times(name, getattr(self, name), rows, y0.device) for name in ("step_ts", "jump_ts")))
        wide = wide_dtype(y0.device)
        stepper: Stepper | ExternalStepper
        if isinstance(method, External):
            self._check_external(method, stops is not None)
            stepper = ExternalStepper(method, y0, by_row=units.by_row)
        else:
            fixed = not control.adaptive
            stepper = stepper_for(method.data, y0, by_row=units.by_row, tolerance=tolerance, fixed=fixed)
        return {
            "field": field.with_jumps(None if stops is None else stops.jumps),
            "stepper": stepper,
            "controller": control,
            "batching": units if self.norm is None else _joint(self.norm, layout, back),
            "tolerance": tolerance,
            "first_step": None if first is None else units.number(torch.tensor(first, dtype=wide, device=y0.device)),
            "max_step": float(self.max_step),
            "min_step": float(self.min_step),
            "max_steps": positive_integer("max_steps", self.max_steps),
            "stops": stops,
            "callback": None if self.callback is None else _callback(self.callback, layout, back),
        }

    def _check_external(self, method: External, stops: bool) -> None:
        """Refuse what another library's steps do not know."""
        asked = {
            "step_size": self.step_size is not None,
            "controller": self.controller is not None,
            "norm": self.norm is not None,
            "min_step": self.min_step > 0,
            "step_ts or jump_ts": stops,
            "callback": self.callback is not None,
        }
        if any(asked.values()):
            name = next(name for name, there in asked.items() if there)
            raise ValueError(
                f"method {method.name!r} chooses its steps by itself and takes no {name}; leave it out, or choose a "
                "method of thalweg's own"
            )


def _joint(norm: Callable[..., float | Tensor], layout: Layout, back: BackState | None) -> Joint:
    """One step size for all, by the user's norm of a packed error."""

    def size(error: Tensor) -> float:
        found = norm(*(layout.unpack(part) for part in ([error] if back is None else back.split(error))))
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"norm must return one number, how large the error is, but returned {got}") from None

    return Joint(size, by_leaf=isinstance(norm, LargestOfLeaves))


def _callback(
    callback: Callable[[TriedStep], bool | None], layout: Layout, back: BackState | None
) -> Callable[[Step, Number, Number, Tensor, Flag], bool | None]:
    """The user's callback as the loop calls it."""

    def state(y: Tensor) -> Any:
        y = y.detach()
        return layout.unpack(y if back is None else back.split(y)[0])

    return lambda step, t, h, y, accept: callback(TriedStep(t, h, state(y), state(step.y), accept))


def _method(method: str | Method | RungeKutta | External) -> Method | External:
    """The method of that name, thalweg's own or another library's, or one from its coefficients."""
    if isinstance(method, External):
        return method
    return get_external(method) if isinstance(method, str) and ":" in method else as_method(method)


def _refuse_looks_inside(method: External, *, dense_output: bool, events: bool) -> None:
    """Refuse what needs states inside steps of another library's."""
    if dense_output or events:
        name, instead = ("events", "") if events else ("dense_output", "ask for times by t_eval, or ")
        raise ValueError(f"method {method.name!r} knows no {name}; {instead}choose a method of thalweg's own")


def _gradient(gradient: str | GradientMethod | None, method: Method | External) -> GradientMethod:
    """The gradient method of that name, or the object itself."""
    external = isinstance(method, External)
    inside = transformed()
    if gradient is None:
        gradient = "adjoint" if external else "direct" if inside else "checkpointed"
    if inside and gradient != "direct":
        raise ValueError(
            "torch.func's transforms and forward-mode differentiation go through every operation, as gradient='direct' "
            f"does, the default there; got method {method.name!r} with gradient {gradient!r}"
        )
    if external and gradient != "adjoint" and not isinstance(gradient, Adjoint):
        raise ValueError(
            f"the steps of method {method.name!r} are in no graph: choose gradient='adjoint' or a thalweg.Adjoint(), "
            f"got {gradient!r}"
        )
    if isinstance(gradient, str):
        return GRADIENTS[one_of("gradient", gradient, tuple(GRADIENTS))]
    if isinstance(gradient, type) or not callable(getattr(gradient, "run", None)):
        names = ", ".join(map(repr, GRADIENTS))
        raise ValueError(f"gradient must be one of {names} or an object such as thalweg.Adjoint(), got {gradient!r}")
    return gradient


def _solution(
    problem: Problem,
    result: Result,
    ys: Tensor,
    t0: Tensor,
    t1: Tensor,
    times: Tensor | None,
    stats: Stats,
    unpack: Callable[[Tensor], Any],
    y0: Tensor,
    on_failure: str,
    found: Sequence[Found] | None = None,
) -> Solution:
    """What came of the loop, in the words of the front door."""
    counts = (result.nfev, result.n_steps, result.n_accepted, result.njev, result.nlu)
    stats.nfev, stats.n_steps, stats.n_accepted, stats.njev, stats.nlu = (
        unwrapped(count) if isinstance(count, Tensor) else count  # a module keeps them beyond a transform
        for count in counts
    )
    status = result.status if isinstance(result.status, Tensor) else Status(result.status)
    dense = result.dense
    sol = Solution(
        ts=torch.stack([t0, t1]) if times is None else times,
        ys=unpack(ys),
        status=status,
        stats=stats,
        sol=None if dense is None else dense.finish(problem.stepper, y0, problem.t0, result.t, unpack),
        note=result.note,
    )
    if found is not None:
        shown = [part.shown() for part in found]
        sol.t_events, sol.y_events = [t for t, _ in shown], [unpack(y) for _, y in shown]
    if anywhere(negate(sol.success)):
        _raise_where_asked(sol, result.t, on_failure)
    return sol


def _raise_where_asked(sol: Solution, reached: float | Tensor, on_failure: str) -> None:
    """An error for a solve that failed, unless a person wants to have it as it is."""
    if on_failure == "raise":
        failed = reached[~sol.success].tolist() if isinstance(reached, Tensor) else [reached]
        first, last = min(failed), max(failed)
        where = f"at t = {first:g}" if first == last else f"at times from {first:g} to {last:g}"
        raise SolveError(f"the solve failed {where}: {sol.message} (on_failure='return' keeps what was computed)", sol)


def _solved_again(engine: Native, y0: Any, args: Any, on_failure: str) -> Solution:
    """A solve whose way is known."""
    stats, layout = Stats(backend="native"), engine.layout
    ys, call = engine.call(layout.pack(y0), args, None, stats)
    status = call.status if isinstance(call.status, Tensor) else STATUSES[call.status]
    sol = Solution(ts=engine.times.clone(), ys=layout.unpack(ys), status=status, stats=stats)
    if not call.succeeded:
        _raise_where_asked(sol, call.ends[0], on_failure)
    return sol


LEFT_TO_PYTORCH = {
    "euler": "Euler's method is left to PyTorch, whose rounding makes it a residual network to the last bit; "
    "backend='native' takes it"
}
"""Methods that the engine has and backend="auto" does not give it, and why."""


def _engine(
    method: Method | External, gradient: GradientMethod, request: Request, run: Integrate, *, insist: bool
) -> Native | None:
    """The native engine, where it takes the solve; None otherwise, unless a person insists on it."""
    try:
        if isinstance(method, External):
            raise Unsuitable(f"the steps of method {method.name!r} are those of another library")
        if isinstance(gradient, Reversible):
            raise Unsuitable("the steps of gradient='reversible' are of another kind")
        if not insist and method.name in LEFT_TO_PYTORCH and not isinstance(gradient, DirectOrNative):
            raise Unsuitable(LEFT_TO_PYTORCH[method.name])
        found = chosen_engine(method, gradient, request, run, insist=insist)
        if not insist and is_too_wide(found.trace, found.samples):
            raise Unsuitable(TOO_WIDE)
    except Unsuitable as refusal:
        if insist:
            raise _refused(refusal.reason) from None
        return None
    request.stats.backend = "native"
    return found


def _refused(reason: str) -> Unsuitable:
    return Unsuitable(reason, f"backend='native' cannot take this solve: {reason}; leave out backend")


_USUAL = {"firk": "gustafsson"}
"""The controllers of kinds of methods that do not have the I controller: those that solve for all stages at once pay
dearly for a step that is rejected, and for a matrix."""


def _control(
    method: Method | External, controller: Controller | str | None, step_size: float | None, first_step: float | None
) -> tuple[Controller, float | None]:
    """The controller, and the size of the first step where it is given."""
    if step_size is not None:
        positive("step_size", step_size)
        if controller is not None or first_step is not None:
            raise ValueError("step_size fixes every step; leave out controller and first_step")
        return Fixed(), float(step_size)
    if isinstance(controller, str):
        controller = CONTROLLERS[one_of("controller", controller, tuple(CONTROLLERS))]
    usual = CONTROLLERS[_USUAL.get(method.kind, "i") if isinstance(method, Method) else "i"]
    control: Controller = usual if controller is None else controller
    if isinstance(control, type) or not callable(getattr(control, "adapt", None)):
        raise ValueError(
            f"controller must be one of {', '.join(map(repr, CONTROLLERS))} or an object such as thalweg.PID(), "
            f"got {controller!r}"
        )
    if control.adaptive and not method.adaptive:
        instead = "" if method.pair else ", or choose an adaptive method such as 'tsit5'"
        raise ValueError(f"method {method.name!r} has no error estimate; give step_size={instead}")
    if not control.adaptive and first_step is None:
        raise ValueError("a controller of fixed steps needs the size of the step: give step_size=")
    return control, None if first_step is None else positive("first_step", first_step)
