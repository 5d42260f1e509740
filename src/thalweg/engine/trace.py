"""Turns a field into a program by watching it once.

y: (B, *D) where the field works row by row, any shape where it does not; t: (B, 1, …, 1) per sample, 0-d in joint.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext

from ..core.compiled import are_in_memory, in_memory
from ..core.derivatives import transformed
from ..core.field import called
from ..core.holdings import all_tensors
from ..core.state import Layout, layout_of
from .builder import Builder, KeepsTensor, Untraceable
from .guards import Guards, guards_of
from .program import STATE, TIME, Program
from .prologue import Prologue
from .reference import evaluate
from .snapshot import dice_kept

_PRIMES = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113)
"""How many samples a field may be traced with: a size that is no multiple of it is none of the batch."""

_MANY = 4
"""So many arguments with a row for each sample are taken as all samples' own or all as shared."""


def leaves_of(args: Any) -> Sequence[Any]:
    """The leaves of arguments, as PyTorch finds them in a tree; a tuple of tensors is no tree to be searched."""
    plain = type(args) is tuple and (not args or all(type(x) is Tensor for x in args))
    return args if plain else pytree.tree_leaves(args)


_EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}
"""Up to where all whole numbers are numbers of a dtype."""


def own_rows(x: Tensor, samples: int, dtype: torch.dtype) -> Tensor:
    """An argument of each sample, (samples, rows); whole numbers as y's."""
    rows = x.reshape(samples, -1)
    if rows.dtype is not dtype:
        most = _EXACT[dtype]
        if rows.dtype is not torch.bool and bool((rows.abs() > most).any()):
            raise Untraceable(
                f"an argument of each sample holds whole numbers above {most}, which are none of {dtype}: solve by "
                "backend='eager', or make y0 float64"
            )
        rows = rows.to(dtype)
    return in_memory(rows)


def packed(y0: Any, *, by_row: bool, rows: bool) -> tuple[Layout, Tensor]:
    """A state as a trace takes it, of which each row is a sample or the whole is one; in joint it may have no rows."""
    layout, y = layout_of(y0, by_row=by_row)
    rowed = layout.in_rows() if rows else None
    return (layout, y) if rowed is None else (rowed, rowed.pack(y0))


def any_time(y: Tensor, *, by_row: bool) -> Tensor:
    """A time as a field takes it beside a packed state, for a trace, which holds for all."""
    return y.new_zeros((len(y), *(1,) * (y.ndim - 1)) if by_row else ())


@dataclass(frozen=True, eq=False)
class Trace:
    """A field as a program, and what it takes from PyTorch.

    Attributes
    ----------
    program : Program
    rows : bool
        Whether each row of the state is a sample; otherwise the whole state is one.
    batched : tuple of int
        Which leaves of the arguments each sample has of its own, in the order of the program's further inputs.
    """

    program: Program
    rows: bool
    batched: tuple[int, ...]
    _prologue: Prologue
    _shared: tuple[Tensor | int, ...]
    _baked: tuple[tuple[Tensor, Tensor], ...]
    _flagged: tuple[tuple[Tensor, bool], ...]
    _dtype: torch.dtype

    def shared(self, args: Any) -> list[Tensor]:
        """The shared tensors, in the order of the program, each contiguous and of y's dtype; with a graph."""
        found = self._lasting
        if found is None:
            tensors = self._prologue.run(leaves_of(args))
            found = [x if isinstance(x, Tensor) else tensors[x] for x in self._shared]
        dtype = self._dtype
        if are_in_memory(found, dtype):
            return found
        return [in_memory(x if x.dtype is dtype else x.to(dtype)) for x in found]

    @functools.cached_property
    def _lasting(self) -> list[Tensor] | None:
        """The shared tensors where they are the same in every solve, each one that the field captured."""
        if self._prologue.calls or self._prologue.arguments:
            return None
        captured = self._prologue.captured
        return [x if isinstance(x, Tensor) else captured[x] for x in self._shared]

    def holds(self) -> bool:
        """Whether what the field learnt of tensors is so still: the numbers in them, and if they need a gradient.

        Their versions would not tell: what is written by way of `data` counts none, nor do tensors of inference mode.
        """
        return not (self._baked or self._flagged) or (
            all(torch.equal(tensor, then) for tensor, then in self._baked)
            and all(tensor.requires_grad == then for tensor, then in self._flagged)
        )

    def inputs(self, t: Tensor, y: Tensor, args: Any) -> list[Tensor]:
        """The program's inputs (samples, rows) at a time and a packed state."""
        samples = len(y) if self.rows else 1
        leaves = leaves_of(args)
        own = [own_rows(leaves[leaf], samples, self._dtype) for leaf in self.batched]
        return [t.reshape(-1, 1).expand(samples, 1), y.reshape(samples, -1), *own]


