"""The derivatives of a field at a point: J = ∂f/∂y and f_t = ∂f/∂t.

y: (*shape) in joint, (B, *D) per sample. N: the length of what J acts on, all of y in joint, one row's per sample.
J: (N, N) in joint, (B, N, N) per sample.

They come from reverse products aᵀJ, with N vectors a that hold a single 1. Per sample one a serves all rows, since rows
do not talk to each other; and as the products begin where one evaluation of the field ended, that evaluation is had
along with them, and f_t too. Batched over the N vectors this is faster than forward products, alone or batched, at any
size; and batched is the backward pass alone, so that a field may branch, loop and differentiate as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .arithmetic import across
from .field import FieldLike, kept
from .sparsity import Seeds

LARGEST = 4096
"""The longest state of which a Jacobian is made: 128 MiB in float64."""

_AT_ONCE = 2**22  # entries of all cotangents that are pulled back together
_SMALL = 1e-3  # the size below which finite differences take an entry to be of this size


@dataclass(frozen=True, slots=True)
class Linearization:
    """A field at a point, and its derivatives there.

    Attributes
    ----------
    slope : Tensor
        f(t, y), shaped like y.
    jacobian : Tensor
        J.
    time_derivative : Tensor or None
        f_t, shaped like y; None where it is zero, or was not asked for.
    """

    slope: Tensor
    jacobian: Tensor
    time_derivative: Tensor | None


class Jacobians:
    """Makes Jacobians; made anew for each solve, since it remembers which ways work for its field.

    Tried in turn, each where the one before raises an error: products of all vectors at once, products one after the
    other, and finite differences, also where the field's value is cut from its graph.

    Parameters
    ----------
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has a Jacobian of its own.

    Raises
    ------
    ValueError
        When the state is too long, or not float32 or float64.
    """

    def __init__(self, like: Tensor, *, by_row: bool) -> None:
        self.by_row, self._ndim = by_row, like.ndim
        self.size = math.prod(like.shape[1:]) if by_row else like.numel()
        if self.size > LARGEST:
            advice = "choose an explicit method" if by_row else "use batching='per_sample' where rows are independent"
            raise ValueError(
                f"a method with Jacobians takes states of up to {LARGEST} numbers, got {self.size}; {advice}"
            )
        if like.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"a method with Jacobians takes states of float32 or float64, got {like.dtype}; choose an explicit "
                "method, convert y0, or give real and imaginary parts side by side (torch.view_as_real)"
            )
        self._ways = [Jacobians._batched, Jacobians._one_by_one]
        self._hidden_time: bool | None = None
        self._seeds: Seeds | None = None

    def at(self, field: FieldLike, t: Tensor, y: Tensor, *, timed: bool = False) -> Linearization:
        """The field's value and derivatives at (t, y); part of a graph, J too, where one is recorded.

        Parameters
        ----------
        timed : bool
            Whether f_t is wanted.
        """
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            z, time = _free(y, y), _free(t, y) if timed else t
            given = field.jacobian(time, z)
            if recorded and given is not None and not given.requires_grad:
                given = None  # a gradient could not pass through it
            slope = kept(field(time, z))
            made, change = self._made(field, slope, None if given is not None else z, time if timed else None, recorded)
        if given is None:
            given = self._differences(field, t, y, slope) if made is None else made
        if timed and change is None:
            change = self._time_differences(field, t, y, slope)
        if recorded:
            return Linearization(slope, given, change)
        return Linearization(slope.detach(), given.detach(), None if change is None else change.detach())

    def _made(
        self, field: FieldLike, slope: Tensor, z: Tensor | None, time: Tensor | None, recorded: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """J and f_t by products, where they are asked for; None where slope does not depend on z, or on time."""
        seeds = self._seeds_of(field, slope)
        if seeds is not None:
            made = None if z is None else self._coloured(slope, z, seeds, recorded)
            return made, None if time is None else self._forward(slope, time, torch.ones_like(time), recorded)
        wanted = [x for x in (z, time) if x is not None]
        found = self._products(slope, wanted, self._vectors(slope), create_graph=recorded)
        made = None if z is None or found[0] is None else self._from_rows(found[0])
        return made, None if time is None or found[-1] is None else self._from_entries(found[-1], slope)

    def _seeds_of(self, field: FieldLike, like: Tensor) -> Seeds | None:
        """The vectors for the field's pattern, if it has one."""
        if field.sparsity is None:
            return None
        if self._seeds is None or self._seeds.sparsity is not field.sparsity:
            self._seeds = Seeds(field.sparsity, like)
        return self._seeds

    def _coloured(self, slope: Tensor, z: Tensor, seeds: Seeds, recorded: bool) -> Tensor | None:
        """J by as many products as there are colours: of rows, or of columns where these are fewer by half or more."""
        if 2 * len(seeds.columns) <= len(seeds.rows):
            sums = self._forward(slope, z, self._shaped(seeds.columns, slope), recorded)
            if sums is not None:
                return seeds.from_columns(self._flat(sums))
        (sums,) = self._products(slope, [z], self._shaped(seeds.rows, slope), create_graph=recorded)
        return None if sums is None else seeds.from_rows(self._flat(sums))

    def _forward(self, slope: Tensor, x: Tensor, vectors: Tensor, create_graph: bool) -> Tensor | None:
        """∂slope/∂x v for v shaped as x, or for many with one more dimension: the derivative by a of aᵀ ∂slope/∂x.

        None where slope does not depend on x, or has no second derivative.
        """
        if not slope.requires_grad or not slope.numel():
            return None
        a = torch.zeros_like(slope).requires_grad_()
        try:
            (pulled,) = torch.autograd.grad(slope, x, a, create_graph=True, allow_unused=True)
            if pulled is None or not pulled.requires_grad:
                return None
            many = vectors.ndim > x.ndim
            (pushed,) = torch.autograd.grad(
                pulled,
                a,
                vectors,
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
                is_grads_batched=many,
            )
        except RuntimeError:
            return None
        return pushed

    def _products(
        self, slope: Tensor, wanted: Sequence[Tensor], vectors: Tensor, *, create_graph: bool
    ) -> list[Tensor | None]:
        """aᵀ ∂slope/∂x for each x wanted and all a, stacked in front; None where slope does not depend on x."""
        if not slope.requires_grad or not slope.numel() or not wanted:
            return [None] * max(len(wanted), 1)
        while self._ways:
            try:
                return self._ways[0](self, slope, wanted, vectors, create_graph)
            except RuntimeError:  # an operation without a batching rule, or without a derivative
                del self._ways[0]
        return [None] * len(wanted)

    def _batched(
        self, slope: Tensor, wanted: Sequence[Tensor], vectors: Tensor, create_graph: bool
    ) -> list[Tensor | None]:
        """So many products at a time as memory is sensibly spent on."""
        parts = [
            torch.autograd.grad(
                slope, wanted, a, retain_graph=True, create_graph=create_graph, allow_unused=True, is_grads_batched=True
            )
            for a in vectors.split(max(1, _AT_ONCE // slope.numel()))
        ]
        return [None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True)]

    def _one_by_one(
        self, slope: Tensor, wanted: Sequence[Tensor], vectors: Tensor, create_graph: bool
    ) -> list[Tensor | None]:
        """One product at a time."""
        parts = [
            torch.autograd.grad(slope, wanted, a, retain_graph=True, create_graph=create_graph, allow_unused=True)
            for a in vectors
        ]
        return [None if part[0] is None else torch.stack(part) for part in zip(*parts, strict=True)]

    def _vectors(self, like: Tensor) -> Tensor:
        """The N vectors a, (N, *y.shape)."""
        return self._shaped(torch.eye(self.size, dtype=like.dtype, device=like.device), like)

    def _shaped(self, vectors: Tensor, like: Tensor) -> Tensor:
        """Vectors (C, N), of every row the same, as (C, *y.shape)."""
        if not self.by_row:
            return vectors.view(len(vectors), *like.shape)
        return vectors.view(len(vectors), 1, *like.shape[1:]).expand(len(vectors), *like.shape)

    def _flat(self, x: Tensor) -> Tensor:
        """What is shaped as states, with any dimensions in front: (…, N), or (…, B, N) per sample."""
        lead = x.shape[: x.ndim - self._ndim]
        return x.reshape(*lead, x.shape[len(lead)], self.size) if self.by_row else x.reshape(*lead, self.size)

    def _from_rows(self, rows: Tensor) -> Tensor:
        """J from its rows (N, *y.shape)."""
        if not self.by_row:
            return rows.reshape(self.size, self.size)
        return rows.reshape(self.size, rows.shape[1], self.size).movedim(0, 1)

    def _from_entries(self, entries: Tensor, like: Tensor) -> Tensor:
        """f_t from its entries (N, *t.shape)."""
        return entries.view(self.size, -1).t().reshape(like.shape)

    @torch.no_grad()
    def _differences(self, field: FieldLike, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """J by forward differences, a column, or all of a colour, from one more evaluation."""
        seeds = self._seeds_of(field, y)
        if seeds is not None:
            room = y.abs().clamp(min=_SMALL) * torch.finfo(y.dtype).eps ** 0.5
            sizes = (y + room) - y  # what is added, after rounding
            states = [torch.where(unit != 0, y + room, y) for unit in self._shaped(seeds.columns, y)]
            rises = torch.stack([field(t, state) - slope for state in states])
            return seeds.from_columns(self._flat(rises), self._flat(sizes))
        columns = []
        for unit in self._vectors(y):
            moved = y + unit * (y.abs().clamp(min=_SMALL) * torch.finfo(y.dtype).eps ** 0.5)
            size = (moved - y).reshape(y.shape[0], -1).sum(1) if self.by_row else (moved - y).sum()
            columns.append((field(t, moved) - slope) / (across(size, y.ndim) if self.by_row else size))
        stacked = torch.stack(columns) if columns else y.new_empty(0, *y.shape)
        return self._from_rows(stacked).transpose(-1, -2)

    @torch.no_grad()
    def _time_differences(self, field: FieldLike, t: Tensor, y: Tensor, slope: Tensor) -> Tensor | None:
        """f_t where no graph leads to t: zero, unless the field has cut it, as one more evaluation a solve shows."""
        if self._hidden_time is False:
            return None
        later = t + t.abs().clamp(min=1.0) * torch.finfo(t.dtype).eps ** 0.5
        change = field(later, y) - slope
        if self._hidden_time is None:
            self._hidden_time = bool((change.abs() > 0).any())
        return change / (later - t) if self._hidden_time else None


def _free(x: Tensor, anchor: Tensor) -> Tensor:
    """The same values, to differentiate by: a tensor of its own, so that only the field's use of it counts.

    Where the anchor is part of a graph, x becomes so too: a graph that is being recorded gets no new beginning.
    """
    if x.requires_grad:
        return x.view_as(x)
    if anchor.requires_grad and torch.is_grad_enabled():
        return x + anchor.flatten()[:0].sum()  # no entry: adds 0, and passes 0 back
    return x.detach().requires_grad_()
