"""GMRES for the linear systems of many rows at once, each on its own (Saad & Schultz 1986).

b, x: (R, N). A basis of K vectors: (K, R, N); what it makes of the matrix: (R, K + 1, K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

_BASIS = 50
"""The vectors after which it begins again from where it is."""


Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""product(v, asked): the matrix of each row times v, for the rows that ask for it."""


def gmres(product: Product, b: Tensor, *, rtol: float, cycles: int) -> tuple[Tensor, Tensor]:
    """X whose product is b, and the norm of what is left of each row relative to b.

    A row that has come within rtol stays as it is, whatever the others do.
    """
    x, length = torch.zeros_like(b), b.norm(dim=1)
    left, ratio = b, torch.where(length > 0, 1.0, 0.0)
    for cycle in range(cycles):
        if cycle:
            left = b - product(x, ratio > rtol)
        change, found = _cycle(product, left, rtol * length, ratio <= rtol)
        x = x + change
        ratio = torch.where(ratio <= rtol, ratio, found / torch.where(length > 0, length, 1.0))
        if bool((ratio <= rtol).all()):
            break
    return x, ratio


def _cycle(product: Product, b: Tensor, goal: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
    """The change of x that one basis gives, and the norm of what is left of b."""
    most = min(_BASIS, b.shape[1])
    length = b.norm(dim=1)
    basis = [_unit(b, length)]
    matrix = b.new_zeros(len(b), most + 1, most)
    change, left = torch.zeros_like(b), length
    for k in range(most):
        w = product(basis[k], ~done)
        broken = ~torch.isfinite(w).all(1)  # such a row stays with what it has
        done, w = done | broken, torch.where(broken.unsqueeze(1), 0.0, w)
        spanned = torch.stack(basis)
        for _ in range(2):  # once is not enough for vectors that are orthogonal to rounding
            parts = torch.einsum("krn,rn->rk", spanned, w)
            w = w - torch.einsum("rk,krn->rn", parts, spanned)
            matrix[:, : k + 1, k] += parts
        matrix[:, k + 1, k] = w.norm(dim=1)
        basis.append(_unit(w, matrix[:, k + 1, k]))
        small = matrix[:, : k + 2, : k + 1]
        aim = b.new_zeros(len(b), k + 2, 1)
        aim[:, 0, 0] = length
        weights = torch.linalg.pinv(small) @ aim
        norm = (small @ weights - aim).norm(dim=(1, 2))
        better = torch.einsum("rk,krn->rn", weights.squeeze(-1), spanned)
        change = torch.where(done.unsqueeze(1), change, better)
        left = torch.where(done, left, norm)
        done = done | (left <= goal)
        if bool(done.all()):
            break
    return change, left


def _unit(w: Tensor, length: Tensor) -> Tensor:
    """W of length 1, or 0 where nothing is left of it."""
    return w / torch.where(length > 0, length, 1.0).unsqueeze(1)
