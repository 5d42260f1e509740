"""The native engine, ready to solve, and its solves as a part of PyTorch's graph.

y0: (B, *D) or (*D), packed; the engine sees (samples, rows). Times are float64: 0-d, or (B,) where rows have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from ..core.arithmetic import most
from ..core.compiled import in_memory
from ..core.compiled import native as compiled
from ..core.field import Field
from ..core.solution import Stats
from ..core.state import Layout
from ..gradients.base import Integrate, Request
from ..gradients.direct import Direct
from ..gradients.higher import Recipe, gradients_of, in_graph
from ..gradients.transforms import has_tangent, refuse_cotangent
from ..loop.integrate import GraphTimes, Problem, Result
from ..output.dense import DenseSteps
from ..output.saving import EndSaver
from . import native
from .program import Program
from .reference import evaluate
from .trace import Trace, leaves_of, own_rows


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
    layout : Layout
        How the state is packed for it.
    samples : int
    times : Tensor (T,) or (T, B)
        Those of the outputs.
    """

    trace: Trace
    solve: native.Solve
    problem: Problem
    integrate: Integrate
    differentiable: bool
    layout: Layout
    samples: int
    times: Tensor

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """The outputs (T, *y0.shape), as part of the graph where that is wanted, and what the loop would report."""
        stats, y0, layout = request.stats, request.problem.y0, request.field.layout
        start = layout.repacked(request.y0, self.layout)
        ys, call = self.call(start, request.field.args, request.times, stats, dense=request.problem.dense)
        ys = self.layout.repacked(ys, layout)
        t, h = call.ends
        dense = None if call.steps is None else self._inside(call, start, layout)
        end = ys.detach()[-1] if len(ys) else y0
        return ys, Result(
            ys.detach(), call.status, stats.n_steps, stats.n_accepted, stats.nfev, EndSaver(y0), dense, t, h, end,
            stats.njev, stats.nlu,
        )  # fmt: skip

    def _inside(self, call: Call, y0: Tensor, layout: Layout) -> DenseSteps:
        """The steps that were taken, packed as that layout says."""
        by_row, stages = self.problem.batching.by_row, self.problem.stepper.stages
        ends = torch.as_tensor(call.ends[0], dtype=torch.float64, device="cpu").expand(self.samples)
        steps = native.dealt_out(call.steps, stages, y0.reshape(self.samples, -1), ends)
        t, h = (x if by_row else x[:, 0] for x in (steps.t, steps.h))
        y = self.layout.repacked(steps.y.view(-1, *y0.shape), layout)
        slopes = self.layout.repacked(steps.slopes.view(*steps.slopes.shape[:2], *y0.shape), layout)
        return DenseSteps(t, h, y, slopes)

    def call(
        self, y0: Tensor, args: Any, times: GraphTimes | None, stats: Stats, *, dense: bool = False
    ) -> tuple[Tensor, Call]:
        """The outputs, and what is known of the solve; `dense`: the steps too."""
        samples = self.samples
        own: list[Tensor] = []
        if self.trace.batched:
            leaves = leaves_of(args)
            own = [own_rows(leaves[i], samples, y0.dtype) for i in self.trace.batched]
        shared = self.trace.shared(args)
        call = Call(self, samples, len(own), stats)
        if torch.is_grad_enabled() and (times is not None or any(x.requires_grad for x in (y0, *own, *shared))):
            three = (None, None, None) if times is None else (times.t0, times.t1, times.t_eval)
            return cast(Tensor, _apply(call, y0, *three, *own, *shared)), call
        return call.forward(y0, (*own, *shared), record=False, dense=dense), call


class Call:
    """One solve by the engine, and its way back.

    Attributes
    ----------
    status : int or Tensor (B,)
    succeeded : bool
        Whether every sample came to its end.
    ends : two of float, or Tensor (2, B)
        The time reached and the size of the next step.
    steps : Any
        Those that were taken, where they are asked for.
    """

    __slots__ = ("backend", "ends", "held", "own", "recording", "samples", "stats", "status", "steps", "succeeded")
    status: Any
    succeeded: bool
    ends: Sequence[Any] | Tensor

    def __init__(self, backend: Native, samples: int, own: int, stats: Stats) -> None:
        self.backend, self.samples, self.own, self.stats = backend, samples, own, stats
        self.recording: Any = None
        self.held: tuple[Tensor, ...] = ()  # what the recording points to

    def forward(
        self,
        y0: Tensor,
        tensors: Sequence[Tensor],
        *,
        record: bool,
        times_wanted: bool = False,
        dense: bool = False,
    ) -> Tensor:
        """Solve."""
        whole, by_row = y0.ndim == 2 and self.backend.trace.rows, self.backend.problem.batching.by_row
        flat = in_memory(y0 if whole else y0.reshape(self.samples, -1))
        own, shared = tensors[: self.own], tensors[self.own :]
        ys, self.recording, self.succeeded, counts, self.ends, self.steps = self.backend.solve.run(
            flat, own, shared, each=by_row, record=record, times_wanted=times_wanted, dense=dense
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
        start, *tensors = self.held
        to_y0 = torch.empty_like(start) if needed[0] else None
        to_tensors = [torch.empty_like(x) if need else None for x, need in zip(tensors, needed[4:], strict=True)]
        to_times: list[Tensor | None] = [None, None, None]
        for i, shape in enumerate(((self.samples,), (self.samples,), (cotangent.shape[0], self.samples))):
            if needed[1 + i]:
                to_times[i] = torch.empty(shape, dtype=torch.float64, device="cpu")
        whole = cotangent.ndim == 3 and self.backend.trace.rows
        flat = in_memory(cotangent if whole else cotangent.reshape(cotangent.shape[0], *start.shape))
        own, shared = to_tensors[: self.own], to_tensors[self.own :]
        self.stats.nfev_backward += compiled.pull_back(self.recording, flat, to_y0, *to_times, own, shared)
        if to_y0 is not None and y0 is not None and not whole:
            to_y0 = to_y0.view(y0.shape)
        for i, (g, t) in enumerate(zip(to_times, times, strict=True)):
            if g is not None and t is not None:
                to_times[i] = (g if self.backend.problem.batching.by_row else g.sum(-1)).to(t.dtype)
        return [to_y0, *to_times, *to_tensors]

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
        if torch.compiler.is_dynamo_compiling():  # as in gradients/base.py
            return _uncompiled(ctx, cotangent)
        call, sources, needed = ctx.call, ctx.saved_tensors, ctx.needs_input_grad[1:]
        if not torch._C._has_storage(cotangent) or has_tangent(cotangent):
            return (None, *call.backward_by_pytorch(cotangent, needed, sources))
        if not torch.is_grad_enabled():
            return (None, *call.backward(cotangent, needed, sources))
        with torch.no_grad():  # create_graph=True
            gradients = call.backward(cotangent, needed, sources)
        return (None, *call.in_graph(gradients, cotangent, sources))


_uncompiled = torch._compile._disable_dynamo(_Function.backward)

_apply = super(torch.autograd.Function, _Function).apply
"""`_Function.apply` without its look at transforms of torch.func, which `surroundings` has had."""
