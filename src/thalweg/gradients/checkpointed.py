"""The exact discrete gradient, from one graph while there is room for it, and step by step where there is not.

The forward pass keeps where each accepted step began, and records the solve for as long as the graph is small. If it
was recorded to its end, the backward pass is PyTorch's own: in joint that graph is what the caller gets. Per sample it
stays within the node, since a row's rejected step is part of it and may spoil the gradients. If it was not recorded to
its end, the backward pass takes each step again from where it began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ..core.arithmetic import most
from ..core.field import Field
from ..core.step import Stepper
from ..loop.integrate import GraphTimes, Result
from ..output.saving import RowSaver
from .base import Integrate, Request, SolveNode, Sources
from .direct import Direct
from .higher import Recipe, gradients_of, in_graph
from .pullback import PullBack, leaf, unshrunk
from .recording import RecordingStepper
from .replay import ReplayTape
from .tape import JointTape, RowTape


@dataclass(frozen=True)
class Checkpointed:
    """The exact gradient at the memory of the accepted steps' states, and of a graph while that is small.

    Parameters
    ----------
    memory_limit : int
        The bytes that the graph of one solve may hold on to. Where it would hold more, none is kept, and the backward
        pass computes each accepted step again from the state at its start; so it does always where this is 0.
    checkpoints : int, optional
        The most states that are stored for that, y0 not counted; each is y where a step began, and what the step had
        of the one before. Those that are not stored are computed again, from the last one before them, by about as few
        steps as possible: to pull back n steps with c states takes n steps again while n is below c² / 2, 2 n while it
        is below c³ / 6, and so on. The times and sizes of all steps are kept, one number each of every unit. A state
        for every step where it is left out.

    Raises
    ------
    ValueError
        When one of them is no such number.

    References
    ----------
    Griewank & Walther, "Algorithm 799: revolve", ACM Transactions on Mathematical Software 26 (2000).
    Wang, Moin & Iaccarino, "Minimal repetition dynamic checkpointing algorithm for unsteady adjoint calculation", SIAM
    Journal on Scientific Computing 31 (2009).

    Examples
    --------
    >>> import torch, thalweg
    >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> frugal = thalweg.Checkpointed(memory_limit=0)
    >>> thalweg.solve_ivp(lambda t, y: -y, (0, 1), y0, gradient=frugal, rtol=1e-6).ys[-1].sum().backward()
    >>> round(y0.grad.item(), 5)
    0.36788
    """

    memory_limit: int = 2**28
    checkpoints: int | None = None

    def __post_init__(self) -> None:
        limit = self.memory_limit
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ValueError(f"memory_limit must be a number of bytes, an int of at least 0, got {limit!r}")
        count = self.checkpoints
        if isinstance(count, bool) or not (count is None or (isinstance(count, int) and count > 0)):
            raise ValueError(f"checkpoints must be a number of states, an int of at least 1, or None, got {count!r}")

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Solve, and put the backward pass behind the outputs."""
        if self.checkpoints is not None and request.problem.shrink:
            raise ValueError(
                "thalweg.Checkpointed(checkpoints=…) takes steps of the whole batch again, which rows leave with "
                "shrink=True; leave out one of the two"
            )
        return _Node.solve(integrate, request, self)


