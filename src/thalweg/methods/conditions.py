"""The order conditions of Runge–Kutta methods: a sum for each rooted tree.

A tree is the sorted tuple of the trees on its root, so that of one node is (). A method with coefficients a and weights
b has order p where, for every tree of up to p nodes,

    sum_i b_i Phi_i = 1 / gamma,    Phi_i = product over the trees u on the root of sum_j a_ij Phi_j(u),

and gamma is the product of the sizes of all subtrees (Hairer, Nørsett & Wanner 1993, II.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, TypeAlias

from .tableau import RungeKutta, Tableau

Tree: TypeAlias = tuple[Any, ...]

_EXACT = 1e-10  # relative to what is summed: published coefficients have been rounded, and rounding adds up
_PLACES = (0.2, 0.5, 0.9, 1.0)  # in the step, where an interpolant is looked at


@cache
def check_order(method: RungeKutta) -> None:
    """Refuse a method that is not of the orders it declares.

    Raises
    ------
    ValueError
        When its weights, those of an embedded method or its interpolant miss a condition; the message says which.
    """
    _check("b", method.a, method.b, "order", method.order)
    for name, order in (("b_error", "embedded_order"), ("b_coarse", "coarse_order")):
        difference = getattr(method, name, None)
        if difference is not None:
            # the slope at the start is a stage of its own, where the estimate takes it in
            rows = ((), *((0.0, *row) for row in method.a))
            weights = [-getattr(method, "slope_error", 0.0)]
            weights += [b - e for b, e in zip(method.b, difference, strict=True)]
            _check(f"b - {name}", rows, weights, order, getattr(method, order))
    rows = (*method.a, *method.dense_a) if isinstance(method, Tableau) else method.a
    for theta in _PLACES:
        weights = [math.fsum(c * theta**n for n, c in enumerate(row, start=1)) for row in method.interpolant]
        name = f"interpolant at theta = {theta:g}"
        _check(name, rows, weights, "interpolant_order", method.interpolant_order, theta)
    ends = (*method.b, *(0.0,) * (len(method.interpolant) - len(method.b)))
    for row, end in zip(method.interpolant, ends, strict=True):
        if abs(math.fsum(row) - end) > _EXACT * (1 + sum(map(abs, row))):
            raise ValueError(
                f"each row of interpolant must add up to its b, {end:.10g}, but one does to {sum(row):.10g}"
            )


def _check(
    name: str, a: Sequence[Sequence[float]], b: Sequence[float], declared: str, order: int, theta: float = 1.0
) -> None:
    """Refuse weights b that miss a condition up to that order, for a step of theta h."""
    known: dict[Tree, list[float]] = {}
    for size in range(1, order + 1):
        for tree in trees(size):
            terms = [weight * phi for weight, phi in zip(b, _stage_weights(a, tree, known), strict=True)]
            found, expected = math.fsum(terms), theta**size / _density(tree)
            if not abs(found - expected) <= _EXACT * (1 + sum(map(abs, terms))):
                raise ValueError(
                    f"{declared}={order} is not met: for the tree {_written(tree)} of order {size} the weighted sum of "
                    f"{name} is {found:.10g}, and must be {expected:.10g}; correct the coefficients, or declare "
                    f"{declared}={size - 1}"
                )


@cache
def trees(size: int) -> tuple[Tree, ...]:
    """All rooted trees of that many nodes."""
    return tuple(tuple(sorted(children)) for children in _forests(size - 1, size - 1))


@cache
def _forests(size: int, largest: int) -> tuple[tuple[Tree, ...], ...]:
    """All multisets of trees with that many nodes in all, none larger than `largest`."""
    if size == 0:
        return ((),)
    found: list[tuple[Tree, ...]] = []
    for first in range(min(size, largest), 0, -1):
        for count in range(1, size // first + 1):
            for chosen in combinations_with_replacement(trees(first), count):
                found += [chosen + rest for rest in _forests(size - first * count, first - 1)]
    return tuple(found)


def _size(tree: Tree) -> int:
    return 1 + sum(map(_size, tree))


def _density(tree: Tree) -> int:
    """The product of the sizes of all subtrees."""
    return _size(tree) * math.prod(map(_density, tree))


def _stage_weights(a: Sequence[Sequence[float]], tree: Tree, known: dict[Tree, list[float]]) -> list[float]:
    """Phi_i; `known` keeps sum_j a_ij Phi_j of the trees that were met before."""
    weights = [1.0] * len(a)
    for child in tree:
        if child not in known:
            below = _stage_weights(a, child, known)
            # a row ends where its zeros begin
            known[child] = [math.fsum(x * phi for x, phi in zip(row, below, strict=False)) for row in a]
        weights = [weight * factor for weight, factor in zip(weights, known[child], strict=True)]
    return weights


def _written(tree: Tree) -> str:
    """In Butcher's brackets."""
    return f"[{', '.join(map(_written, tree))}]" if tree else "τ"