def trace(
    fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...] = (), *, by_row: bool, rowed: bool = True
) -> Trace:
    """A field as a program.

    Parameters
    ----------
    fun : callable
        `fun(t, y, *args)`.
    t : Tensor
        A time, or one for each row where `by_row`; the field gets it as it takes it.
    y0 : Tensor or pytree
        A state. The program holds for any number of rows where each is a sample.
    args : tuple
        Tensors with a row for each sample are taken as the sample's own, where the field allows.
    by_row : bool
        Whether the rows do not talk to each other, as batching="per_sample" asks. Otherwise it is found out.
    rowed : bool
        Whether a pytree in joint may be taken row by row.

    Raises
    ------
    Untraceable
        Where the field does what no program can, and what that is.
    """
    refuse_surroundings()
    return trace_under(guards_of(fun, args), fun, t, y0, args, by_row=by_row, rowed=rowed)


def refuse_surroundings() -> None:
    """Refuse a solve of which others see more than its result."""
    reason = surroundings()
    if reason is not None:
        raise Untraceable(reason)


def surroundings() -> str | None:
    """Why no field can be watched where the solve stands, if so."""
    if transformed():  # the tensors are wrapped there, and a program would hold them beyond it
        return "the solve is part of a transform of torch.func, or of forward-mode differentiation"
    if torch._C._len_torch_dispatch_stack() or (
        torch._C._len_torch_function_stack()
        and any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
    ):
        return "a mode of PyTorch is at work, which sees or changes the operations of the field"
    return None


def trace_under(
    guards: Guards, fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...], *, by_row: bool, rowed: bool
) -> Trace:
    """As `trace`, with what the field holds looked up before."""
    try:
        with torch.inference_mode(False), dice_kept() as drawn:
            found = _attempted(guards, fun, t, y0, args, by_row, rowed)
    except Untraceable as error:
        changed = isinstance(error, KeepsTensor) and not guards.hold()
        guards.before.restore()
        if changed:  # that tells where it keeps it
            raise Untraceable(_CHANGES) from None
        raise
    if not guards.hold():
        guards.before.restore()
        raise Untraceable(_CHANGES)
    if drawn():
        raise Untraceable("the field draws random numbers (random or numpy.random)")
    return found


_CHANGES = "the field changes its own attributes, or others that it holds, when it is called"


def _attempted(
    guards: Guards, fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...], by_row: bool, rowed: bool
) -> Trace:
    """The first attempt that succeeds: rows as samples or the whole state as one, arguments as theirs or shared."""
    layout, y = packed(y0, by_row=by_row, rows=rowed)
    if y.dtype not in (torch.float32, torch.float64) or y.device.type != "cpu" or not y.numel():
        raise Untraceable(
            f"the native engine takes states of float32 or float64 on the CPU, got {y.dtype} on {y.device}"
        )
    leaves = pytree.tree_leaves(args)
    own = (
        tuple(n for n, x in enumerate(leaves) if isinstance(x, Tensor) and x.ndim and len(x) == len(y))
        if y.ndim
        else ()
    )
    rows = by_row or layout.rowed or (layout.spec is None and y.ndim > 1)
    # by its size, what all samples share may look like what each has of its own
    sizes = range(len(own), -1, -1) if len(own) < _MANY else (len(own), 0)
    attempts = [(True, some) for n in sizes for some in combinations(own, n)] if rows else []
    failures = []
    for by_sample, batched in attempts if by_row else [*attempts, (False, ())]:
        try:
            found = _traced(guards, fun, *packed(y0, by_row=by_row, rows=by_sample), args, by_sample, batched)
            check(found, fun, t, y0, args, by_row=by_row)
            return found
        except KeepsTensor:
            raise
        except Untraceable as error:
            failures.append(error)
    raise failures[0 if by_row else -1]