@dataclass(frozen=True)
class DirectOrNative(Checkpointed):
    """As `direct`, but that the native engine may take the solve, whose gradient is the same to rounding.

    It may take Euler's method too, of which no residual network is asked to the last bit then.
    """

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Let PyTorch record the loop, where the engine has not taken it."""
        return Direct().run(integrate, request)


class _Node(SolveNode):
    """One solve, its tape, and its backward pass."""

    def __init__(self, integrate: Integrate, request: Request, sources: Sources, options: Checkpointed) -> None:
        super().__init__(integrate, request, sources)
        self.options = options
        self.field, self.targets = self.sources.detached_field()
        self.tape = self._tape()
        self._solved: Result | None = None
        self._graph: tuple[Tensor, Sequence[Tensor | None]] | None = None

    def outputs(self) -> tuple[Tensor, Result]:
        request = self.request
        if not request.problem.batching.by_row:
            y0, *rest = self.sources.tensors()
            assert y0 is not None
            if request.problem.stepper.implicit and not y0.requires_grad:
                y0 = leaf(y0)  # Jacobians are derivatives by y, which would otherwise begin anew in the graph
            result, whole = self._recorded(request.field, y0, request.times, [y0, *rest])
            if whole:
                return result.ys, result
            self._solved = result
        return super().outputs()

    def forward(self) -> Result:
        if self._solved is None:
            y0, times = leaf(self.request.problem.y0), self.request.times
            if times is not None:
                times = GraphTimes(leaf(times.t0), leaf(times.t1), None if times.t_eval is None else leaf(times.t_eval))
            three = (None, None, None) if times is None else (times.t0, times.t1, times.t_eval)
            sources = (y0, *three, *self.targets)
            self._solved, whole = self._recorded(self.field, y0, times, sources)
            self._graph = (self._solved.ys, sources) if whole else None
        result, self._solved = self._solved, None
        return replace(result, ys=result.ys.detach())

    def _recorded(
        self, field: Field, y0: Tensor, times: GraphTimes | None, sources: Sequence[Tensor | None]
    ) -> tuple[Result, bool]:
        """The solve from those sources, and whether its outputs are part of a graph of the whole of it."""
        known = [x for x in sources if x is not None]
        problem = self.request.problem
        alone = problem.batching.by_row
        stepper = RecordingStepper(unshrunk(problem), self.tape, known, self.options.memory_limit, alone=alone)
        # it has the other methods of the stepper that it holds
        problem = replace(problem, field=field, stepper=cast(Stepper, stepper), y0=y0, graph_times=times)
        with torch.set_grad_enabled(stepper.complete):
            result = self.integrate(problem, stepper)
        if isinstance(self.tape, ReplayTape) and isinstance(result.saver, RowSaver):
            result.saver.levels = self.tape.numbers_of(result.saver.levels)
        return result, stepper.complete

    def _tape(self) -> JointTape | RowTape | ReplayTape:
        """What keeps where steps began."""
        problem, count = self.request.problem, self.options.checkpoints
        if count is not None:
            return ReplayTape(count, problem, self.field, self.request.stats)
        return RowTape(problem.y0) if problem.batching.by_row else JointTape()

    def backward(self, cotangent: Tensor, ys: Tensor | None) -> Sequence[Tensor | None]:
        graph, self._graph = self._graph, None  # it serves one backward pass
        gradients = None if graph is None else self._from_graph(*graph, cotangent)
        if gradients is None:
            self.check_constants()
            return PullBack(self, self.field, self.targets, cotangent).run(self.tape)
        return gradients

    def in_graph(
        self, gradients: Sequence[Tensor | None], cotangent: Tensor, sources: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """The same gradients, which are those of `direct` where they are differentiated."""
        there = {i: x for i, x in enumerate(sources) if x is not None}
        present = {i: g for i, g in enumerate(gradients) if g is not None and i in there and there[i].requires_grad}
        first_captured = len(sources) - len(self.sources.captured)

        def values(given: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
            cotangent, copies = given[0], dict(zip(there, given[1:], strict=True))
            ys = self._solved_from([copies.get(i) for i in range(len(sources))])
            return gradients_of([ys], [copies[i] for i in present], [cotangent], create_graph)

        recipe = Recipe(values, [False, *(i >= first_captured for i in there)])
        found = in_graph(recipe, list(present.values()), [cotangent, *there.values()])
        linked = dict(zip(present, found, strict=True))
        return [linked.get(i, gradient) for i, gradient in enumerate(gradients)]

    def _solved_from(self, sources: Sequence[Tensor | None]) -> Tensor:
        """The outputs by `direct` from those in place of the sources: the same steps, as nothing is left to chance."""
        self.check_constants()
        y0, t0, t1, t_eval, *rest = sources
        request, result = self.request, self.result
        assert y0 is not None
        assert result is not None
        times = None if t0 is None or t1 is None else GraphTimes(t0, t1, t_eval)
        arguments = [x for x in rest[: len(self.sources.arguments)] if x is not None]
        # a person has seen the steps already; where the callback stopped the solve, it stops again
        problem = replace(
            request.problem,
            field=self.sources.field_with(arguments),
            stepper=unshrunk(request.problem),
            callback=None,
            progress=None,
            max_steps=max(most(result.n_steps), 1) if request.problem.callback else request.problem.max_steps,
        )
        with self.as_forward():
            ys, again = Direct().run(self.integrate, Request(problem, y0, times, request.stats))
        request.stats.nfev_backward += most(again.nfev)
        return ys

    def _from_graph(
        self, ys: Tensor, sources: Sequence[Tensor | None], cotangent: Tensor
    ) -> Sequence[Tensor | None] | None:
        """The gradients by PyTorch; None where a row's rejected step spoils them, since 0 times infinity is NaN."""
        wanted = [x for x in sources if x is not None]
        retain = self.sources.retain()
        found = torch.autograd.grad(ys, wanted, cotangent, retain_graph=retain, allow_unused=True)
        if self.request.problem.batching.by_row and not _all_finite(found):
            return None
        gradients = iter(found)
        return [None if x is None else next(gradients) for x in sources]


def _all_finite(tensors: Sequence[Tensor | None]) -> bool:
    """Whether there is neither infinity nor NaN: one read of the device."""
    return bool(torch.stack([torch.isfinite(x).all() for x in tensors if x is not None]).all())
