"""What a gradient method is asked, and what the methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.arithmetic import Number
from ..core.field import Field, FieldLike, time_of
from ..core.holdings import all_tensors
from ..core.once import once
from ..core.solution import Stats
from ..core.sparsity import Sparsity
from ..loop.integrate import GraphTimes, Problem, Result
from .back import WayBack
from .capture import check_reach, held_tensors, independent
from .constants import Constants
from .transforms import refuse_cotangent

Integrate = Callable[..., Result]
"""The loop, as it is handed to a gradient method."""


@dataclass(frozen=True)
class Request:
    """A solve, and the tensors that a gradient may go to.

    Attributes
    ----------
    problem : Problem
        Its field is a `Field`; its times and y0 are part of no graph.
    y0 : Tensor
        The packed initial state, as part of the graph.
    times : GraphTimes or None
        t0, t1 and t_eval as part of the graph; None when none of them needs a gradient.
    stats : Stats
        Where the backward pass counts its evaluations.
    backward : WayBack or None
        The solve back in time, of a continuous gradient.
    """

    problem: Problem
    y0: Tensor
    times: GraphTimes | None
    stats: Stats
    backward: WayBack | None = None

    @property
    def field(self) -> Field:
        """The user's field."""
        assert isinstance(self.problem.field, Field)
        return self.problem.field


class GradientMethod(Protocol):
    """How the gradient of a solve is made."""

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """The outputs (T, *y0.shape) as part of the graph, and what the loop reported."""


