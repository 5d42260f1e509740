"""The exact discrete gradient, from one graph while memory is ample, and step by step where it is not.

The forward pass keeps where each accepted step began, and records the solve for as long as the graph is small. If it
was recorded to its end, the backward pass is PyTorch's own. If not, it goes through the steps from the last to the
first, computes each again, now with a graph, and pulls the cotangents of its end, of its outputs and of its carry back
to its beginning. A rejected step costs nothing.

The sizes of all steps but the last are constants, as for `direct`; the last one ends at t1. So a step that begins at
t_n pulls back to t0 by way of t_n = t0 + constant, and the last one to t1 and t0 by way of h = t1 - t_n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TypeAlias, cast

import torch
from torch import Tensor

from ..core.arithmetic import Number, most, where, wide_dtype
from ..core.step import Stepper
from ..loop.integrate import GraphTimes, Problem, Result
from ..output.saving import EndSaver
from .base import Accumulator, Integrate, Request, SolveNode, check_reach
from .recording import RecordingStepper
from .tape import JointTape, Level, OutputIndex, RowTape

_Cotangents: TypeAlias = tuple[Tensor | None, ...]
"""One for each part of a carry; None where nothing is asked of it."""


class Checkpointed:
    """The exact gradient at the memory of the accepted steps' states, and of a graph while that is small."""

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Solve, and put the backward pass behind the outputs."""
        return _Node.solve(integrate, request)


class _Node(SolveNode):
    """One solve, its tape, and its backward pass."""

    def forward(self) -> Result:
        problem, times = self.request.problem, self.request.times
        self.field, self.targets = self.sources.detached_field()
        self.tape = RowTape(problem.y0) if problem.batching.by_row else JointTape()
        stepper = RecordingStepper(problem.stepper, self.tape, self.targets)
        y0 = _leaf(problem.y0)
        if times is not None:
            times = GraphTimes(_leaf(times.t0), _leaf(times.t1), None if times.t_eval is None else _leaf(times.t_eval))
        # it has the other methods of the stepper that it holds
        problem = replace(problem, field=self.field, stepper=cast(Stepper, stepper)).with_graph(y0, times)
        with torch.set_grad_enabled(stepper.complete):
            result = self.integrate(problem, stepper)
        three = (None, None, None) if times is None else (times.t0, times.t1, times.t_eval)
        self._graph = (result.ys, [y0, *three, *self.targets]) if stepper.complete else None
        self.saver, self.status = result.saver, result.status
        return replace(result, ys=result.ys.detach())

    def backward(self, cotangent: Tensor, ys: Tensor | None) -> Sequence[Tensor | None]:
        graph, self._graph = self._graph, None  # it serves one backward pass
        gradients = None if graph is None else self._from_graph(*graph, cotangent)
        return _PullBack(self, cotangent).run() if gradients is None else gradients

    def _from_graph(
        self, ys: Tensor, sources: Sequence[Tensor | None], cotangent: Tensor
    ) -> Sequence[Tensor | None] | None:
        """The gradients by PyTorch; None where a row's rejected step spoils them, since 0 times infinity is NaN."""
        wanted = [x for x in sources if x is not None]
        check_reach([ys], wanted)
        retain = self.sources.retain()
        found = torch.autograd.grad(ys, wanted, cotangent, retain_graph=retain, allow_unused=True)
        if self.request.problem.batching.by_row and not _all_finite(found):
            return None
        gradients = iter(found)
        return [None if x is None else next(gradients) for x in sources]


