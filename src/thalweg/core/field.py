"""The one adapter round the user's function.

The loop knows a field only as `field(t, y) -> dy` on packed states. Arguments, structure, the shape of `t` and the
checks of what comes back live here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .arithmetic import Number
from .state import Layout


class FieldLike(Protocol):
    """What the loop and the steppers ask of a field."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt at a time made by `times`."""

    def times(self, t: Number, h: Number, c: Tensor) -> Sequence[Tensor]:
        """The times t + c h, shaped and typed as the user's function takes them."""

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor | None:
        """The user's own Jacobian, (N, N) in joint and (B, N, N) per sample; None where there is none."""


class Field:
    """dy/dt = fun(t, y, *args) on packed states.

    Parameters
    ----------
    fun : callable
        The user's function.
    args : tuple
        Further arguments, passed on as they are.
    layout : Layout
        How the user's state is packed.
    like : Tensor
        The packed initial state, for its dtype, device and number of dimensions.
    jac : callable or Tensor, optional
        The user's Jacobian, jac(t, y, *args), or the one that it is everywhere.
    jumps : sequence of float
        Times at which the function jumps: a step that ends or begins at one sees the value on its own side. In joint
        alone.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        layout: Layout,
        like: Tensor,
        jac: Callable[..., Any] | Tensor | None = None,
        jumps: Sequence[float] = (),
    ) -> None:
        self.fun = fun
        self.jumps = jumps
        self.args = args
        self.jac = jac
        self.layout = layout
        self.time_dtype = like.real.dtype if like.is_complex() else like.dtype
        self._like = like
        rows = like.shape[0] if layout.by_row else 0
        self._time_shape = (-1, rows) + (1,) * ((layout.ndim or 1) - 1) if layout.by_row else (-1,)

    def with_args(self, args: tuple[Any, ...]) -> Field:
        """The same field with other arguments."""
        return Field(self.fun, args, self.layout, self._like, self.jac, self.jumps)

    def with_jumps(self, jumps: Sequence[float]) -> Field:
        """The same field with other jumps."""
        return Field(self.fun, self.args, self.layout, self._like, self.jac, jumps)

    def times(self, t: Number, h: Number, c: Tensor) -> Sequence[Tensor]:
        """The times t + c h: 0-d tensors in joint, (batch, 1, ..., 1) per sample; c has shape (S,)."""
        if not self.layout.by_row:
            times = torch.add(t, c, alpha=h) if isinstance(h, float) else c * h + t
            times = times.to(self.time_dtype)
            return (self._inside(times, float(t), float(h)) if self.jumps else times).unbind()
        return (c.unsqueeze(-1) * h + t).to(self.time_dtype).view(self._time_shape).unbind()

    def _inside(self, times: Tensor, t: float, h: float) -> Tensor:
        """The times of a step from t, those at a jump moved to the step's side of it by the least that there is."""
        inside = times.detach().clone()
        for end, direction in ((t, h), (t + h, -h)):
            if direction and any(abs(end - jump) <= 1e-9 * abs(h) + 1e-15 * abs(end) for jump in self.jumps):
                beyond = inside.new_tensor(math.copysign(math.inf, direction))
                nearest = torch.nextafter(inside.new_tensor(end), beyond)
                inside = torch.maximum(inside, nearest) if direction > 0 else torch.minimum(inside, nearest)
        return times + (inside - times.detach())

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, checked."""
        state = self.layout.unpack(y)
        try:
            slope = self.fun(t, state, *self.args)
        except Exception as error:
            error.add_note(f"(raised by the field while thalweg evaluated it at t = {_describe(t)})")
            raise
        if self.layout.spec is not None:
            slope = self._pack(slope)
        if not isinstance(slope, Tensor):
            raise ValueError(
                f"fun must return a tensor shaped like y, got {type(slope).__name__}; "
                "collect components with torch.stack"
            )
        if slope.shape != y.shape:
            raise ValueError(
                f"fun must return the shape of y, {tuple(y.shape)}, but returned {tuple(slope.shape)}; "
                "check broadcasting between t and y, and the field's last layer"
            )
        if slope.dtype != y.dtype:
            raise ValueError(
                f"fun must return the dtype of y, {y.dtype}, but returned {slope.dtype}; "
                "convert the field (module.to(y.dtype)) or y0"
            )
        if slope.device != y.device:
            raise ValueError(
                f"fun must return a tensor on y's device, {y.device}, but returned one on {slope.device}; "
                "move the field or y0"
            )
        return slope

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor | None:
        """The user's Jacobian, checked; None where there is none."""
        if self.jac is None:
            return None
        matrix = self.jac if isinstance(self.jac, Tensor) else self.jac(t, self.layout.unpack(y), *self.args)
        rows = y.shape[:1] if self.layout.by_row else ()
        size = math.prod(y.shape[len(rows) :])
        if not isinstance(matrix, Tensor):
            raise ValueError(f"jac must return a tensor, got {type(matrix).__name__}; collect entries with torch.stack")
        if isinstance(self.jac, Tensor) and matrix.shape == (size, size):
            matrix = matrix.expand(*rows, size, size)
        if matrix.shape != (*rows, size, size):
            raise ValueError(
                f"jac must return shape {(*rows, size, size)}, the derivative of entry i by entry j in row i and "
                f"column j, but returned {tuple(matrix.shape)}"
            )
        if matrix.dtype != y.dtype or matrix.device != y.device:
            raise ValueError(
                f"jac must return the dtype and device of y, {y.dtype} on {y.device}, but returned {matrix.dtype} on "
                f"{matrix.device}"
            )
        return matrix

    def _pack(self, slope: Any) -> Tensor:
        """Pack what the user's function returned for a structured state."""
        leaves, spec = pytree.tree_flatten(slope)
        if spec != self.layout.spec:
            raise ValueError(f"fun must return the structure of y0, {self.layout.spec}, but returned {spec}")
        for leaf, shape in zip(leaves, self.layout.shapes, strict=True):
            if not isinstance(leaf, Tensor) or leaf.shape != shape:
                got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ValueError(f"fun must return leaves shaped like those of y, expected {tuple(shape)}, got {got}")
        return self.layout.pack(slope)


def _describe(t: Tensor) -> str:
    """A time, or the range of times of a batch, for a message."""
    t = t.detach().flatten()
    if t.numel() == 0:
        return "no time"
    low, high = torch.aminmax(t)
    return f"{low.item():g}" if t.numel() == 1 or low == high else f"{low.item():g} .. {high.item():g}"
