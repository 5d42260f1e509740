"""Which rows of what belongs to the rows of a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def rows_of(value: Any, rows: Tensor, whole: int) -> Any:
    """Those rows, (M,) indices, of every tensor in a pytree that has an entry for each of the `whole`.

    Data classes are looked into as well; what else is no pytree stays as it is.

    Examples
    --------
    >>> import torch
    >>> rows_of({"a": torch.arange(3), "b": torch.arange(2)}, torch.tensor([0, 2]), 3)
    {'a': tensor([0, 2]), 'b': tensor([0, 1])}
    """

    def part(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.index_select(0, rows) if x.ndim and x.shape[0] == whole else x
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            parts = {field.name: getattr(x, field.name) for field in dataclasses.fields(x) if field.init}
            return dataclasses.replace(x, **rows_of(parts, rows, whole))
        return x

    return pytree.tree_map(part, value)


def stand_ins(good: Tensor) -> Tensor:
    """Every row itself where it is good (B,), and the first good one in place of each that is not: (B,) indices.

    What is computed of a failed row is thrown away, but must be finite where rows share a gradient: 0 * NaN is NaN.

    Examples
    --------
    >>> import torch
    >>> stand_ins(torch.tensor([False, True, True]))
    tensor([1, 1, 2])
    """
    return torch.where(good, torch.arange(len(good), device=good.device), good.to(torch.int64).argmax())
