"""Every gradient method on a person's own problem, side by side: how exact, how fast, how much memory.

The errors are those of directional derivatives: along each of K directions v, over all tensors that need a gradient
together, <gradient, v> is set beside (L(x + e v) - L(x - e v)) / 2e.
"""

from __future__ import annotations

import math
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .core.holdings import all_tensors, scripted_tensors
from .core.solution import Solution
from .gradients import GRADIENTS, GradientMethod
from .gradients.capture import captured_tensors
from .gradients.swapping import Swapped
from .ivp import solve_ivp
from .methods import as_method

_EACH = 24
"""The most numbers that are moved one by one; where there are more, random directions move all of them."""

_ROUNDING = 0.6
"""The power of the spacing of numbers within which what differentiates the same numbers comes to `direct`."""

_STIFF = ("dirk", "firk", "rosenbrock", "stabilised", "switching")
_REFERENCES = {"explicit": "vern8", "adams": "vern8", **dict.fromkeys(_STIFF, "rodas5p")}
"""The methods that find the solution itself, for each kind of method that a person may have chosen."""

_WIDTH = 100
"""The columns of a report."""

_RANDOM = (
    "Two passes of direct give two gradients: the field or the loss is another one at each call, as with dropout, and "
    "what stands here compares different ones. Call eval() on modules, or draw random numbers before the solve."
)

_ROOM = 2**30
"""The bytes that a recommended method may hold, if there is one that is exact and needs no more: 1 GiB."""


@dataclass(frozen=True)
class GradientRow:
    """What one gradient method did.

    Attributes
    ----------
    gradient : str
        Its name.
    to_differences, to_direct : float
        The distance of its directional derivatives to central differences and to those of `direct`, relative to the
        length of these; NaN where there is no such other.
    seconds : float
        The time of a forward and a backward pass, the median of a few.
    nfev_forward, nfev_backward : int
        Calls of the field in either.
    bytes_held, bytes_peak : int
        What PyTorch's operations made and was still there after the forward pass, the solution included; and the most
        at once in both passes, as seen in samples.
    refusal : str
        Why it does not go with this problem; empty where it does.
    """

    gradient: str
    to_differences: float = math.nan
    to_direct: float = math.nan
    seconds: float = math.nan
    nfev_forward: int = 0
    nfev_backward: int = 0
    bytes_held: int = 0
    bytes_peak: int = 0
    refusal: str = ""


@dataclass(frozen=True)
class GradientReport:
    """The gradient methods side by side; `print(report)` shows a table.

    Attributes
    ----------
    rows : tuple of GradientRow
        One for each method.
    problem : str
        What was differentiated by what.
    differences : str
        How the differences were taken.
    recommendation : str
        Which method to choose, and why: one sentence.
    """

    rows: tuple[GradientRow, ...]
    problem: str
    differences: str
    recommendation: str

    def __str__(self) -> str:
        head = ("gradient", "to differences", "to direct", "time", "evals", "back", "held", "peak")
        lines = [head, *(_cells(row) for row in self.rows if not row.refusal)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(map(_aligned, line, widths, range(len(line)))) for line in lines]
        refusals = [f"{row.gradient}: {row.refusal}" for row in self.rows if row.refusal]
        notes = [textwrap.fill(text, _WIDTH, subsequent_indent="  ") for text in refusals]
        advice = textwrap.fill(self.recommendation, _WIDTH)
        return "\n".join(
            [self.problem, self.differences, "", table[0], "─" * len(table[0]), *table[1:], *notes, "", advice]
        )