class _PullBack:
    """The backward pass."""

    def __init__(self, node: _Node, cotangent: Tensor) -> None:
        self.node = node
        self.problem: Problem = node.request.problem
        self.cotangent = cotangent
        self.timed = node.request.times is not None
        self.field, self.targets = node.field, node.targets
        self.retain = node.sources.retain()
        self.sums = Accumulator(len(self.targets))
        self.t0, self.t1 = Accumulator(1), Accumulator(1)
        self.t0_like = _leaf_number(self.problem.t0, self.problem.y0)
        t_eval = self.problem.t_eval
        self.t_eval = torch.zeros_like(t_eval) if self.timed and t_eval is not None else None
        self.evaluations = 0

    def run(self) -> Sequence[Tensor | None]:
        node, problem = self.node, self.problem
        units, tape = problem.batching, node.tape
        outputs = OutputIndex(node.saver, problem.stepper, problem.t_eval)
        a, a_initial = self._ends()
        a_carry: _Cotangents = ()
        for n in reversed(range(tape.close())):
            level = tape.at(n)
            index = outputs.at(n)
            if a is None and index is None:
                continue  # nothing is asked of what comes later
            if a is None:
                a = torch.zeros_like(level.y)
            a_here, a_carry_here = self._pull(level, a, a_carry, index, outputs)
            a = units.select(level.valid, a_here, a)
            # where the step had none, as the field jumps where it begins, all that came later ends here
            a_carry = tuple(
                None if new is None else units.select(level.valid, new, torch.zeros_like(new) if old is None else old)
                for new, old in zip_longest(a_carry_here, a_carry[: len(a_carry_here)])
            )
        a = self._pull_start(a, a_carry)
        node.request.stats.nfev_backward += self.evaluations
        y0 = a_initial if a is None else a if a_initial is None else a + a_initial
        times = (self.t0.totals[0], self.t1.totals[0], self.t_eval)
        return [y0, *times, *self.sums.totals]

    def _ends(self) -> tuple[Tensor | None, Tensor | None]:
        """The cotangents of the state at t1, if that is an output, and of the outputs that are y0 itself."""
        node, cotangent = self.node, self.cotangent
        if isinstance(node.saver, EndSaver):
            success = node.status == 0
            if isinstance(success, Tensor):
                end = self.problem.batching.select(success, cotangent[1], torch.zeros_like(cotangent[1]))
            else:
                end = cotangent[1] if success else torch.zeros_like(cotangent[1])
            return end, cotangent[0]
        assert self.problem.t_eval is not None
        initial = torch.eq(self.problem.t_eval, self.problem.t0)
        initial = initial.view(*initial.shape, *(1,) * (cotangent.ndim - initial.ndim))
        return None, torch.where(initial, cotangent, 0.0).sum(0)

    def _pull(
        self,
        level: Level,
        a: Tensor,
        a_carry: _Cotangents,
        index: tuple[slice | Tensor, ...] | None,
        outputs: OutputIndex,
    ) -> tuple[Tensor, _Cotangents]:
        """The cotangents of a step's beginning, (y, carry), from those of its end and of its outputs."""
        stepper, select = self.problem.stepper, self.problem.batching.select
        y, carry = _leaf(level.y), None if level.carry is None else tuple(map(_leaf, level.carry))
        t, h = (_leaf_number(level.t, y), _leaf_number(level.h, y)) if self.timed else (level.t, level.h)
        with torch.enable_grad():
            step = stepper.step(self.field, t, h, y, carry)
            if index is not None:
                step = stepper.extend(self.field, t, h, y, step)
            self.evaluations += most(step.nfev)
            ends, cotangents = [step.y], [select(level.valid, a, torch.zeros_like(a))]
            for end, pulled in zip(step.carry or (), a_carry, strict=False):
                if pulled is not None:
                    ends.append(end)
                    cotangents.append(select(level.valid, pulled, torch.zeros_like(pulled)))
            t_eval = None
            if index is not None:
                assert self.problem.t_eval is not None
                t_eval = self.problem.t_eval[index]
                t_eval = _leaf(t_eval) if self.timed else t_eval
                ends.append(outputs.values(index, step, t, h, y, t_eval))
                cotangents.append(self.cotangent[index])
        starts = [y, *(x for x in carry or () if x.requires_grad)]
        clock = [x for x in (t, h, t_eval) if isinstance(x, Tensor)] if self.timed else []
        gradients = self._gradients(ends, [*starts, *clock], cotangents)
        if self.timed:
            g_t, g_h = (torch.zeros_like(self.t0_like) if g is None else g for g in gradients[len(starts) :][:2])
            self._add_times(g_t, g_h, level)
            if index is not None and self.t_eval is not None and gradients[-1] is not None:
                self.t_eval[index] += gradients[-1]
        g_y = gradients[0] if gradients[0] is not None else torch.zeros_like(y)
        found = iter(gradients[1:])
        return g_y, tuple(next(found) if x.requires_grad else None for x in carry or ())

    def _pull_start(self, a: Tensor | None, a_carry: _Cotangents) -> Tensor | None:
        """The cotangent of y0, once that of the first step's carry is pulled through the field at (t0, y0)."""
        if all(pulled is None for pulled in a_carry):
            return a
        first = self.node.tape.at(0)  # begins at (t0, y0), and is finite also where a row's own beginning is not
        y, t = _leaf(first.y), _leaf_number(first.t, first.y) if self.timed else first.t
        with torch.enable_grad():
            (time,) = self.field.times(t, first.h, torch.zeros(1, dtype=wide_dtype(y.device), device=y.device))
            carry = self.problem.stepper.init(self.field(time, y))
        self.evaluations += len(self.field.parts)
        assert carry is not None
        ends, cotangents = zip(*((x, c) for x, c in zip(carry, a_carry, strict=True) if c is not None), strict=True)
        starts = [y, t] if isinstance(t, Tensor) and self.timed else [y]
        g_y, *g_t = self._gradients(list(ends), starts, list(cotangents))
        if g_t and g_t[0] is not None:
            self.t0.add(g_t)
        if g_y is None:
            return a
        return g_y if a is None else a + g_y

    def _gradients(self, ends: list[Tensor], starts: list[Tensor], cotangents: list[Tensor]) -> list[Tensor | None]:
        """Gradients to the starts; those to arguments and captured tensors are added to their sums."""
        kept = [(e, c) for e, c in zip(ends, cotangents, strict=True) if e.requires_grad]
        if not kept:
            return [None] * len(starts)
        ends, cotangents = [e for e, _ in kept], [c for _, c in kept]
        check_reach(ends, [*starts, *self.targets])
        found = torch.autograd.grad(
            ends, [*starts, *self.targets], cotangents, retain_graph=self.retain, allow_unused=True
        )
        self.sums.add(found[len(starts) :])
        return list(found[: len(starts)])

    def _add_times(self, g_t: Tensor, g_h: Tensor, level: Level) -> None:
        """Pull the cotangents of t_n and h_n back to t0 and t1."""
        self.t0.add([where(level.last, g_t - g_h, g_t)])
        self.t1.add([where(level.last, g_h, torch.zeros_like(g_h))])


def _all_finite(tensors: Sequence[Tensor | None]) -> bool:
    """Whether there is neither infinity nor NaN: one read of the device."""
    return bool(torch.stack([torch.isfinite(x).all() for x in tensors if x is not None]).all())


def _leaf(x: Tensor) -> Tensor:
    """The same values as the start of a graph; integers, which have no gradient, as they are."""
    return x.detach().requires_grad_(x.is_floating_point() or x.is_complex())


def _leaf_number(x: Number, like: Tensor) -> Tensor:
    """A unit's number as the start of a graph."""
    return _leaf(torch.as_tensor(x, dtype=wide_dtype(like.device), device=like.device))
