"""Rooted trees and the order conditions of Runge–Kutta methods (Hairer, Nørsett & Wanner I, II.2).

A tree is the sorted tuple of the trees on its root; the tree of one node is ().
"""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement
from math import prod

import numpy as np

Tree = tuple


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees of that many nodes."""
    return tuple(tuple(sorted(children)) for children in _forests(order - 1, order - 1))


@cache
def _forests(nodes: int, largest: int) -> tuple[tuple[Tree, ...], ...]:
    """All multisets of trees with that many nodes in all, none larger than `largest`."""
    if nodes == 0:
        return ((),)
    found = []
    for size in range(min(nodes, largest), 0, -1):
        for count in range(1, nodes // size + 1):
            for chosen in combinations_with_replacement(trees(size), count):
                found += [chosen + rest for rest in _forests(nodes - size * count, size - 1)]
    return tuple(found)


def size(tree: Tree) -> int:
    """The number of nodes."""
    return 1 + sum(size(child) for child in tree)


def density(tree: Tree) -> int:
    """Gamma: the product of the sizes of all subtrees."""
    return size(tree) * prod(density(child) for child in tree)


def stage_weights(a: np.ndarray, tree: Tree, known: dict[Tree, np.ndarray] | None = None) -> np.ndarray:
    """Phi_i: what the tree asks of each stage; `known` keeps a @ Phi of trees that were met before."""
    known = {} if known is None else known
    weights = np.ones(len(a))
    for child in tree:
        if child not in known:
            known[child] = a @ stage_weights(a, child, known)
        weights = weights * known[child]
    return weights


def defect(a: np.ndarray, b: np.ndarray, order: int, theta: float = 1.0) -> float:
    """The largest violation of the conditions up to that order, by weights b for a step of theta h."""
    known: dict[Tree, np.ndarray] = {}
    return max(
        abs(b @ stage_weights(a, tree, known) - theta**n / density(tree))
        for n in range(1, order + 1)
        for tree in trees(n)
    )
