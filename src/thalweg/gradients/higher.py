"""Derivatives of any order of what was computed without a graph.

A gradient g = G(x) that a backward pass of its own has made is no part of a graph. It is made one here: where it is
differentiated, G is computed once more from copies of x, with a graph, and its derivative is again such a function, of
x and of the cotangents. Nothing of this is done before it is asked for.

The copies keep apart what one tensor is for: y0 may have been computed from a tensor that the field uses too, and the
derivative by each must be that alone. What a function holds cannot be copied, and stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Values: TypeAlias = Sequence[Tensor]
"""Tensors in a fixed order."""


@dataclass(frozen=True)
class Recipe:
    """How values follow from tensors.

    Attributes
    ----------
    values : callable
        values(tensors, create_graph), as part of a graph from these tensors if asked to be.
    held : sequence of bool
        Which of the tensors cannot be replaced by copies.
    """

    values: Callable[[Values, bool], Values]
    held: Sequence[bool]

    def of(self, tensors: Values, create_graph: bool) -> Values:
        """The values, from copies of those tensors that can be copied."""
        copies = [
            x if held else x.detach().requires_grad_(x.requires_grad)
            for x, held in zip(tensors, self.held, strict=True)
        ]
        with torch.enable_grad():
            return self.values(copies, create_graph)

    def pulled(self, needed: Sequence[bool], count: int) -> Recipe:
        """How the gradients to the tensors that are needed follow from the tensors and from `count` cotangents."""

        def gradients(given: Values, create_graph: bool) -> Values:
            tensors, cotangents = given[:-count], given[-count:]
            pairs = [(x, c) for x, c in zip(self.values(tensors, True), cotangents, strict=True) if x.requires_grad]
            wanted = [x for x, need in zip(tensors, needed, strict=True) if need]
            if not pairs:
                return [torch.zeros_like(x) for x in wanted]
            values, weights = zip(*pairs, strict=True)
            return gradients_of(values, wanted, weights, create_graph)

        return Recipe(gradients, [*self.held, *[False] * count])


def gradients_of(outputs: Values, wanted: Values, cotangents: Values, create_graph: bool) -> Values:
    """Gradients, zero where there are none; a graph behind what a function holds is left as it is."""
    found = torch.autograd.grad(
        outputs, wanted, cotangents, retain_graph=True, create_graph=create_graph, allow_unused=True
    )
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, wanted, strict=True)]


def in_graph(recipe: Recipe, values: Values, tensors: Values) -> Values:
    """The values, which the recipe makes of the tensors, as functions of them that have derivatives of any order."""
    return _Values.apply(recipe, values, *tensors)


class _Values(torch.autograd.Function):
    """How PyTorch sees values and their recipe."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, values: Values, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.recipe = recipe
        ctx.save_for_backward(*tensors)
        return tuple(x.clone() for x in values)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[2:]
        recipe = ctx.recipe.pulled(needed, len(cotangents))
        tensors = (*ctx.saved_tensors, *cotangents)
        values = recipe.of(tensors, False)
        if torch.is_grad_enabled():  # create_graph=True
            values = in_graph(recipe, values, tensors)
        found = iter(values)
        return (None, None, *(next(found) if need else None for need in needed))
