"""Small matrices of each sample, told in terms of operations on their rows: Gauss' elimination, entry by entry.

a: (..., n, n). b: (..., n, m).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .builder import Untraceable

LARGEST = 8
"""The most rows of a matrix that is eliminated: each pair of them is some instructions."""


def solved(a: Tensor, b: Tensor, *, shared: bool) -> Tensor:
    """The solution of a x = b; a matrix that all samples have in common is inverted before the solve."""
    if shared:
        return torch.linalg.inv(a) @ b
    n = a.shape[-1]
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows, _ = _eliminated(torch.cat([a.expand(*batch, n, n), b.expand(*batch, n, b.shape[-1])], -1))
    return _substituted(
        [row[..., : n - k] for k, row in enumerate(rows)], [row[..., n - k :] for k, row in enumerate(rows)]
    )


def solved_triangular(a: Tensor, b: Tensor, *, upper: bool, unit: bool) -> Tensor:
    """The solution of a x = b, of which one triangle of a counts, and its diagonal unless that is of ones."""
    if not upper:
        return solved_triangular(a.flip(-2, -1), b.flip(-2), upper=True, unit=unit).flip(-2)
    _refuse_large(a)
    heads = [row[..., k:] for k, row in enumerate(a.unbind(-2))]
    if unit:
        heads = [torch.cat([torch.ones_like(head[..., :1]), head[..., 1:]], -1) for head in heads]
    return _substituted(heads, b.unbind(-2))


def determinant(a: Tensor) -> Tensor:
    """The determinant, as a polynomial where that is short: it has a derivative also where it is 0."""
    n = a.shape[-1]
    if n == 1:
        return a[..., 0, 0]
    if n == 2:
        return a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
    if n == 3:
        first, second, third = a.unbind(-2)
        return (first * torch.linalg.cross(second, third)).sum(-1)
    diagonal, sign = _pivots(a)
    return sign * torch.stack(diagonal, -1).prod(-1)


def log_determinant(a: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of the determinant, and the logarithm of its size."""
    if a.shape[-1] <= 3:
        found = determinant(a)
        return found.sign(), found.abs().log()
    diagonal, sign = _pivots(a)
    pivots = torch.stack(diagonal, -1)
    return sign * pivots.sign().prod(-1), pivots.abs().log().sum(-1)


def cholesky(a: Tensor, upper: bool) -> Tensor:
    """The lower triangular L of a = L L', column by column; or its transpose. Of a, both halves have the gradient."""
    _refuse_large(a)
    left = (a + a.mT) / 2
    columns: list[Tensor] = []
    while True:
        column = left[..., 0] / left[..., 0, :1].sqrt()
        columns.append(torch.nn.functional.pad(column, (len(columns), 0)))
        if len(columns) == a.shape[-1]:
            break
        left = left[..., 1:, 1:] - column[..., 1:, None] * column[..., None, 1:]
    return torch.stack(columns, -2 if upper else -1)


def _pivots(a: Tensor) -> tuple[list[Tensor], Tensor]:
    rows, sign = _eliminated(a)
    return [row[..., 0] for row in rows], sign[..., 0]


def _eliminated(a: Tensor) -> tuple[list[Tensor], Tensor]:
    """The rows of what is left, each from its diagonal on, and the sign (..., 1) of the order that rows were put in.

    Each sample has its own pivots, the largest that there are.
    """
    _refuse_large(a)
    rows, done = list(a.unbind(-2)), []
    sign = torch.ones_like(a[..., 0, :1])
    while rows:
        pivot, *others = rows
        for i, other in enumerate(others):
            swap = other[..., :1].abs() > pivot[..., :1].abs()
            pivot, others[i] = torch.where(swap, other, pivot), torch.where(swap, pivot, other)
            sign = torch.where(swap, -sign, sign)
        done.append(pivot)
        head = torch.where(pivot[..., :1] == 0, 1.0, pivot[..., :1])  # where it is 0, so are those below it
        rows = [row[..., 1:] - row[..., :1] / head * pivot[..., 1:] for row in others]
    return done, sign


def _substituted(heads: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The solution (..., n, m) of an upper triangular system, whose rows are given from their diagonal on."""
    found: list[Tensor] = []
    for head, value in zip(reversed(heads), reversed(b), strict=True):
        for k, x in enumerate(found, 1):
            value = value - head[..., k : k + 1] * x
        found.insert(0, value / head[..., :1])
    return torch.stack(found, -2)


def _refuse_large(a: Tensor) -> None:
    if a.shape[-2] > LARGEST:
        raise Untraceable(
            f"the field solves with a matrix of {a.shape[-2]} rows that depends on the sample; the native engine takes "
            f"up to {LARGEST}"
        )