@dataclass
class Sources:
    """The tensors that a gradient goes to, in a fixed order: y0, t0, t1, t_eval, args, captured.

    `args` are replaced by copies of their own where the field is evaluated for a backward pass, so that one tensor
    that is both an argument and captured counts twice, as it must. Captured tensors cannot be replaced; the backward
    pass asks for their gradients by name.

    Attributes
    ----------
    apart : bool
        Whether a captured tensor that was computed from another one counts beside it, for what the field makes of each.
    functions : tuple
        What captured tensors are looked for in.
    constants : Constants
        What the field may read besides.
    """

    request: Request
    apart: bool = False
    functions: tuple[Any, ...] = field(init=False)
    arguments: list[Tensor] = field(init=False)
    captured: list[Tensor] = field(init=False)
    constants: Constants = field(init=False)
    _computed: bool = field(init=False)

    def __post_init__(self) -> None:
        leaves = pytree.tree_leaves(self.request.field.args)
        self.functions = (self.request.field.fun, self.request.field.jac, [x for x in leaves if callable(x)])
        self.arguments = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        reached = list(all_tensors(self.functions))
        held = held_tensors(reached)
        self.captured, self._computed = independent(held)
        if self.apart:
            self.captured = held
        given = (leaf for leaf in leaves if isinstance(leaf, Tensor))
        self.constants = Constants(x for x in (*reached, *given) if not x.requires_grad)

    @property
    def needed(self) -> bool:
        """Whether any of them needs a gradient."""
        request = self.request
        return request.y0.requires_grad or request.times is not None or bool(self.arguments or self.captured)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them, None for times that need no gradient."""
        times = self.request.times
        three = (None, None, None) if times is None else (times.t0, times.t1, times.t_eval)
        return (self.request.y0, *three, *self.arguments, *self.captured)

    def detached_field(self) -> tuple[Field, list[Tensor]]:
        """The field with arguments of their own, and the tensors to ask for gradients: arguments, then captured."""
        copies = [leaf.detach().requires_grad_() for leaf in self.arguments]
        return self.field_with(copies), [*copies, *self.captured]

    def field_with(self, arguments: Sequence[Tensor]) -> Field:
        """The field with others in place of the arguments that need a gradient."""
        if not self.arguments:
            return self.request.field
        others = iter(arguments)

        def replaced(leaf: Any) -> Any:
            return next(others) if isinstance(leaf, Tensor) and leaf.requires_grad else leaf

        return self.request.field.with_args(pytree.tree_map(replaced, self.request.field.args))

    def retain(self) -> bool:
        """Whether a backward pass runs into a graph that must stay: one behind a captured tensor."""
        return self._computed


class SolveNode(ABC):
    """A solve as one node of the graph, with a backward pass of its own.

    Attributes
    ----------
    keeps_outputs : bool
        Whether the backward pass reads the outputs, so that changing them in place before it is an error.
    apart : bool
        How captured tensors count (see `Sources`).
    """

    keeps_outputs: ClassVar[bool] = False
    apart: ClassVar[bool] = False

    def __init__(self, integrate: Integrate, request: Request, sources: Sources, *options: Any) -> None:
        self.integrate, self.request, self.sources = integrate, request, sources
        self.result: Result | None = None  # without its graph: what it holds must not lead back to this node
        self._autocast = [
            (kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
        ]

    @classmethod
    def solve(cls, integrate: Integrate, request: Request, *options: Any) -> tuple[Tensor, Result]:
        """The outputs with the backward pass behind them, or alone where nothing needs a gradient.

        The options are for the class.
        """
        sources = Sources(request, cls.apart) if torch.is_grad_enabled() else None
        if sources is None or not sources.needed:
            return solve_without_graph(integrate, request)
        return cls(integrate, request, sources, *options).outputs()

    def outputs(self) -> tuple[Tensor, Result]:
        """The outputs with the backward pass behind them, and what the loop reported."""
        ys = _Function.apply(self, *self.sources.tensors())
        assert self.result is not None
        return ys, self.result

    @abstractmethod
    def forward(self) -> Result:
        """Solve without a graph."""

    @abstractmethod
    def backward(self, cotangent: Tensor, ys: Tensor | None) -> Sequence[Tensor | None]:
        """The gradients in the order of the sources, from that of the outputs, and these if they are kept."""

    def in_graph(
        self, gradients: Sequence[Tensor | None], cotangent: Tensor, sources: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """The gradients as part of a graph, which are to be differentiated again: refused, unless a method knows how.

        `cotangent` and `sources` are what they were made of, as part of the graph.
        """
        return once(gradients, _FIRST_ORDER, sources)

    def check_constants(self) -> None:
        """Refuse to evaluate the field again where what it reads has been changed in place since the solve."""
        field, problem = self.request.field, self.request.problem

        def evaluate() -> None:
            with torch.no_grad():
                field(time_of(field, problem.t0, problem.y0.device), problem.y0)

        self.sources.constants.check(evaluate)

    def as_forward(self) -> ExitStack:
        """A context in which the field is evaluated as the forward pass did."""
        stack = ExitStack()
        for kind, dtype in self._autocast:
            stack.enter_context(torch.autocast(kind, dtype))
        return stack


_FIRST_ORDER = (
    "gradients of this solve can be computed once, not differentiated again; gradient='checkpointed' and "
    "gradient='direct' have derivatives of any order"
)


class _Function(torch.autograd.Function):
    """How PyTorch sees a `SolveNode`."""

    @staticmethod
    def forward(ctx: Any, node: SolveNode, *sources: Tensor | None) -> Tensor:
        result = node.forward()
        node.sources.constants.settle()
        node.result = replace(result, ys=result.ys.detach(), y=result.y.detach())
        ctx.node = node
        # saved, so that a change in place before the backward pass is an error
        ctx.save_for_backward(*sources, result.ys if node.keeps_outputs else None)
        return result.ys

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        if torch.compiler.is_dynamo_compiling():  # a training step that calls backward() itself
            return _uncompiled(ctx, cotangent)
        *sources, ys = ctx.saved_tensors
        try:
            with torch.no_grad(), ctx.node.as_forward():
                gradients = ctx.node.backward(cotangent, ys)
        except RuntimeError as error:
            refuse_cotangent(cotangent, error)
            raise
        if torch.is_grad_enabled():  # create_graph=True
            gradients = ctx.node.in_graph(gradients, cotangent, sources)
        return (None, *gradients)


_uncompiled = torch._compile._disable_dynamo(_Function.backward)
"""No part of the way back is compiled either: to read it, again for each shape, took torch.compile ten seconds."""


class Accumulator:
    """Sums of gradients, None while nothing was added."""

    def __init__(self, count: int) -> None:
        self.totals: list[Tensor | None] = [None] * count

    def add(self, gradients: Sequence[Tensor | None], scale: float = 1.0) -> None:
        """Add one gradient to each, times a number; None adds nothing."""
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            total = self.totals[i]
            if total is None:
                self.totals[i] = gradient if scale == 1.0 else gradient * scale
            else:
                self.totals[i] = torch.add(total, gradient, alpha=scale)


class _Watched:
    """A field whose first evaluation shows whether it uses a tensor that needs a gradient and was not found."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.seen = False
        self._parts = [_Watched(part) for part in field.parts if part is not field]

    @property
    def parts(self) -> Sequence[FieldLike]:
        return self._parts or [self]

    def taken(self, rows: Tensor) -> Field:
        return self.field.taken(rows)  # the first evaluation was of all rows

    def times(self, t: Number, h: Number, c: Tensor) -> Sequence[Tensor]:
        return self.field.times(t, h, c)

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor | None:
        return self.field.jacobian(t, y)

    @property
    def sparsity(self) -> Sparsity | None:
        return self.field.sparsity

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        if self.seen:
            return self.field(t, y)
        self.seen = True
        recorded = torch.is_grad_enabled()  # by a stepper that differentiates the field
        with torch.enable_grad():
            slope = self.field(t, y)
        check_reach([slope], [t, y])
        return slope if recorded else slope.detach()


def solve_without_graph(integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
    """The outputs alone."""
    field = _Watched(request.field) if torch.is_grad_enabled() else request.field
    with torch.no_grad():
        result = integrate(replace(request.problem, y0=request.y0.detach(), field=field))
    return result.ys, result
