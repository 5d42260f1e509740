"""What tells a solve from others whose way may be another: all of it but the numbers in its state and arguments.

A key is a tuple of such tuples and of plain values; the compiled module compares them (`found_by`): 1 is not 1.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.norms import AsGiven, LargestOfLeaves
from ..gradients import Checkpointed, DirectOrNative
from ..stepsize.controllers import PID

_TENSORS = (Tensor, torch.nn.Parameter)

_MOST = 4096
"""The most times that are compared one by one."""

_PLAIN = {
    *(
        float,
        int,
        bool,
        str,
        bytes,
        type(None),
        torch.dtype,
        torch.Size,
        torch.layout,
        PID,
        Checkpointed,
        DirectOrNative,
        LargestOfLeaves,
    ),
    *map(type, (pytree.tree_structure(0), pytree.tree_structure(()))),
}
"""Values that are told apart by what they are, and do not change."""


def key_of(y0: Any, t_span: Any, t_eval: Any, *options: Any) -> tuple[Any, ...] | None:
    """The key of a solve; None where its state is nothing to be asked, and has to be looked at first."""
    if type(y0) in _TENSORS:
        return kind_of(y0), _span(t_span), _times(t_eval), options
    if type(y0) not in (tuple, dict, list):
        return None
    leaves, structure = pytree.tree_flatten(y0)
    if not leaves or not all(type(x) in _TENSORS for x in leaves):
        return None
    return structure, tuple(map(kind_of, leaves)), _span(t_span), _times(t_eval), options


def kind_of(x: Tensor) -> tuple[Any, ...]:
    """What tells a tensor from others, but for its numbers, and whether it needs a gradient."""
    return type(x), x.shape, x.dtype, x.layout, x.is_cpu


def is_plain(key: Any) -> bool:
    """Whether a key is made of plain values alone, so that what is equal to it is the same."""
    if type(key) is tuple:
        return all(map(is_plain, key))
    # by identity: a tensor, which is no plain value, would be compared number by number
    kind = any(key is kind for kind in _TENSORS)
    return kind or type(key) in _PLAIN or (type(key) is AsGiven and is_plain(key.rtol))


def _span(t_span: Any) -> Any:
    """Both ends as a part of a key."""
    if (type(t_span) is tuple or type(t_span) is list) and len(t_span) == 2:
        t0, t1 = t_span
        return _times(t0), _times(t1)
    return _times(t_span)


def _times(times: Any) -> Any:
    """A time, or some, as a part of a key; where they cannot be told from others themselves, which are not plain."""
    kind = type(times)
    if kind is Tensor:
        if times.requires_grad or not times.is_cpu or times.numel() > _MOST:
            return times
        try:
            return times.dtype, times.shape, times.numpy().tobytes()
        except (RuntimeError, TypeError):  # of a transform, or of a dtype that NumPy does not know
            return times
    if kind is np.ndarray:
        return times if times.size > _MOST else (times.dtype.str, times.shape, times.tobytes())
    if kind is list or kind is tuple:
        return times if len(times) > _MOST else tuple(times)
    return times
