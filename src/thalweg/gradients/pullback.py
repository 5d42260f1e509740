"""The backward pass of a discrete gradient: each step taken again in a graph, and its cotangents pulled back.

From the last step to the first, each is computed again, now with a graph, and the cotangents of its end, of its
outputs and of its carry are pulled back to its beginning. A rejected step costs nothing. Where the steps began, the
gradient method knows: it kept that, or computes it.

The sizes of all steps but the last are constants, as for `direct`; the last one ends at t1. So a step that begins at
t_n pulls back to t0 by way of t_n = t0 + constant, and the last one to t1 and t0 by way of h = t1 - t_n. Where no step
crosses some time, this ends at the first such: the step to it has h = stop - t_n, and later ones begin at constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import zip_longest
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, most, where, wide_dtype
from ..core.field import Field, time_of
from ..core.step import Carry, Stepper
from ..loop.integrate import Problem, begun_anew
from ..output.saving import EndSaver
from .base import Accumulator, SolveNode
from .capture import check_reach
from .tape import Level, OutputIndex

_Cotangents: TypeAlias = tuple[Tensor | None, ...]
"""One for each part of a carry; None where nothing is asked of it."""


class Steps(Protocol):
    """The accepted steps of a solve."""

    def close(self) -> int:
        """How many there are, of the unit that has most."""

    def at(self, n: int) -> Level:
        """Step n; they are asked for from the last to the first, and then perhaps for the first again."""


class PullBack:
    """The backward pass of a solve, from its last step to its first.

    Parameters
    ----------
    node : SolveNode
        The solve.
    field, targets : Field, list of Tensor
        The field, and the tensors of its graphs that a gradient goes to: what `Sources.detached_field` made.
    cotangent : Tensor
        That of the outputs.
    """

    def __init__(self, node: SolveNode, field: Field, targets: list[Tensor], cotangent: Tensor) -> None:
        assert node.result is not None
        self.stats, self.saver, self.status = node.request.stats, node.result.saver, node.result.status
        self.problem: Problem = replace(node.request.problem, field=field)
        self.cotangent = cotangent
        self.timed = node.request.times is not None
        self.field, self.targets = field, targets
        self.retain = node.sources.retain()
        self.sums = Accumulator(len(self.targets))
        self.t0, self.t1 = Accumulator(1), Accumulator(1)
        self.t0_like = _leaf_number(self.problem.t0, self.problem.y0)
        t_eval = self.problem.t_eval
        self.t_eval = torch.zeros_like(t_eval) if self.timed and t_eval is not None else None
        self.evaluations = 0

    def asked(self) -> Flag:
        """Of which units anything is asked that is not y0 itself: one read of the device in joint."""
        end, _ = self._ends()
        pulled = (~self._initial() & (self.cotangent != 0)).any(0) if end is None else end != 0
        if not self.problem.batching.by_row:
            return bool(pulled.any())
        return pulled.flatten(1).any(1) if pulled.ndim > 1 else pulled

    def run(self, steps: Steps, asked: Flag = True) -> Sequence[Tensor | None]:
        """The gradients in the order of the sources; outputs of units that are not asked for are passed over."""
        problem, units = self.problem, self.problem.batching
        outputs = OutputIndex(self.saver, problem.stepper, problem.t_eval, asked)
        a, a_initial = self._ends()
        a_carry: _Cotangents = ()
        for n in reversed(range(steps.close())):
            level = steps.at(n)
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
        a = self._pull_start(steps, a, a_carry)
        self.stats.nfev_backward += self.evaluations
        y0 = a_initial if a is None else a if a_initial is None else a + a_initial
        times = (self.t0.totals[0], self.t1.totals[0], self.t_eval)
        return [y0, *times, *self.sums.totals]

    def _ends(self) -> tuple[Tensor | None, Tensor | None]:
        """The cotangents of the state at t1, if that is an output, and of the outputs that are y0 itself."""
        cotangent = self.cotangent
        if isinstance(self.saver, EndSaver):
            success = self.status == 0
            if isinstance(success, Tensor):
                end = self.problem.batching.select(success, cotangent[1], torch.zeros_like(cotangent[1]))
            else:
                end = cotangent[1] if success else torch.zeros_like(cotangent[1])
            return end, cotangent[0]
        return None, torch.where(self._initial(), cotangent, 0.0).sum(0)

    def _initial(self) -> Tensor:
        """Which outputs are y0 itself, to combine with them."""
        assert self.problem.t_eval is not None
        initial = torch.eq(self.problem.t_eval, self.problem.t0)
        return initial.view(*initial.shape, *(1,) * (self.cotangent.ndim - initial.ndim))

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
        y, carry = leaf(level.y), None if level.carry is None else tuple(map(leaf, level.carry))
        t, h = (_leaf_number(level.t, y), _leaf_number(level.h, y)) if self.timed else (level.t, level.h)
        with torch.enable_grad():
            step = stepper.step(self.field, t, h, y, self._anew(level, t, y, carry))
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
                t_eval = leaf(t_eval) if self.timed else t_eval
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

    def _anew(self, level: Level, t: Number, y: Tensor, carry: Carry | None) -> Carry | None:
        """The carry as the step has it: in rows that begin at a jump of the field, made of the slope behind it."""
        stops = self.problem.stops
        if carry is None or stops is None or stops.jumps is None or not self.problem.stepper.needs_slope:
            return carry
        anew = stops.jumps.distance(level.t) == 0
        if not isinstance(anew, Tensor) or not bool(anew.any()):
            return carry
        self.evaluations += len(self.field.parts)
        return begun_anew(self.problem, t, y, carry, anew)

    def _pull_start(self, steps: Steps, a: Tensor | None, a_carry: _Cotangents) -> Tensor | None:
        """The cotangent of y0, once that of the first step's carry is pulled through the field at (t0, y0)."""
        if not self.problem.stepper.needs_slope or all(pulled is None for pulled in a_carry):
            return a
        first = steps.at(0)  # begins at (t0, y0), and is finite also where a row's own beginning is not
        y, t = leaf(first.y), _leaf_number(first.t, first.y) if self.timed else first.t
        with torch.enable_grad():
            carry = self.problem.stepper.init(self.field(time_of(self.field, t, y.device, first.h), y))
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
        problem, nothing = self.problem, torch.zeros_like(g_h)
        # the loop made such a step's size of just this difference
        ends = level.last | torch.eq(torch.as_tensor(problem.first_stop - level.t), torch.as_tensor(level.h))
        self.t0.add([where(problem.behind_stop(level.t), nothing, where(ends, g_t - g_h, g_t))])
        self.t1.add([where(level.last, g_h, nothing)])


def unshrunk(problem: Problem) -> Stepper:
    """The problem's stepper; one of its own for a solve in which rows leave, as it forgets them."""
    return deepcopy(problem.stepper) if problem.shrink else problem.stepper


def leaf(x: Tensor) -> Tensor:
    """The same values as the start of a graph; integers, which have no gradient, as they are."""
    return x.detach().requires_grad_(x.is_floating_point() or x.is_complex())


def _leaf_number(x: Number, like: Tensor) -> Tensor:
    """A unit's number as the start of a graph."""
    return leaf(torch.as_tensor(x, dtype=wide_dtype(like.device), device=like.device))
