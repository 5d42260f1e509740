"""Forward-mode sensitivities: the tangents of all sources travel with the solve, and the backward pass is one product.

For each number x_k that a gradient goes to, ẏ_k = ∂ys/∂x_k is carried through every operation of the loop, by dual
numbers. With c = dL/dys the gradient is then dL/dx_k = <c, ẏ_k>. Step sizes have no tangents, as they have no gradient
in `direct`.

K: the number of tangents; ys: (T, *shape) in joint, (T, B, *D) per sample; tangents: (K, *ys.shape). Per sample one
tangent serves all rows of y0, t0 and t1, since rows do not depend on each other; and one serves all times of t_eval,
since each moves its own output alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, func
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from ..core.derivatives import unwrapped
from ..core.holdings import all_tensors, scripted_tensors
from ..loop.integrate import GraphTimes, Problem, Result
from .base import Integrate, Request, SolveNode, Sources
from .capture import check_reach
from .swapping import Swapped

_Reach: TypeAlias = Literal["all", "row", "output"]
"""What an entry of a source moves: all outputs, those of its row, or one."""


@dataclass(frozen=True)
class Forward:
    """The exact gradient by forward-mode differentiation: for few parameters and many outputs.

    Its memory does not depend on the number of steps. Its cost grows with the numbers that need a gradient: each
    takes a tangent with it through the whole solve.

    Parameters
    ----------
    limit : int
        The most tangents: one for each number in args and parameters, in y0, t0 and t1 (per sample, for each in a row
        of these), and one for t_eval. Complex numbers take two.
    at_once : int, optional
        How many of them are carried together, in a solve of their own; all where it is left out.

    Examples
    --------
    >>> import torch, thalweg
    >>> rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> y0 = torch.ones(1, dtype=torch.float64)
    >>> decay = lambda t, y, k: -k * y
    >>> sol = thalweg.solve_ivp(decay, (0, 1), y0, args=(rate,), gradient="forward", rtol=1e-9, atol=1e-9)
    >>> sol.ys[-1].sum().backward()
    >>> round(rate.grad.item(), 6)
    -0.367879
    """

    limit: int = 100
    at_once: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), ("at_once", self.at_once)):
            if not (value is None and name == "at_once") and not (
                isinstance(value, int) and not isinstance(value, bool) and value > 0
            ):
                raise ValueError(f"{name} of thalweg.Forward must be a positive integer, got {value!r}")

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Solve with tangents, and put the product with them behind the outputs."""
        return _Node.solve(integrate, request, self)


class _Node(SolveNode):
    """One solve, and the tangents of its outputs."""

    apart = True

    def __init__(self, integrate: Integrate, request: Request, sources: Sources, options: Forward) -> None:
        super().__init__(integrate, request, sources)
        self.options = options
        for x in all_tensors((request.field.args, sources.functions)):
            if x.layout is not torch.strided:
                raise ValueError(
                    f"gradient='forward' cannot go through sparse tensors, and the field has one of layout {x.layout}; "
                    "give its .to_dense(), or choose gradient='checkpointed'"
                )
        where: _Reach = "row" if request.problem.batching.by_row else "all"
        tensors = sources.tensors()
        reach: list[_Reach] = [where, where, where, "output", *["all"] * (len(tensors) - 4)]  # type: ignore[list-item]
        self.seeds = [
            None if x is None or not x.requires_grad else _Seeds(x.detach().contiguous(), kind)
            for x, kind in zip(tensors, reach, strict=True)
        ]
        self.wanted = [x for x in self.seeds if x is not None]
        self._refuse()

    def forward(self) -> Result:
        results: list[Result] = []

        def solve(alone: bool, *values: Tensor) -> Tensor:
            results.append(self.integrate(self._problem_with(values, alone)))
            return results[-1].ys

        starts, vectors = [seeds.source for seeds in self.wanted], self._vectors()
        size = self.options.at_once or self.count
        firsts = range(0, self.count, size)
        self.tangents = torch.cat([_pushed(solve, starts, [x[i : i + size] for x in vectors]) for i in firsts])
        return _plain_result(results[-1])

    def backward(self, cotangent: Tensor, ys: Tensor | None) -> Sequence[Tensor | None]:
        parts = iter(self.tangents.split([seeds.count for seeds in self.wanted]))
        return [None if seeds is None else seeds.gradient(cotangent, next(parts)) for seeds in self.seeds]

    @property
    def count(self) -> int:
        """The number of tangents."""
        return sum(seeds.count for seeds in self.wanted)

    def _refuse(self) -> None:
        """Refuse what forward mode cannot go through, or should not."""
        if self.request.problem.stepper.implicit:
            raise ValueError(
                "gradient='forward' cannot go through the Jacobians that this method makes; choose an explicit method, "
                "or gradient='checkpointed'"
            )
        if any(x.requires_grad for x in scripted_tensors(self.sources.functions)):
            raise ValueError(
                "gradient='forward' cannot see what happens inside of scripted and traced modules, and the field holds "
                "one with parameters that need a gradient; give the module itself, or choose gradient='checkpointed'"
            )
        if self.count > self.options.limit:
            raise ValueError(
                f"gradient='forward' takes a tangent along for each number that needs a gradient, here {self.count:,}, "
                f"and its limit is {self.options.limit:,}; choose gradient='checkpointed', whose cost does not grow "
                f"with them, or raise the limit: thalweg.Forward(limit={self.count})"
            )

    def _vectors(self) -> list[Tensor]:
        """The tangents of each source, (K, *source.shape): all zero but for its own."""
        vectors, first = [], 0
        for seeds in self.wanted:
            own = seeds.vectors()
            around = own.new_zeros(self.count, *own.shape[1:])
            around[first : first + seeds.count] = own
            vectors.append(around)
            first += seeds.count
        return vectors

    def _problem_with(self, values: Sequence[Tensor], alone: bool) -> Problem:
        """The problem with duals for the sources; nothing in it leads to a graph."""
        given, sources = iter(values), self.sources
        tensors = sources.tensors()
        duals = [
            x if x is None else x.detach() if seeds is None else next(given)
            for x, seeds in zip(tensors, self.seeds, strict=True)
        ]
        y0, t0, t1, t_eval, *rest = duals
        assert y0 is not None
        arguments, captured = rest[: len(sources.arguments)], rest[len(sources.arguments) :]
        field = sources.field_with(arguments)  # type: ignore[arg-type]
        table = {id(x): dual for x, dual in zip(sources.captured, captured, strict=True)}
        fun = field.fun
        both = isinstance(fun, tuple | list)
        swapped = tuple(_Dual(part, table, alone) for part in fun) if both else _Dual(fun, table, alone)
        times = None if t0 is None or t1 is None else GraphTimes(t0, t1, t_eval)
        return replace(self.request.problem, field=field.changed(fun=swapped)).with_graph(y0, times)