def check_gradients(
    fun: Any,
    t_span: Any,
    y0: Any,
    method: Any = "tsit5",
    t_eval: Any = None,
    *,
    args: tuple[Any, ...] | Any = (),
    methods: Sequence[Any] | Mapping[str, Any] | None = None,
    loss: Callable[[Solution], Tensor] | None = None,
    directions: int = 8,
    repeats: int = 3,
    seed: int = 0,
    **options: Any,
) -> GradientReport:
    """Try every gradient method on a problem, and say how exact each is, how fast, and how much memory it takes.

    Parameters
    ----------
    fun, t_span, y0, method, t_eval, args, options
        The problem, as for `thalweg.solve_ivp`. Whatever needs a gradient is differentiated by: tensors in y0, t_span,
        t_eval and args, parameters, and tensors that a function captured.
    methods : sequence or mapping, optional
        The gradient methods: names, or objects such as `thalweg.Adjoint(rtol=1e-9)`, by names of their own in a
        mapping. By default all that there are.
    loss : callable, optional
        loss(solution), a number; by default the sum of the squares of the state at the end.
    directions : int
        The number of random directions, where more than 24 numbers need a gradient.
    repeats : int
        The number of passes that are timed.
    seed : int
        Of the random directions.

    Returns
    -------
    GradientReport

    Raises
    ------
    ValueError
        When nothing needs a gradient, or an argument is not what is described here.
    TypeError
        When the loss is not a number as a tensor.
    SolveError
        When the solve does not reach its end.

    Notes
    -----
    The differences are those of a solve in float64, if the field can be evaluated so: each tensor that it holds is
    replaced by its like. With adaptive steps that solve is by a method of high order at tight tolerances, and the
    distance to the differences is the error of the solve and of the gradient together; with steps of a given size it
    is that of the gradient alone. The distance to `direct` is always that of the gradient alone.

    A method that takes steps of its own, as `reversible` does, is as far from `direct` as their solutions are apart.
    Memory is counted by following what PyTorch's operations make; what a library allocates by other ways is not seen.

    Examples
    --------
    >>> import torch, thalweg
    >>> rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> y0 = torch.ones(3, dtype=torch.float64)
    >>> report = thalweg.check_gradients(lambda t, y, k: -k * y, (0, 1), y0, args=(rate,), methods=["checkpointed"])
    >>> report.rows[0].gradient, report.rows[0].to_direct < 1e-12, report.rows[0].to_differences < 1e-2
    ('checkpointed', True, True)
    >>> print(report)
    differentiated by 1 number: args
    ...
    """
    for name, value in (("directions", directions), ("repeats", repeats)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if "gradient" in options:
        raise ValueError("check_gradients chooses the gradient methods itself; name those to try in methods=")
    given = (t_span, y0, t_eval, args if isinstance(args, tuple) else (args,))
    problem = _Problem(fun, given, method, options, _squares if loss is None else loss)
    chosen = _chosen(methods)
    problem.check()
    vectors = problem.directions(directions, seed)
    differences, told = problem.differences(vectors)
    trials = {name: _Trial(problem, gradient) for name, gradient in {"direct": "direct", **chosen}.items()}
    reference = trials["direct"].along(vectors)
    rows = tuple(trials[name].row(name, vectors, differences, reference, repeats) for name in chosen)
    recommendation = _recommendation(rows, problem.rounding)
    again = trials["direct"].along(vectors)
    if again is not None and _distance(again, reference) > problem.rounding:
        recommendation = _RANDOM
    return GradientReport(rows, problem.told(), told, recommendation)


class _Problem:
    """A problem, and the tensors to differentiate by."""

    def __init__(
        self, fun: Any, given: tuple[Any, ...], method: Any, options: dict[str, Any], loss: Callable[[Solution], Tensor]
    ) -> None:
        self.fun, self.given, self.method, self.options, self.loss = fun, given, method, options, loss
        leaves, self._spec = pytree.tree_flatten(given)
        self._leaves = leaves
        self._inner = captured_tensors((fun, [x for x in leaves if callable(x)]))[0]
        names = ("t_span", "y0", "t_eval", "args")
        self._sources: dict[int, Tensor] = {}
        counts: dict[str, int] = {}
        outer = [(name, x) for name, part in zip(names, given, strict=True) for x in pytree.tree_leaves(part)]
        for name, x in [*outer, *(("held by the field", x) for x in self._inner)]:
            if isinstance(x, Tensor) and x.requires_grad and id(x) not in self._sources:
                self._sources[id(x)] = x
                counts[name] = counts.get(name, 0) + x.numel()
        if not self._sources:
            raise ValueError(
                "nothing needs a gradient: set requires_grad on y0, on a time, on a tensor in args or on one that fun "
                "uses"
            )
        self._counts = counts

    @property
    def sources(self) -> list[Tensor]:
        """The tensors, each once."""
        return list(self._sources.values())

    def check(self) -> None:
        """Let what is wrong with the problem itself be an error, and not a reason of every method."""
        t_span, y0, t_eval, args = self.given
        with torch.no_grad():
            value = self.loss(solve_ivp(self.fun, t_span, y0, self.method, t_eval, args=args, **self.options))
        if not (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()):
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"loss must return one real number as a tensor, got {shape}")
        if not math.isfinite(value):
            raise ValueError(f"the loss is {value.item()}, which has no differences: choose one that is finite here")

    @property
    def rounding(self) -> float:
        """How near to each other two gradients are that differ by rounding alone."""
        y0 = [x for x in pytree.tree_leaves(self.given[1]) if isinstance(x, Tensor)]
        dtype = y0[0].dtype if y0 else torch.get_default_dtype()
        return torch.finfo(dtype).eps ** _ROUNDING

    def told(self) -> str:
        """What there is to differentiate by."""
        total = sum(self._counts.values())
        parts = [name if len(self._counts) == 1 else f"{name} {count:,}" for name, count in self._counts.items()]
        return f"differentiated by {total:,} number{'s' if total > 1 else ''}: {', '.join(parts)}"

    def directions(self, count: int, seed: int) -> list[list[Tensor]]:
        """Directions in float64, of the size of what they move: each number alone, or a few of them all."""
        generator = torch.Generator("cpu").manual_seed(seed)
        sizes = [_size(x) for x in self.sources]
        total = sum(x.numel() for x in self.sources)
        if total > _EACH:
            return [
                [
                    size * torch.randn(x.shape, dtype=_wide(x), generator=generator, device="cpu").to(x.device)
                    for x, size in pairs
                ]
                for pairs in [list(zip(self.sources, sizes, strict=True))] * count
            ]
        found = []
        for i, x in enumerate(self.sources):
            for j in range(x.numel()):
                vector = [torch.zeros(s.shape, dtype=_wide(s), device=s.device) for s in self.sources]
                vector[i].view(-1)[j] = sizes[i]
                found.append(vector)
        return found

    @property
    def _functions(self) -> tuple[Any, ...]:
        """What may hold tensors out of sight."""
        return (self.fun, self.loss, [x for x in self._leaves if callable(x)])

    def differences(self, vectors: list[list[Tensor]]) -> tuple[Tensor | None, str]:
        """Central differences along the directions, and how they were taken."""
        unseen = {id(x) for x in scripted_tensors(self._functions)}
        if any(x in unseen for x in self._sources):
            return (
                None,
                "no differences: parameters of scripted and traced modules cannot be moved; give the module itself",
            )
        way = (
            "one number at a time"
            if sum(x.numel() for x in self.sources) <= _EACH
            else (f"along {len(vectors)} random directions")
        )
        reason = ""
        for dtype, step, changes in self._references():
            try:
                values = [
                    [self._value([sign * step * v for v in vector], dtype, changes) for sign in (1, -1)]
                    for vector in vectors
                ]
            except (RuntimeError, ValueError, TypeError) as error:
                reason = _first_line(error)
                continue
            found = torch.tensor(
                [(above - below) / (2 * step) for above, below in values], dtype=torch.float64, device="cpu"
            )
            where = "float64" if dtype is not None else "the problem's own precision"
            return found, f"central differences in {where}, {way}"
        return None, f"no differences: {reason}"

    def _references(self) -> list[tuple[torch.dtype | None, float, dict[str, Any]]]:
        """How to take differences, in the order to try: dtype, how far to move, and what is changed of the solve."""
        controller = self.options.get("controller")
        if self.options.get("step_size") or not getattr(controller, "adaptive", True):
            return [(torch.float64, 1e-4, {}), (None, 1e-2, {})]
        ways: list[tuple[torch.dtype | None, float, dict[str, Any]]] = [
            (torch.float64, 1e-4, {"rtol": 1e-7, "atol": 1e-9}),
            (None, 1e-2, {"rtol": 2e-6, "atol": 1e-8}),
        ]
        kind = None if isinstance(self.method, str) and ":" in self.method else as_method(self.method).kind
        if kind in _REFERENCES:  # the solution is the same whichever method finds it; these are of high order
            ways.insert(0, (torch.float64, 1e-4, {"rtol": 1e-9, "atol": 1e-11, "method": _REFERENCES[kind]}))
        return ways

    def _value(self, moves: list[Tensor], dtype: torch.dtype | None, changes: dict[str, Any]) -> float:
        """The loss after the moves, in float64 or as it is."""

        def converted(x: Tensor) -> Tensor:
            moved = x.detach()
            if dtype is not None and (x.is_floating_point() or x.is_complex()):
                moved = moved.to(_wide(x))
            if id(x) in by_id:
                moved = moved + by_id[id(x)].to(moved.dtype)
            return moved

        by_id = dict(zip(self._sources, moves, strict=True))
        held = list(all_tensors(self._functions))
        table = {id(x): converted(x) for x in [*held, *self._inner]}
        leaves = [converted(x) if isinstance(x, Tensor) else x for x in self._leaves]
        t_span, y0, t_eval, args = pytree.tree_unflatten(leaves, self._spec)

        def fun(function: Callable[..., Any]) -> Callable[..., Any]:
            def evaluated(*inputs: Any) -> Any:
                with Swapped(table):
                    return function(*inputs)

            return evaluated

        with torch.no_grad():
            options = {"method": self.method, **self.options, **changes}
            sol = solve_ivp(_each(self.fun, fun), t_span, y0, t_eval=t_eval, args=args, **options)
            with Swapped(table):
                return float(self.loss(sol))


