"""States of any structure, packed into one tensor for the loop and unpacked for the user's function.

A single tensor is left as it is. A pytree of tensors becomes (N,) in joint and (B, N) per sample; in joint it may be
packed so, too, where all leaves share their first dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Layout:
    """Where each leaf of a pytree lies in the packed state; `spec` is None for a single tensor.

    Attributes
    ----------
    by_row : bool
        Whether rows have times and steps of their own; a pytree is then packed row by row.
    rowed : bool
        Whether it is so in joint.
    """

    spec: pytree.TreeSpec | None
    shapes: tuple[torch.Size, ...]
    by_row: bool
    rowed: bool = False

    @property
    def ndim(self) -> int | None:
        """The number of dimensions that all leaves share, or None where they differ."""
        numbers = {len(shape) for shape in self.shapes}
        return numbers.pop() if len(numbers) == 1 else None

    def taken(self, rows: int) -> Layout:
        """The layout of so many rows."""
        return replace(self, shapes=tuple(torch.Size((rows, *shape[1:])) for shape in self.shapes))

    @property
    def _in_rows(self) -> bool:
        """Whether a pytree is packed row by row."""
        return self.by_row or self.rowed

    def in_rows(self) -> Layout | None:
        """The layout of a joint pytree row by row; None where its leaves have no first dimension in common."""
        if self.spec is None or self.by_row or len({shape[:1] for shape in self.shapes}) > 1 or not self.shapes[0]:
            return None
        return replace(self, rowed=True)

    def pack(self, tree: Any, lead: int = 0) -> Tensor:
        """The tree's leaves, side by side in one tensor, after as many leading dimensions beyond the state's."""
        if self.spec is None:
            return tree
        kept = lead + int(self._in_rows)
        leaves = pytree.tree_leaves(tree)
        return torch.cat([x.flatten(kept) if x.ndim > kept else x.unsqueeze(kept) for x in leaves], dim=kept)

    def repacked(self, packed: Tensor, layout: Layout) -> Tensor:
        """What is packed so as another layout of the same state has it; leading dimensions are kept."""
        if layout == self:
            return packed
        return layout.pack(self.unpack(packed), packed.ndim - 1 - int(self._in_rows))

    def unpack(self, packed: Tensor) -> Any:
        """The tree again; leading dimensions of `packed` beyond the state's are kept (such as that of times)."""
        if self.spec is None:
            return packed
        lead = packed.shape[: packed.ndim - 1 - int(self._in_rows)]
        sizes = [shape[1:].numel() if self._in_rows else shape.numel() for shape in self.shapes]
        parts = packed.split(sizes, dim=-1)
        return pytree.tree_unflatten(
            [part.reshape((*lead, *shape)) for part, shape in zip(parts, self.shapes, strict=True)], self.spec
        )


def layout_of(y0: Any, *, by_row: bool) -> tuple[Layout, Tensor]:
    """Check the initial state and pack it.

    Returns
    -------
    layout, y0
        The layout and the packed initial state.

    Raises
    ------
    ValueError
        When there is no tensor in `y0`, when dtypes or devices differ, when a dtype is not floating or complex, when a
        tensor is sparse, or, per sample, when the first dimensions differ.
    """
    if type(y0).__module__ == "numpy":  # its float64 is a float of Python's too, but says its dtype
        y0 = torch.as_tensor(y0)
    elif isinstance(y0, list | tuple) and y0 and all(isinstance(v, int | float | complex) for v in y0):
        y0 = torch.tensor(y0)  # SciPy's habit: a list of numbers is a vector
        y0 = y0 if y0.is_floating_point() or y0.is_complex() else y0.to(torch.get_default_dtype())
    elif isinstance(y0, float | int | complex):
        y0 = torch.tensor(y0, dtype=None if isinstance(y0, complex) else torch.get_default_dtype())
    if isinstance(y0, Tensor):
        leaves, spec = [y0], None
    else:
        leaves, spec = pytree.tree_flatten(y0)
    if not leaves:
        raise ValueError(f"y0 holds no tensor (got {y0!r}); pass a tensor, or a dict, list or tuple of tensors")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ValueError(
                f"y0 must be a tensor or a pytree of tensors, but one leaf is {type(leaf).__name__}; "
                "make it a tensor with torch.as_tensor"
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise ValueError(f"y0 has dtype {leaf.dtype}, but a state must be floating or complex; use y0.float()")
        if leaf.layout is not torch.strided:
            raise ValueError(f"y0 has layout {leaf.layout}, but a state must be dense; use y0.to_dense()")
    if len({leaf.dtype for leaf in leaves}) > 1:
        raise ValueError(f"y0 mixes dtypes {sorted({str(leaf.dtype) for leaf in leaves})}; convert its leaves to one")
    if len({leaf.device for leaf in leaves}) > 1:
        raise ValueError(f"y0 mixes devices {sorted({str(leaf.device) for leaf in leaves})}; move its leaves to one")
    if by_row:
        rows = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
        if len(rows) > 1 or None in rows:
            shapes = [tuple(leaf.shape) for leaf in leaves]
            raise ValueError(
                "batching='per_sample' needs one batch as the first dimension of y0, got shapes "
                f"{shapes}; use batching='joint', or give every leaf the batch first"
            )
    layout = Layout(spec, tuple(leaf.shape for leaf in leaves), by_row)
    return layout, layout.pack(y0)
