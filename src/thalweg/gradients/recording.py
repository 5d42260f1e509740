"""A whole solve recorded in one graph, as long as there is room for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.arithmetic import Number, most
from ..core.field import Field, FieldLike
from ..core.step import Carry, Step, Stepper, TakenStep
from ..loop.integrate import Recorder
from .capture import check_reach, nodes_of
from .tape import bare


class RecordingStepper:
    """A stepper whose steps are recorded while there is room for more, and are not after that.

    Parameters
    ----------
    stepper : Stepper
        The stepper, whose other methods it has.
    tape : Recorder
        What is shown the accepted steps as well; where not `alone`, only once there is no room for their graph.
    known : sequence of Tensor
        The tensors that a gradient goes to, which are there anyway. The first step, or the first evaluation in it,
        shows whether the field uses others.
    room : int
        The bytes that the graph may hold on to.
    alone : bool
        Whether gradients are asked of the graph for the known tensors alone, so that one that is used later only would
        be lost. Steps 2, 4, 8, … are looked at too then: a walk through the graph of all steps would cost a tenth of a
        small solve, and a long graph through which Python has walked is freed node within node, until the stack is
        full.
    """

    def __init__(self, stepper: Stepper, tape: Recorder, known: Sequence[Tensor], room: int, *, alone: bool) -> None:
        self.stages, self.error_order, self.needs_slope = stepper.stages, stepper.error_order, stepper.needs_slope
        self.implicit = stepper.implicit
        self.init, self.interpolate = stepper.init, stepper.interpolate
        self.interpolate_rows = stepper.interpolate_rows
        self._stepper, self._tape = stepper, tape
        self._known, self._alone, self._tried = known, alone, 0
        self._held = {x.untyped_storage().data_ptr() for x in known if x.layout is torch.strided}
        self._room, self._held_by_graph, self._each = room, 0, 0
        self._kept: list[TakenStep] = []  # those that the tape will not need where the graph is whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stepper, name)

    @property
    def complete(self) -> bool:
        """Whether every accepted step was recorded."""
        return 0 < self._room >= self._held_by_graph

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step."""
        if not self.complete:
            self._stepper.forget()  # so that it comes out as with a graph, now and when it is taken again
            with torch.no_grad():
                return self._stepper.step(field, t, _of_unit(h), *bare(y, carry))
        self._tried += 1
        if self._tried == 1:
            return self._first_step(field, t, h, y, carry)
        step = self._stepper.step(field, t, h, y, carry)
        if self._alone and self._tried.bit_count() == 1:
            self._check(step, t, h, y, carry)
        return step

    def _first_step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Take a step, see whether it uses what is not known, and measure what its graph holds on to."""
        meter = _Meter(self._held)
        if self._alone or self.implicit or type(field) is not Field:

            def taken() -> Step:
                self._stepper.forget()
                return self._stepper.step(field, t, h, y, carry)

            step = meter.watch(taken, lambda step: [step.y, *step.stages])
            self._check(step, t, h, y, carry)
            self._each = meter.bytes + (1 + len(step.stages)) * y.nbytes
        else:  # one evaluation tells of all: to look at a tensor that a graph keeps costs as much as to make it
            field = field.changed(fun=_watched_once(field.fun, meter, self._known))
            step = self._stepper.step(field, t, h, y, carry)
            self._each = meter.bytes * most(step.nfev) + (1 + 2 * len(step.stages)) * y.nbytes
        return step

    def _check(self, step: Step, t: Number, h: Number, y: Tensor, carry: Carry | None) -> None:
        """Refuse a step that used a tensor which is not known."""
        before = [x for x in (t, h, y, *(carry or ())) if isinstance(x, Tensor)]
        check_reach([step.y, *step.stages], [*self._known, *before])

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._stepper.take(rows)

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step with all that the interpolant needs."""
        if self.complete:
            return self._stepper.extend(field, t, h, y, step)
        with torch.no_grad():
            return self._stepper.extend(field, t, _of_unit(h), y.detach(), step)

    def record(self, taken: TakenStep) -> None:
        """Count what the graph holds, and show the step to the tape, as soon as it may be needed."""
        self._held_by_graph += self._each
        self._kept.append(taken)
        if self._alone or not self.complete:
            for step in self._kept:
                self._tape.record(step)
            self._kept.clear()


def _of_unit(h: Number) -> Number:
    """A step size as it is outside a graph: a float in joint."""
    return h.item() if isinstance(h, Tensor) and h.ndim == 0 else h


def _watched_once(fun: Callable[..., Any], meter: _Meter, known: Sequence[Tensor]) -> Callable[..., Any]:
    """The function, whose first call is measured, and refused where it uses a tensor that is not known."""

    def watched(t: Tensor, y: Any, *args: Any) -> Any:
        # a field that differentiates by a part of a state that is in no graph would begin one there
        y = _begun(y) if isinstance(y, Tensor) else pytree.tree_map(_begun, y)
        slope = meter.watch(lambda: fun(t, y, *args), _tensors_of)
        check_reach(_tensors_of(slope), [*known, *_tensors_of((t, y))])
        return slope

    calls = iter([watched])
    return lambda *args: next(calls, fun)(*args)


def _begun(x: Tensor) -> Tensor:
    """A part of a state as one that a graph can begin with."""
    return x if x.requires_grad or x.is_inference() else x.detach().requires_grad_()


def _tensors_of(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]


_Made = TypeVar("_Made")


class _Meter:
    """Counts the bytes that a graph holds on to, but those in `held`."""

    def __init__(self, held: set[int]) -> None:
        self._held, self.bytes = set(held), 0

    def watch(self, make: Callable[[], _Made], outputs: Callable[[_Made], Sequence[Tensor]]) -> _Made:
        """What is made, and measured meanwhile; `outputs` are what of it is part of the graph.

        Some of what a field may do, as `torch.func.grad`, suffers no hooks: it is done again then, and the graph is
        asked what it holds.
        """
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                return make()
        except RuntimeError:
            made = make()
        self.bytes = 0
        for node in nodes_of(x.grad_fn for x in outputs(made)):
            for x in _saved_by(node):
                self._count(x)
        return made

    def _pack(self, x: Tensor) -> tuple[Tensor, int]:
        self._count(x)
        return x.detach(), x._version  # not x, which may be the output of the very node that saves it

    def _count(self, x: Tensor) -> None:
        if x.layout is torch.strided and not x._is_zerotensor():
            storage = x.untyped_storage()
            if storage.data_ptr() not in self._held:
                self._held.add(storage.data_ptr())
                self.bytes += storage.nbytes()

    @staticmethod
    def _unpack(kept: tuple[Tensor, int]) -> Tensor:
        x, version = kept
        if x._version != version:  # PyTorch sees to that where there are no hooks
            raise RuntimeError(
                f"a tensor of shape {tuple(x.shape)} that the field used has been modified by an inplace operation "
                "since the solve, whose gradient needs the values that it had"
            )
        return x


def _saved_by(node: Any) -> Iterator[Tensor]:
    """The tensors that a node of a graph keeps."""
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            try:
                kept = getattr(node, name)
            except RuntimeError:  # it has been changed in place, or was freed
                continue
            yield from _tensors_of(kept)
