"""Tensors that a field reads and that no gradient goes to: a way back that evaluates it again must find them as they
were.

Autograd watches over what it has saved, and a solve's own backward pass saves what gradients go to. The rest, such as a
mask in args, a frozen parameter or a buffer, is watched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.field import version_of


class Constants:
    """How often each of them has been written to.

    Parameters
    ----------
    tensors : iterable of Tensor
        Those that a field may read.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._versions = [(x, version_of(x)) for x in tensors]

    def settle(self) -> None:
        """The solve is over: what it has written to itself, such as a count of calls, is no constant."""
        self._versions = self._changed(False)

    def check(self, evaluate: Callable[[], object]) -> None:
        """Refuse what was written to since, if one evaluation of the field reads it.

        Raises
        ------
        RuntimeError
            When there is such a tensor.
        """
        changed = self._changed(True)
        if not changed:
            return
        with _Reads() as reads:
            evaluate()
        for x, _ in changed:
            if reads.has(x):
                raise RuntimeError(
                    f"a tensor of shape {tuple(x.shape)} that the field reads has been modified by an inplace operation"
                    " between the solve and its backward pass, which evaluates the field again; change it after "
                    "backward(), or give the field a clone of it"
                )

    def _changed(self, changed: bool) -> list[tuple[Tensor, int]]:
        return [(x, version) for x, version in self._versions if (version_of(x) != version) is changed]


class _Reads(TorchDispatchMode):
    """Notes the memory that operations are given."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[Any] = set()

    def has(self, x: Tensor) -> bool:
        """Whether one of them was given that tensor, or a view of it."""
        return self._memory(x) in self._seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._seen.update(self._memory(x) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        return func(*args, **kwargs)

    @staticmethod
    def _memory(x: Tensor) -> Any:
        return x.untyped_storage()._cdata if torch._C._has_storage(x) else id(x)