class _Seeds:
    """The tangents of one source, and the gradient that they give."""

    def __init__(self, source: Tensor, reach: _Reach) -> None:
        self.source, self._reach = source, reach
        shape = {"all": source.shape, "row": source.shape[1:], "output": ()}[reach]
        self._entries = math.prod(shape)
        self.count = self._entries * (2 if source.is_complex() else 1)

    def vectors(self) -> Tensor:
        """(count, *source.shape): an entry each, of all rows alike where they share it; then times i if complex."""
        x = self.source
        if self._reach == "output":
            return torch.ones_like(x).unsqueeze(0)
        eye = torch.eye(self._entries, dtype=x.dtype, device=x.device)
        if self._reach == "row":
            eye = eye.unsqueeze(1).expand(self._entries, len(x), self._entries)
        eye = eye.reshape(self._entries, *x.shape)
        return torch.cat([eye, 1j * eye]) if x.is_complex() else eye

    def gradient(self, cotangent: Tensor, tangents: Tensor) -> Tensor:
        """The gradient, from dL/dys (T, …) and the tangents of ys (count, T, …)."""
        x = self.source
        # a row that failed has no tangent, and is asked for none
        product = torch.where(cotangent == 0, 0.0, (cotangent.conj() * tangents).real)
        if self._reach == "output":
            return product[0].flatten(x.ndim).sum(-1).to(x.dtype)
        if self._reach == "row":
            parts = product.transpose(1, 2).flatten(2).sum(-1).t().to(x.real.dtype)  # (B, count)
        else:
            parts = product.flatten(1).sum(-1).to(x.real.dtype)
        if x.is_complex():
            parts = torch.complex(*parts.tensor_split(2, -1))
        return parts.reshape(x.shape)


class _Dual:
    """A user's function in which duals stand in the place of captured tensors.

    Every operation of PyTorch on a captured tensor is made to see its dual, wherever it is kept. What slips through,
    as of a tensor that was not found, shows as a graph behind the slope, since duals have none.

    Parameters
    ----------
    fun : callable
        The function.
    table : dict
        The duals of captured tensors, by the identity of these.
    alone : bool
        Whether duals are PyTorch's own, with one tangent; the function may then make graphs inside.
    """

    def __init__(self, fun: Callable[..., Any], table: dict[int, Tensor | None], alone: bool) -> None:
        self._fun, self._table, self._alone = fun, table, alone

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any:
        if self._alone:
            y = pytree.tree_map(lambda x: x.view_as(x).requires_grad_(), y)
        with Swapped(self._table) if self._table else nullcontext():
            slope = self._fun(t, y, *args)
        known = [x for x in pytree.tree_leaves(y) if x.requires_grad]
        return pytree.tree_map(lambda x: self._cut(x, known), slope)

    def _cut(self, x: Any, known: Sequence[Tensor]) -> Any:
        """The same without a graph."""
        if not isinstance(x, Tensor) or not (plain := unwrapped(x)).requires_grad:
            return x
        check_reach([plain], known)
        primal, tangent = forward_ad.unpack_dual(x)
        primal = primal.detach()
        return primal if tangent is None else forward_ad.make_dual(primal, tangent.detach())


def _pushed(solve: Callable[..., Tensor], starts: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """The tangents of the outputs (K, *ys.shape), from those of the sources.

    All together, where PyTorch knows how to batch what the field does; else one after the other.
    """

    def pushed(*tangents: Tensor) -> Tensor:
        return func.jvp(partial(solve, False), tuple(starts), tangents)[1]

    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):  # a buffer of the steppers holds no tangents
        try:
            return func.vmap(pushed, randomness="same")(*vectors)
        except RuntimeError:
            pass
        return torch.stack([_pushed_alone(solve, starts, tangents) for tangents in zip(*vectors, strict=True)])


def _pushed_alone(solve: Callable[..., Tensor], starts: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
    """The tangent of the outputs (*ys.shape)."""
    with forward_ad.dual_level():
        ys = solve(True, *map(forward_ad.make_dual, starts, tangents))
        tangent = forward_ad.unpack_dual(ys).tangent
        return torch.zeros_like(ys) if tangent is None else tangent


def _plain_result(result: Result) -> Result:
    """What the loop reported, without what transforms have wrapped it in."""
    values = {part.name: getattr(result, part.name) for part in fields(result)}
    plain: dict[str, Any] = {name: unwrapped(x).detach() for name, x in values.items() if isinstance(x, Tensor)}
    return replace(result, **plain)
