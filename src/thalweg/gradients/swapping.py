"""Other tensors in the place of those that a function holds, wherever it keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Swapped(TorchFunctionMode):
    """A context in which each operation of PyTorch is given others in the place of some tensors.

    Parameters
    ----------
    table : mapping
        The others, by the identity of the tensors that they stand for.
    """

    def __init__(self, table: Mapping[int, Tensor | None]) -> None:
        super().__init__()
        self._table = table

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return function(*map(self._swapped, args), **{name: self._swapped(x) for name, x in (kwargs or {}).items()})

    def _swapped(self, x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(map(self._swapped, x)) if type(x) in (list, tuple) else x
        return self._table.get(id(x), x) if isinstance(x, Tensor) else x