class _Trial:
    """One gradient method at work."""

    def __init__(self, problem: _Problem, gradient: GradientMethod | str) -> None:
        self.problem, self.gradient = problem, gradient
        self.calls = [0]

    def row(
        self, name: str, vectors: list[list[Tensor]], differences: Tensor | None, reference: Tensor | None, repeats: int
    ) -> GradientRow:
        """All that there is to say of it."""
        try:
            found = self._along(vectors)
            memory = _Memory()
            with memory:
                value = self._forward()
                held, forward = memory.live(), self.calls[0]
                self._backward(value)
            backward = self.calls[0] - forward
            seconds = statistics.median(self._timed() for _ in range(repeats))
        except (RuntimeError, ValueError, NotImplementedError) as error:
            return GradientRow(name, refusal=_first_line(error))
        return GradientRow(
            name,
            to_differences=_distance(found, differences),
            to_direct=_distance(found, reference),
            seconds=seconds,
            nfev_forward=forward,
            nfev_backward=backward,
            bytes_held=held,
            bytes_peak=memory.peak,
        )

    def along(self, vectors: list[list[Tensor]]) -> Tensor | None:
        """The directional derivatives; None where the method refuses."""
        try:
            return self._along(vectors)
        except (RuntimeError, ValueError, NotImplementedError):
            return None

    def _along(self, vectors: list[list[Tensor]]) -> Tensor:
        gradients = self._backward(self._forward())
        products = [
            sum(
                float((g.to(v.dtype).conj() * v).real.sum())
                for g, v in zip(gradients, vector, strict=True)
                if g is not None
            )
            for vector in vectors
        ]
        return torch.tensor(products, dtype=torch.float64, device="cpu")

    def _timed(self) -> float:
        start = _now(self.problem.sources[0])
        self._backward(self._forward())
        return _now(self.problem.sources[0]) - start

    def _forward(self) -> Tensor:
        """The loss."""
        calls, problem = [0], self.problem  # what the field's wrapper holds, and it must not hold more
        self.calls = calls
        t_span, y0, t_eval, args = problem.given

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def evaluated(*inputs: Any) -> Any:
                calls[0] += 1
                return function(*inputs)

            return evaluated

        sol = solve_ivp(
            _each(problem.fun, counted),
            t_span,
            y0,
            problem.method,
            t_eval,
            args=args,
            gradient=self.gradient,  # type: ignore[arg-type]
            **problem.options,
        )
        return problem.loss(sol)

    def _backward(self, value: Tensor) -> Sequence[Tensor | None]:
        if not value.requires_grad:
            return [None] * len(self.problem.sources)
        return torch.autograd.grad(value.reshape(()), self.problem.sources, allow_unused=True)


