"""Which backend takes a solve, and the native engine as a part of PyTorch's graph.

y0: (B, *D) or (*D), packed; the engine sees (samples, rows). Times are float64: 0-d, or (B,) where rows have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.arithmetic import most
from ..core.field import Field, FieldLike
from ..core.solution import Stats
from ..core.state import Layout
from ..gradients import Checkpointed, GradientMethod
from ..gradients.base import Integrate, Request
from ..gradients.direct import Direct
from ..gradients.higher import Recipe, gradients_of, in_graph
from ..gradients.transforms import has_tangent, refuse_cotangent
from ..loop.integrate import GraphTimes, Problem, Result
from ..methods import Method
from ..methods.rosenbrock import Rosenbrock
from ..methods.tableau import Tableau
from ..output.saving import EndSaver
from ..stepsize.controllers import PID, Fixed
from . import native
from .builder import Untraceable
from .cache import cached_trace, valid_trace
from .program import Program
from .reference import evaluate
from .trace import Trace, any_time, in_memory, leaves_of, surroundings


class Unsuitable(ValueError):
    """A solve that the native engine does not take.

    Parameters
    ----------
    reason : str
        Why, in a sentence without its end.
    message : str, optional
        What to tell a person who insists.
    """

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(message or reason)
        self.reason = reason


@dataclass(eq=False, slots=True)
class Native:
    """The native engine, ready to take solves of one field from states of one shape.

    Attributes
    ----------
    trace : Trace
        The field.
    solve : native.Solve
        How it is carried.
    problem : Problem
        The same for the eager loop, which makes derivatives of gradients; its field and its state are given anew.
    integrate : callable
        That loop.
    differentiable : bool
        Whether the engine's gradient is the one that was asked for.
    """

    trace: Trace
    solve: native.Solve
    problem: Problem
    integrate: Integrate
    differentiable: bool

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """The outputs (T, *y0.shape), as part of the graph where that is wanted, and what the loop would report."""
        stats, y0 = request.stats, request.problem.y0
        ys, call = self.call(request.y0, request.field.args, request.times, stats)
        t, h = call.ends
        end = ys.detach()[-1] if len(ys) else y0
        return ys, Result(
            ys.detach(), call.status, stats.n_steps, stats.n_accepted, stats.nfev, EndSaver(y0), None, t, h, end,
            stats.njev, stats.nlu,
        )  # fmt: skip

    def call(self, y0: Tensor, args: Any, times: GraphTimes | None, stats: Stats) -> tuple[Tensor, Call]:
        """The outputs, and what is known of the solve."""
        samples = y0.shape[0] if self.trace.rows else 1
        own: list[Tensor] = []
        if self.trace.batched:
            leaves = leaves_of(args)
            own = [in_memory(leaves[i].reshape(samples, -1)) for i in self.trace.batched]
        shared = self.trace.shared(args)
        call = Call(self, samples, len(own), stats)
        if torch.is_grad_enabled() and (times is not None or any(x.requires_grad for x in (y0, *own, *shared))):
            three = (None, None, None) if times is None else (times.t0, times.t1, times.t_eval)
            return cast(Tensor, _apply(call, y0, *three, *own, *shared)), call
        return call.forward(y0, (*own, *shared), record=False), call


TOO_WIDE = "it is one sample of so many numbers that PyTorch is faster"
"""Why it takes a solve that the engine could, unless a person insists."""


def is_too_wide(trace: Trace, samples: int) -> bool:
    """Whether one sample alone has so many numbers: it fills one lane, and all others compute along.

    A number costs some 13 ns then; an operation of PyTorch's costs 6 µs, and its loop a tenth of a millisecond.
    """
    program = trace.program
    alone = not trace.rows or samples == 1
    return alone and sum(program.sizes) > 8000 + 500 * len(program.instructions)


_KEPT = 32
"""The most ways to solve that are kept for one trace."""


def keep(key: Any, found: Native) -> None:
    """Keep what was chosen for a solve, to be had again by its key."""
    plans = found.trace.plans
    if len(plans) >= _KEPT:
        plans.clear()
    plans[key] = (found.solve, found.problem, found.integrate, found.differentiable)


def kept(key: Any, fun: Any, y0: Tensor, args: tuple[Any, ...], *, by_row: bool) -> Native | None:
    """What was chosen for a solve that is alike in all but the numbers in its state and arguments; None if nothing.

    The field is looked at anew: where something that it reads has changed, so has its trace, and nothing is kept.
    """
    if surroundings() is not None:
        return None
    trace = valid_trace(fun, y0, args if isinstance(args, tuple) else (args,), by_row=by_row)
    parts = None if trace is None else trace.plans.get(key)
    found = None if trace is None or parts is None else Native(trace, *parts)
    if found is None or found.differentiable or not torch.is_grad_enabled():
        return found
    return None if _wanted(found.trace, y0, args) else found


_OTHER_GRADIENT = "the engine's gradient is that of gradient='checkpointed'"


def chosen(method: Method, gradient: GradientMethod, request: Request, integrate: Integrate) -> Native:
    """The native engine for a solve; `integrate` is the eager loop.

    Raises
    ------
    Unsuitable
        Where it does not take that, in a sentence that says why.
    """
    problem = request.problem
    reason = _unsuitable(problem, method)
    if reason is not None:
        raise Unsuitable(reason)
    field, y0 = request.field, request.y0
    by_row = problem.batching.by_row
    exact = isinstance(gradient, Checkpointed)
    given = [y0, *(x for x in pytree.tree_leaves(field.args) if isinstance(x, Tensor))]
    if torch.is_grad_enabled() and not exact and (request.times is not None or any(x.requires_grad for x in given)):
        raise Unsuitable(_OTHER_GRADIENT)
    time = any_time(y0, by_row=by_row)
    try:
        trace = cached_trace(field.fun, time, field.layout.unpack(request.y0.detach()), field.args, by_row=by_row)
    except Untraceable as error:
        raise Unsuitable(str(error)) from None
    except Exception as error:  # the eager loop asks the field in earnest, and what is wrong with it is told there
        raise Unsuitable(f"the field could not be watched: {type(error).__name__}: {error}") from None
    samples = y0.shape[0] if trace.rows else 1
    if isinstance(method.data, Rosenbrock) and y0.numel() > samples * _LARGEST_JACOBIAN:
        raise Unsuitable(f"the engine makes Jacobians of up to {_LARGEST_JACOBIAN} rows, got {y0.numel() // samples}")
    if torch.is_grad_enabled() and (request.times is not None or _wanted(trace, request.y0, field.args)):
        if isinstance(method.data, Rosenbrock):
            raise Unsuitable("the engine's gradient is that of explicit methods")
        if not exact:
            raise Unsuitable(_OTHER_GRADIENT)
    if isinstance(gradient, Checkpointed) and gradient.checkpoints is not None:
        raise Unsuitable("the engine stores each accepted step, and knows no checkpoints=")
    limit = gradient.memory_limit if isinstance(gradient, Checkpointed) else 0
    differentiable = exact and isinstance(method.data, Tableau)
    solve = _solve(problem, method, trace, samples, limit)
    # what is kept holds neither the field nor its state
    problem = replace(problem, field=cast(FieldLike, None), y0=y0.new_empty(0))
    return Native(trace, solve, problem, integrate, differentiable)


def _unsuitable(problem: Problem, method: Method) -> str | None:
    """Why the engine does not take a problem, its field aside."""
    if not native.AVAILABLE:
        return "the native engine was not built, as there was no C++ compiler when thalweg was installed"
    y0 = problem.y0
    asked = {
        "step_ts or jump_ts": problem.stops is not None,
        "a callback": problem.callback is not None,
        "a progress bar": problem.progress is not None,
        "dense_output": problem.dense,
        "shrink": problem.shrink,
    }
    if any(asked.values()):
        return f"the engine does not know {next(name for name, there in asked.items() if there)}"
    if y0.device.type != "cpu" or y0.dtype not in (torch.float32, torch.float64):
        return f"the engine takes states of float32 or float64 on the CPU, got {y0.dtype} on {y0.device}"
    if y0.numel() == 0:
        return "the state is empty"
    if not _has(method.data):
        return f"the engine has explicit Runge–Kutta and Rosenbrock methods, and {method.name!r} is none"
    if not isinstance(problem.controller, PID | Fixed):
        return f"the engine has the controllers PID and Fixed, got {type(problem.controller).__name__}"
    if getattr(problem.batching, "norm", None) is not None:
        return "the engine does not know a norm of one's own"
    if torch.is_autocast_enabled("cpu"):
        return "the field is evaluated in another dtype by torch.autocast"
    if type(problem.field) is not Field:
        return "the field is a pair of functions"
    if problem.field.jac is not None or problem.field.sparsity is not None:
        return "the engine makes Jacobians by itself, without jac or jac_sparsity"
    return None


_MOST_STAGES = 64
"""Of a method, extra ones of its interpolant too."""
_LARGEST_JACOBIAN = 64
"""The most rows of one that is made for each sample."""


def _has(data: Any) -> bool:
    """Whether the engine has a method."""
    if isinstance(data, Tableau):
        return data.stages + data.dense_evaluations <= _MOST_STAGES
    return isinstance(data, Rosenbrock) and data.stages <= _MOST_STAGES


def _wanted(trace: Trace, y0: Tensor, args: Any) -> bool:
    """Whether anything but the times needs a gradient."""
    leaves = leaves_of(args)
    return any(x.requires_grad for x in (y0, *(leaves[i] for i in trace.batched), *trace.shared(args)))


def _solve(problem: Problem, method: Method, trace: Trace, samples: int, memory_limit: int) -> native.Solve:
    """The call of the engine."""
    by_row, y0 = problem.batching.by_row, problem.y0
    ends = [torch.as_tensor(t, dtype=torch.float64, device="cpu") for t in (problem.t0, problem.t1)]
    first = problem.first_step
    if isinstance(first, Tensor):
        first = float(first[0])
    rtol, atol = (_of_entries(x, y0, trace.rows) for x in (problem.tolerance.rtol, problem.tolerance.atol))
    t_eval = problem.t_eval
    if t_eval is not None and by_row and t_eval.stride(1) == 0:
        t_eval = t_eval[:, 0]
    data, controller = method.data, problem.controller
    assert isinstance(data, Tableau | Rosenbrock)
    assert isinstance(controller, PID | Fixed)
    return native.Solve(
        _compiled(trace),
        native.method(data),
        native.control(
            controller,
            joint=not by_row,
            first_step=first,
            max_step=problem.max_step,
            min_step=problem.min_step,
            max_steps=problem.max_steps,
        ),
        torch.stack(ends),
        # the user may write into theirs
        None if t_eval is None else t_eval.to(torch.float64, copy=True).contiguous(),
        rtol,
        atol,
        memory_limit,
    )


_PROGRAMS: WeakKeyDictionary[Trace, Any] = WeakKeyDictionary()


def _compiled(trace: Trace) -> Any:
    """The program of a trace as the engine holds it, made once."""
    found = _PROGRAMS.get(trace)
    if found is None:
        found = _PROGRAMS[trace] = native.compiled(trace.program)
    return found


def _of_entries(tolerance: float | Tensor, y0: Tensor, rows: bool) -> Tensor:
    """A tolerance, one for all entries of a sample's state or for each."""
    if not isinstance(tolerance, Tensor) or tolerance.ndim == 0:
        return torch.as_tensor(tolerance, dtype=y0.dtype, device="cpu")
    if not rows:
        return tolerance.reshape(-1).contiguous()
    if len(tolerance) > 1 and not bool((tolerance == tolerance[:1]).all()):
        raise Unsuitable("rtol and atol differ from row to row")
    return tolerance[0].reshape(-1).contiguous()


