"""What slides a window along dimensions: convolutions and pools, told in terms of moves, products and sums.

x: (N, C, *S), with L places of a window of K entries along each of S. weight: (R, C / groups, *K).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .builder import Untraceable

_MOST = 1 << 16
"""The most multiplications in a convolution of a sample: beyond it, those of PyTorch are no slower."""


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """A product of the weight and of each window."""
    dims, sizes = weight.ndim - 2, weight.shape[2:]
    stride, padding, dilation, extra = (_spread(n, dims) for n in (stride, padding, dilation, output_padding))
    before = after = padding
    if transposed:  # the same among zeros, turned over
        reach = [d * (k - 1) for d, k in zip(dilation, sizes, strict=True)]
        before = [r - p for r, p in zip(reach, padding, strict=True)]
        after = [b + e for b, e in zip(before, extra, strict=True)]
        x, stride = _apart(x, stride), [1] * dims
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(*range(2, dims + 2))
    found = _windows(x, sizes, stride, before, after, dilation, times=len(weight) // groups)
    places = found.shape[2 : dims + 2]
    rows = found.unflatten(1, (groups, -1)).movedim(2, dims + 2).flatten(dims + 2).movedim(1, 0).flatten(1, -2)
    matrices = weight.flatten(1).unflatten(
        0, (groups, -1)
    )  # (groups, R / groups, C / groups * K), as rows (groups, N L, …)
    if groups == 1:
        out = functional.linear(rows[0], matrices[0], bias)[None]
    else:
        out = rows @ matrices.mT
        out = out if bias is None else out + bias.view(groups, 1, -1)
    return out.unflatten(1, (len(x), *places)).movedim(0, 1).movedim(-1, 2).flatten(1, 2)


def _windows(
    x: Tensor,
    sizes: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    dilation: Sequence[int],
    fill: float = 0.0,
    times: int = 1,
) -> Tensor:
    """The entries (N, C, *L, *K) of each window, each used so many times; x is continued before and after."""
    dims = len(sizes)
    if any((*before, *after)):
        pads = reversed([*zip(before, after, strict=True)])
        x = functional.pad(x, [n for pair in pads for n in pair], value=fill)
    reach = [d * (k - 1) for d, k in zip(dilation, sizes, strict=True)]
    starts = [range(0, n - r, step) for n, r, step in zip(x.shape[2:], reach, stride, strict=True)]
    count = times * x.shape[1] * math.prod(sizes) * math.prod(len(places) for places in starts)
    if count > _MOST:
        raise Untraceable(
            f"the field slides windows over a sample, {count} multiplications; the native engine takes up to {_MOST}"
        )
    for d in range(dims):
        within = torch.arange(0, reach[d] + 1, dilation[d], device="cpu")
        places = torch.tensor([*starts[d]], device="cpu")[:, None] + within
        x = x.index_select(2 + 2 * d, places.flatten()).unflatten(2 + 2 * d, places.shape)
    return x.permute(0, 1, *range(2, 2 * dims + 2, 2), *range(3, 2 * dims + 3, 2))


def average(
    x: Tensor,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window."""
    x, within = _batched(x, len(size))
    items = _pooled(x, size, stride, padding, (1,), ceil_mode, 0.0)
    if divisor_override is not None:
        return within(items.sum(-1) / divisor_override)
    if ceil_mode or not count_include_pad:
        if ceil_mode and count_include_pad and any(padding):
            raise Untraceable("the field takes means over windows that end beyond what is padded (ceil_mode)")
        ones = torch.ones(x.shape[1:], dtype=x.dtype, device=x.device)[None]
        return within(items.sum(-1) / _pooled(ones, size, stride, padding, (1,), ceil_mode, 0.0).sum(-1))
    return within(items.mean(-1))


def _pooled(
    x: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    fill: float,
) -> Tensor:
    """The entries (N, C, *L, K) of each window."""
    dims = len(size)
    padding, dilation = _spread(padding, dims), _spread(dilation, dims)
    stride = _spread(stride, dims) if len(stride) else list(size)
    after = list(padding)
    if ceil_mode:  # a window more, if it begins before what is padded behind
        for d, s in enumerate(x.shape[2:]):
            free = s + 2 * padding[d] - dilation[d] * (size[d] - 1) - 1
            count = -(-free // stride[d])
            count -= count * stride[d] >= s + padding[d]
            after[d] += max(count * stride[d] - free, 0)
    return _windows(x, size, stride, padding, after, dilation, fill).flatten(2 + dims)


def largest(
    x: Tensor,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """The largest entry of each window; of equal ones the first gets the gradient."""
    x, within = _batched(x, len(size))
    return within(_pooled(x, size, stride, padding, dilation, ceil_mode, -math.inf).max(-1).values)


def _batched(x: Tensor, dims: int) -> tuple[Tensor, Any]:
    """An image, (N, C, *S), and how the result is made one of few dimensions again."""
    return (x, lambda out: out) if x.ndim == dims + 2 else (x[None], lambda out: out[0])


def _spread(numbers: Sequence[int], dims: int) -> list[int]:
    """One for each dimension, where one stands for all."""
    return list(numbers) * dims if len(numbers) == 1 else list(numbers)


def _apart(x: Tensor, stride: Sequence[int]) -> Tensor:
    """With zeros between the entries."""
    for d, step in enumerate(stride, 2):
        length = (x.shape[d] - 1) * step + 1
        x = functional.pad(x.movedim(d, -1).unsqueeze(-1), (0, step - 1)).flatten(-2)[..., :length].movedim(-1, d)
    return x