class _Memory(TorchDispatchMode):
    """Follows the storages that operations make, by references that do not keep them."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._count, self.peak = 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten._efficientzerotensor.default:
            # the tangent of what has none, which has no memory either: operations that a mode passes on read it all the
            # same, and PyTorch ends by a segmentation fault; zeros are the same number
            function = torch.ops.aten.zeros.default
        out = function(*args, **(kwargs or {}))
        before = {x.untyped_storage()._cdata for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in pytree.tree_leaves(out):
            if isinstance(x, Tensor) and x.layout is torch.strided and x.untyped_storage()._cdata not in before:
                storage = x.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self._count += 1
        if self._count >= max(32, len(self._made) // 8):
            self.live()
        return out

    def live(self) -> int:
        """The bytes that are there now."""
        self._count = 0
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        total = sum(size for _, size in self._made.values())
        self.peak = max(self.peak, total)
        return total


def _squares(sol: Solution) -> Tensor:
    """The sum of the squares of the state at the end."""
    ends = [x[-1].abs().square().sum() for x in pytree.tree_leaves(sol.ys)]
    return torch.stack(ends).sum()


def _chosen(methods: Sequence[Any] | Mapping[str, Any] | None) -> dict[str, Any]:
    """The gradient methods to try, by name."""
    if methods is None:
        return {name: name for name in GRADIENTS}
    if isinstance(methods, Mapping):
        return dict(methods)
    if isinstance(methods, str):
        raise ValueError(f"methods must be a list of gradient methods, got {methods!r}; write [{methods!r}]")
    chosen = {x if isinstance(x, str) else repr(x): x for x in methods}
    unknown = [x for x in chosen.values() if isinstance(x, str) and x not in GRADIENTS]
    if unknown:
        names = ", ".join(map(repr, GRADIENTS))
        raise ValueError(f"methods holds {unknown[0]!r}, but a gradient method is one of {names}, or an object")
    return chosen


def _each(fun: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """The function, or both of a pair, wrapped."""
    return tuple(map(wrap, fun)) if isinstance(fun, tuple | list) else wrap(fun)


def _wide(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64


def _size(x: Tensor) -> float:
    """The root mean square of a tensor, and 1 where it is zero."""
    size = float(x.detach().abs().double().square().mean().sqrt())
    return size if size > 0 else 1.0


def _distance(found: Tensor, other: Tensor | None) -> float:
    """Relative to the other; two that are zero are the same."""
    if other is None:
        return math.nan
    return 0.0 if torch.equal(found, other) else float((found - other).norm() / other.norm())


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _now(like: Tensor) -> float:
    """The time, once the device has done what it was told."""
    if like.device.type == "cuda":
        torch.cuda.synchronize(like.device)
    return time.perf_counter()


def _recommendation(rows: Sequence[GradientRow], rounding: float) -> str:
    """The fastest exact method of those that fit, or the one of least memory where none does."""
    able = [row for row in rows if not row.refusal]
    if not able:
        return "No method goes with this problem: see the reasons."
    exact = [row for row in able if row.to_direct <= rounding]
    if not exact:
        best = min(able, key=lambda row: math.inf if math.isnan(row.to_differences) else row.to_differences)
        return (
            f"None of these is exact here; {best.gradient} is nearest to the differences, at "
            f"{best.to_differences:.0e}, and comes nearer with tighter tolerances."
        )
    fitting = [row for row in exact if row.bytes_peak <= _ROOM]
    best = min(fitting, key=lambda row: row.seconds) if fitting else min(exact, key=lambda row: row.bytes_peak)
    usual = next((row for row in fitting if row.gradient == "checkpointed"), best)
    if usual.seconds <= 1.2 * best.seconds:
        best = usual
    why = "none that is exact is much faster" if best is usual and fitting else "of those that are exact the fastest"
    if not fitting:
        why = "of those that are exact it holds the least memory"
    return f"Choose {best.gradient}: {why}, and it takes {_bytes(best.bytes_peak)} at its peak{_warning(best)}."


def _warning(row: GradientRow) -> str:
    """What the distance to the differences says of a gradient that is exact."""
    if row.to_differences > 0.1:
        return "; but it is far from the differences: look for detach() in field or loss, or tighten rtol and atol"
    if row.to_differences > 1e-2:
        return "; its distance to the differences is the error of the solve, which tighter rtol and atol lessen"
    return ""


def _aligned(cell: str, width: int, column: int) -> str:
    """Names to the left, numbers to the right."""
    return cell.rjust(width) if column else cell.ljust(width)


def _cells(row: GradientRow) -> tuple[str, ...]:
    """A row of the table."""
    distances = ["–" if math.isnan(x) else f"{x:.1e}" for x in (row.to_differences, row.to_direct)]
    seconds = f"{row.seconds:.2f} s" if row.seconds >= 1 else f"{1000 * row.seconds:.1f} ms"
    evaluations = (f"{row.nfev_forward:,}", f"{row.nfev_backward:,}")
    return (row.gradient, *distances, seconds, *evaluations, _bytes(row.bytes_held), _bytes(row.bytes_peak))


def _bytes(count: float) -> str:
    """A number of bytes, in a unit that suits it."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