class Call:
    """One solve by the engine, and its way back.

    Attributes
    ----------
    status : int or Tensor (B,)
    succeeded : bool
        Whether every sample came to its end.
    ends : two of float, or Tensor (2, B)
        The time reached and the size of the next step.
    """

    __slots__ = ("backend", "ends", "held", "own", "recording", "samples", "stats", "status", "succeeded")
    status: Any
    succeeded: bool
    ends: Sequence[Any] | Tensor

    def __init__(self, backend: Native, samples: int, own: int, stats: Stats) -> None:
        self.backend, self.samples, self.own, self.stats = backend, samples, own, stats
        self.recording: Any = None
        self.held: tuple[Tensor, ...] = ()  # what the recording points to

    def forward(self, y0: Tensor, tensors: Sequence[Tensor], *, record: bool, times_wanted: bool = False) -> Tensor:
        """Solve."""
        whole, by_row = y0.ndim == 2 and self.backend.trace.rows, self.backend.problem.batching.by_row
        flat = in_memory(y0 if whole else y0.reshape(self.samples, -1))
        ys, self.recording, self.succeeded, counts, self.ends = self.backend.solve.run(
            flat, tensors[: self.own], tensors[self.own :], each=by_row, record=record, times_wanted=times_wanted
        )
        if record:
            self.held = (flat, *tensors)
        if not whole:
            ys = ys.view(ys.shape[0], *y0.shape)
        stats = self.stats
        self.status, stats.n_steps, stats.n_accepted, stats.nfev, stats.njev, stats.nlu = counts
        if not self.succeeded and not by_row and self.backend.solve.t_eval is None:
            ys[-1].fill_(torch.nan)  # one sample that fails fails all
        return ys

    def backward(
        self, cotangent: Tensor, needed: Sequence[bool], sources: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The gradients to the sources that need one: y0, t0, t1, t_eval, own arguments, shared tensors."""
        y0, *times = sources[:4]
        to_y0, *to_tensors = (
            torch.zeros_like(x) if wanted else None
            for x, wanted in zip(self.held, (needed[0], *needed[4:]), strict=True)
        )

        def room(i: int, *shape: int) -> Tensor | None:
            return torch.zeros(shape, dtype=torch.float64, device="cpu") if needed[i] else None

        to_times = (room(1, self.samples), room(2, self.samples), room(3, cotangent.shape[0], self.samples))
        whole = cotangent.ndim == 3 and self.backend.trace.rows
        flat = in_memory(cotangent if whole else cotangent.reshape(cotangent.shape[0], *self.held[0].shape))
        own, shared = to_tensors[: self.own], to_tensors[self.own :]
        self.stats.nfev_backward += native.pull_back(self.recording, flat, to_y0, *to_times, own, shared)
        if to_y0 is not None and y0 is not None and not whole:
            to_y0 = to_y0.view(y0.shape)
        by_row = self.backend.problem.batching.by_row
        summed = (g if g is None or by_row else g.sum(-1) for g in to_times)
        found = [None if g is None or t is None else g.to(t.dtype) for g, t in zip(summed, times, strict=True)]
        return [to_y0, *found, *to_tensors]

    def in_graph(
        self, gradients: Sequence[Tensor | None], cotangent: Tensor, sources: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The same gradients, which are those of the eager loop where they are differentiated."""
        there = {i: x for i, x in enumerate(sources) if x is not None}
        present = {i: g for i, g in enumerate(gradients) if g is not None}

        def values(given: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
            copies = dict(zip(there, given[1:], strict=True))
            return self._pulled(given[0], [copies.get(i) for i in range(len(sources))], list(present), create_graph)

        found = in_graph(
            Recipe(values, [False] * (1 + len(there))), list(present.values()), [cotangent, *there.values()]
        )
        linked = dict(zip(present, found, strict=True))
        return [linked.get(i) for i in range(len(sources))]

    def backward_by_pytorch(
        self, cotangent: Tensor, needed: Sequence[bool], sources: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The gradients from what PyTorch alone can read: many cotangents at once in disguise, or a dual number."""
        create_graph = torch.is_grad_enabled()
        wanted = [i for i, (x, need) in enumerate(zip(sources, needed, strict=True)) if need and x is not None]
        with torch.enable_grad():
            # views: a source may have been made of another one, whose gradient is that of the other
            views = [None if x is None else x.view_as(x) for x in sources]
            try:
                linked = dict(zip(wanted, self._pulled(cotangent, views, wanted, create_graph), strict=True))
            except RuntimeError as error:
                refuse_cotangent(cotangent, error)
                raise
        return [linked.get(i) for i in range(len(sources))]

    def _pulled(
        self, cotangent: Tensor, sources: Sequence[Tensor | None], wanted: Sequence[int], create_graph: bool
    ) -> Sequence[Tensor]:
        """The gradients to the sources of those numbers, by the eager loop."""
        asked = [x for i in wanted if (x := sources[i]) is not None]
        return gradients_of([self._solved_from(sources)], asked, [cotangent], create_graph)

    def _solved_from(self, sources: Sequence[Tensor | None]) -> Tensor:
        """The outputs by the eager loop from those in place of the sources, with the program as its field."""
        y0, t0, t1, t_eval, *tensors = sources
        assert y0 is not None
        times = None if t0 is None or t1 is None else GraphTimes(t0, t1, t_eval)
        problem = self.backend.problem
        fun = _program_field(self.backend.trace.program, self.samples, self.own)
        field = Field(fun, tuple(tensors), Layout(None, (y0.shape,), problem.batching.by_row), y0)
        problem = replace(problem, field=field, y0=y0.detach())
        ys, again = Direct().run(self.backend.integrate, Request(problem, y0, times, self.stats))
        self.stats.nfev_backward += most(again.nfev)
        return ys


def _program_field(program: Program, samples: int, own: int) -> Callable[..., Tensor]:
    """A program as a function of time, state, own arguments and shared tensors."""

    def fun(t: Tensor, y: Tensor, *tensors: Tensor) -> Tensor:
        time = t.reshape(-1, 1).expand(samples, 1)
        inputs = [time, y.reshape(samples, -1), *tensors[:own]]
        return evaluate(program, inputs, tensors[own:]).reshape(y.shape)

    return fun


class _Function(torch.autograd.Function):
    """How PyTorch sees a `Call`."""

    @staticmethod
    def forward(ctx: Any, call: Call, y0: Tensor, *sources: Tensor | None) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(y0, *sources)  # so that a change in place before the backward pass is an error
        tensors = [x for x in sources[3:] if x is not None]
        return call.forward(y0, tensors, record=True, times_wanted=any(x is not None for x in sources[:3]))

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        call, sources, needed = ctx.call, ctx.saved_tensors, ctx.needs_input_grad[1:]
        if not torch._C._has_storage(cotangent) or has_tangent(cotangent):
            return (None, *call.backward_by_pytorch(cotangent, needed, sources))
        if not torch.is_grad_enabled():
            return (None, *call.backward(cotangent, needed, sources))
        with torch.no_grad():  # create_graph=True
            gradients = call.backward(cotangent, needed, sources)
        return (None, *call.in_graph(gradients, cotangent, sources))


_apply = super(torch.autograd.Function, _Function).apply
"""`_Function.apply` without its look at transforms of torch.func, which `surroundings` has had."""