def check(found: Trace, fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...], *, by_row: bool) -> None:
    """Compare a trace with the field itself, near a state: once for each number of rows that it is used with.

    Raises
    ------
    Untraceable
        Where they differ.
    """
    with torch.inference_mode(False):
        _compare(found, fun, t, y0, args, by_row)


def _compare(found: Trace, fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...], by_row: bool) -> None:
    args = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) and x.is_inference() else x, args)
    layout, y = packed(y0, by_row=by_row, rows=found.rows)
    generator = torch.Generator("cpu").manual_seed(0)
    y = y.detach().clone() + 0.1 * torch.randn(y.shape, dtype=y.dtype, generator=generator, device=y.device)
    t = t.detach().clone().to(y.dtype).reshape(-1) + 0.1 * torch.rand(
        len(y) if by_row else 1, dtype=y.dtype, generator=generator, device=y.device
    )
    t = t.reshape(-1, *_time_shape(layout)) if by_row else t.reshape(())
    expected = _called(fun, t, y, layout, args).detach()
    with torch.no_grad():
        inputs, shared = found.inputs(t, y, args), found.shared(args)
        got = evaluate(found.program, inputs, shared)
        wide = evaluate(found.program, [x.double() for x in inputs], [x.double() for x in shared])
    tolerance = 1e-5 if y.dtype == torch.float32 else 1e-8
    size, rounding = (_largest(x) for x in (expected, got - wide))
    allowed = tolerance * size + _ROUNDINGS * rounding
    if not torch.allclose(got.reshape(y.shape), expected, rtol=tolerance, atol=allowed, equal_nan=True):
        raise Untraceable(
            "the field depends on what cannot be seen, such as the number of samples or values taken out of PyTorch"
        )


_ROUNDINGS = 30
"""How many times the error that rounding makes in a program it may make in the field."""


def _largest(x: Tensor) -> float:
    return x.abs().nan_to_num(0, 0, 0).max().item()


