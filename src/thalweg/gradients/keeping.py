"""Steps taken with a graph of their own, and kept for the backward pass while memory is ample.

A step that is kept need not be computed again. Its graph starts from copies of the state and the carry at its
beginning, and ends in its own end: no graph spans two steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.arithmetic import Number, wide_dtype
from ..core.field import FieldLike
from ..core.step import Step, Stepper

AMPLE = 2**28
"""The bytes that the graphs of one solve may hold on to: 256 MiB."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A step with a graph, and what the graph starts from."""

    step: Step
    t: Number
    h: Number
    y: Tensor
    carry: Tensor | None


def take(
    stepper: Stepper, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Tensor | None, *, timed: bool
) -> Taken:
    """Take a step with a graph; `timed` where it starts from t and h too."""
    y, carry = leaf(y), None if carry is None else leaf(carry)
    if timed:
        t, h = leaf_number(t, y), leaf_number(h, y)
    with torch.enable_grad():
        return Taken(stepper.step(field, t, h, y, carry), t, h, y, carry)


class Keeper:
    """A stepper that takes its steps with a graph while there is room for more, and without one after that.

    Parameters
    ----------
    stepper : Stepper
        The stepper, whose other methods it has.
    targets : sequence of Tensor
        The tensors that a gradient goes to, which are there anyway.
    """

    def __init__(self, stepper: Stepper, targets: list[Tensor], *, timed: bool) -> None:
        self._stepper, self._timed = stepper, timed
        self._held = {x.untyped_storage().data_ptr() for x in targets if x.layout is torch.strided}
        self._room, self._each = AMPLE, 0
        self._taken: Taken | None = None

        self.stages, self.error_order, self.needs_slope = stepper.stages, stepper.error_order, stepper.needs_slope
        self.init, self.interpolate, self.interpolate_rows = (
            stepper.init,
            stepper.interpolate,
            stepper.interpolate_rows,
        )

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Tensor | None) -> Step:
        """Try a step, which looks as if it had no graph."""
        self._taken = None
        if self._room <= 0:
            return self._stepper.step(field, t, h, y, carry)
        if not self._each:  # the first step tells what each will hold
            meter = _Meter(self._held)
            with meter:
                taken = take(self._stepper, field, t, h, y, carry, timed=self._timed)
            self._each = meter.bytes + (1 + len(taken.step.stages)) * y.nbytes
        else:
            taken = take(self._stepper, field, t, h, y, carry, timed=self._timed)
        self._taken, step = taken, taken.step
        # its stages are read without a graph, and may have one
        return replace(step, y=step.y.detach(), carry=None if step.carry is None else step.carry.detach())

    def keep(self) -> Taken | None:
        """The step that was tried last, if it has a graph, to be kept."""
        if self._taken is not None:
            self._room -= self._each
        return self._taken


class _Meter(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that a graph holds on to, but those in `held`."""

    def __init__(self, held: set[int]) -> None:
        self._held, self.bytes = set(held), 0
        super().__init__(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor:
        if x.layout is torch.strided:
            storage = x.untyped_storage()
            if storage.data_ptr() not in self._held:
                self._held.add(storage.data_ptr())
                self.bytes += storage.nbytes()
        return x.detach()  # not x, which may be the output of the very node that saves it


def leaf(x: Tensor) -> Tensor:
    """The same values as the start of a graph."""
    return x.detach().requires_grad_()


def leaf_number(x: Number, like: Tensor) -> Tensor:
    """A unit's number as the start of a graph."""
    return leaf(torch.as_tensor(x, dtype=wide_dtype(like.device), device=like.device))