def _traced(
    guards: Guards,
    fun: Callable[..., Any],
    layout: Layout,
    y: Tensor,
    args: tuple[Any, ...],
    rows: bool,
    batched: tuple[int, ...],
) -> Trace:
    """One attempt: with each row a sample or the whole state one, and some of the arguments the sample's own."""
    from .tracer import Tracer

    leaves, spec = pytree.tree_flatten(args)
    samples = _prime(fun, y, leaves) if rows else 1
    shape = y.shape[1:] if rows else y.shape
    own = [leaves[leaf].shape[1:] for leaf in batched]
    builder = Builder(samples, y.dtype, [1, shape.numel(), *(x.numel() for x in own)])
    tracer = Tracer(builder)

    # all may need a gradient in a solve, and a field may ask whether they do, to hang a hook on them

    def given(number: int, shape: Sequence[int], dtype: torch.dtype = y.dtype, *, uniform: bool = False) -> Tensor:
        codes = torch.from_numpy(builder.input_codes(number, shape, uniform=uniform))
        return tracer.traced(codes if rows else codes[0], dtype).requires_grad_(dtype == y.dtype)

    def argument(leaf: int, x: Any) -> Any:
        if leaf in batched:
            if x.dtype not in (y.dtype, torch.int64, torch.int32, torch.bool):
                raise Untraceable(f"an argument of each sample has dtype {x.dtype}, but y has dtype {y.dtype}")
            return given(STATE + 1 + batched.index(leaf), x.shape[1:], x.dtype)
        if not isinstance(x, Tensor):
            return x
        shared = tracer.shared(tracer.prologue.argument(leaf, x))
        return shared.requires_grad_() if x.is_floating_point() else shared

    def watched(layout: Layout) -> Tensor:
        """The codes of what the field returns; what it was given and made is gone then."""
        time = given(TIME, _time_shape(layout) if layout.by_row else (), uniform=rows and not layout.by_row)
        state = given(STATE, shape)
        arguments = [argument(leaf, x) for leaf, x in enumerate(leaves)]
        with tracer.watching():
            out = _called(fun, time, state, layout, pytree.tree_unflatten(arguments, spec))
        if not isinstance(out, Tensor) or out.dtype != y.dtype or out.shape != (samples, *shape)[int(not rows) :]:
            raise Untraceable("the field does not return a tensor of the shape and dtype of y")
        if cut := getattr(out, "cut", ""):
            raise Untraceable(f"the field cuts its own gradient ({cut})")
        tracer.refuse_own_functions(out)
        return tracer.codes(out).reshape(samples, -1)

    try:
        codes = watched(layout.taken(samples) if rows and layout.spec is not None else layout)
    finally:
        guards.before.clear_caches()
    tracer.refuse_kept()
    program, shared = builder.program(codes.numpy())
    builder.prologue.needed([x for x in shared if isinstance(x, int)])
    baked = tuple((x, x.detach().clone()) for x in tracer.baked.values())
    flagged = tuple((x, x.requires_grad) for x in tracer.flagged.values())
    return Trace(program, rows, batched, builder.prologue, tuple(shared), baked, flagged, y.dtype)


def _called(fun: Callable[..., Any], t: Tensor, y: Tensor, layout: Layout, args: tuple[Any, ...]) -> Tensor:
    """What the field returns for a packed state, packed."""
    try:
        with torch.enable_grad(), _saved_unseen():
            slope = called(fun, t, layout.unpack(y), *args)
            _refuse_other_structure(slope, layout, y.dtype)
            return layout.pack(slope)
    except Untraceable:
        raise
    except Exception as error:
        rows = f", with {len(y)} rows (what has an entry for each row must reach it by args)" if layout.by_row else ""
        raise Untraceable(f"the field fails where it is watched{rows}: {type(error).__name__}: {error}") from error


def _saved_unseen() -> AbstractContextManager[object]:
    """Where hooks are shown what autograd saves, one that shows them nothing: checkpoints count what a solve saves."""
    hooks = _top_hooks(False)
    return nullcontext() if hooks is None else saved_tensors_hooks(lambda x: x, lambda x: x)


_top_hooks: Callable[[bool], Any] = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
"""The hooks that are at work, if any; older PyTorch does not tell."""


def _refuse_other_structure(slope: Any, layout: Layout, dtype: torch.dtype) -> None:
    """Refuse what is packed otherwise than the state; the eager loop has the words for it."""
    if layout.spec is None:
        return
    leaves, spec = pytree.tree_flatten(slope)
    shapes = [x.shape if isinstance(x, Tensor) and x.dtype == dtype else None for x in leaves]
    if spec != layout.spec or shapes != list(layout.shapes):
        raise Untraceable("the field does not return the structure, the shapes and the dtype of y")


def _time_shape(layout: Layout) -> tuple[int, ...]:
    """The dimensions of a time after that of the rows, as the field takes it."""
    return (1,) * ((layout.ndim or 1) - 1)


def _prime(fun: Callable[..., Any], y: Tensor, leaves: Sequence[Any]) -> int:
    """A number of samples that no size of anything around is a multiple of."""
    held = [*all_tensors(fun), *(x for x in leaves if isinstance(x, Tensor))]
    sizes = {len(y), *(size for x in (y, *held) for size in x.shape[:]), *y.shape[1:]}
    for prime in _PRIMES:
        if all(size % prime or not size for size in sizes):
            return prime
    return 127
