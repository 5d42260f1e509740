"""The one adapter round the user's function, or pair of functions.

The loop knows a field only as `field(t, y) -> dy` on packed states; a stepper that treats two functions differently
finds them as its `parts`. Arguments, structure, the shape of `t` and the checks of what comes back live here and
nowhere else.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from .arithmetic import Number, absolute, of_rows, where, wide_dtype
from .compiled import is_compiled, stage_times
from .rows import rows_of
from .sparsity import Sparsity
from .state import Layout
from .times import Times

Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]
"""Two functions that make up a field."""


def called(fun: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, whose weights are its own.

    `parametrize.cached` keeps those that are computed: where no graph is recorded it keeps them without one, so that
    where a step is computed again no gradient goes through them, and where a field is watched without their values.
    """
    depth = parametrize._cache_enabled
    if not depth:
        return fun(*args)
    parametrize._cache_enabled = 0
    try:
        return fun(*args)
    finally:
        parametrize._cache_enabled = depth


class FieldLike(Protocol):
    """What the loop and the steppers ask of a field."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt at a time made by `times`; it may hold until the next evaluation alone (see `kept`)."""

    def times(self, t: Number, h: Number, c: Tensor) -> Sequence[Tensor]:
        """The times t + c h, shaped and typed as the user's function takes them."""

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor | None:
        """The user's own Jacobian, (N, N) in joint and (B, N, N) per sample; None where there is none."""

    @property
    def parts(self) -> Sequence[FieldLike]:
        """The functions that one evaluation takes: itself, or the two of a pair."""

    @property
    def sparsity(self) -> Sparsity | None:
        """Which entries of its Jacobian may differ from zero; None where all may."""


class Divisible(FieldLike, Protocol):
    """A field that can be had of some rows alone."""

    def taken(self, rows: Tensor) -> Divisible:
        """The field of those rows, (M,) indices."""


class Field:
    """dy/dt = fun(t, y, *args) on packed states.

    Parameters
    ----------
    fun : callable
        The user's function.
    args : tuple
        Further arguments, passed on as they are.
    layout : Layout
        How the user's state is packed.
    like : Tensor
        The packed initial state, for its dtype, device and number of dimensions.
    jac : callable or Tensor, optional
        The user's Jacobian, jac(t, y, *args), or the one that it is everywhere.
    jumps : Times, optional
        Those at which the function jumps: a step that ends or begins at one sees the value on its own side.
    sparsity : Sparsity, optional
        Which entries of its Jacobian may differ from zero.
    name, state : str
        What messages call the function, and the state that it returns the slope of.
    """

    def __init__(
        self,
        fun: Callable[..., Any] | Pair,
        args: tuple[Any, ...],
        layout: Layout,
        like: Tensor,
        jac: Callable[..., Any] | Tensor | None = None,
        jumps: Times | None = None,
        *,
        sparsity: Sparsity | None = None,
        name: str = "fun",
        state: str = "y",
    ) -> None:
        self.fun: Any = fun
        self.name, self.state = name, state
        self.jumps = jumps
        self.args = args
        self.jac = jac
        self.sparsity = sparsity
        self.layout = layout
        self.time_dtype = like.real.dtype if like.is_complex() else like.dtype
        self._like = like
        rows = like.shape[0] if layout.by_row else 0
        self._time_shape = (-1, rows) + (1,) * ((layout.ndim or 1) - 1) if layout.by_row else (-1,)

    @property
    def parts(self) -> Sequence[Field]:
        """The functions that one evaluation takes: itself alone."""
        return (self,)

    def changed(self, **changes: Any) -> Field:
        """The same field with other parts, named as the parameters are."""
        given = {"fun": self.fun, "args": self.args, "layout": self.layout, "like": self._like, "jac": self.jac}
        return type(self)(**{**given, "jumps": self.jumps, "sparsity": self.sparsity, **changes})

    def with_args(self, args: tuple[Any, ...]) -> Field:
        """The same field with other arguments."""
        return self.changed(args=args)

    def with_jumps(self, jumps: Times | None) -> Field:
        """The same field with other jumps."""
        return self.changed(jumps=jumps)

    def taken(self, rows: Tensor) -> Field:
        """The field of some of the rows: tensors in the arguments that have an entry for each row have fewer then."""
        args = rows_of(self.args, rows, len(self._like))
        jac = self.jac[rows] if isinstance(self.jac, Tensor) and self.jac.ndim == 3 else self.jac
        jumps = None if self.jumps is None else self.jumps.taken(rows)
        layout, like = self.layout.taken(len(rows)), self._like.index_select(0, rows)
        return self.changed(args=args, layout=layout, like=like, jac=jac, jumps=jumps)

    def times(self, t: Number, h: Number, c: Tensor) -> Sequence[Tensor]:
        """The times t + c h: 0-d tensors in joint, (batch, 1, ..., 1) per sample; c has shape (S,), or there (S, B)."""
        if not self.layout.by_row:
            times = torch.add(t, c, alpha=h) if isinstance(h, float) else c * h + t
            times = times.to(self.time_dtype)
            return (times if self.jumps is None else self._inside(times, self.jumps, _host(t), _host(h))).unbind()
        plain = self.jumps is None and c.ndim == 1 and isinstance(t, Tensor) and isinstance(h, Tensor)
        if plain and self.time_dtype in (torch.float32, torch.float64) and is_compiled(of_rows(t)):
            shape = (len(c), *self._time_shape[1:])
            out = torch.empty(shape, dtype=self.time_dtype, device="cpu")  # whatever the default is
            return stage_times(of_rows(t), of_rows(h), c, out).unbind()
        c = c.unsqueeze(-1) if c.ndim == 1 else c
        times = torch.addcmul(t, c, h) if isinstance(t, Tensor) and isinstance(h, Tensor) else c * h + t
        times = times.to(self.time_dtype)
        if self.jumps is not None:
            times = self._inside(times, self.jumps, *(x.detach() if isinstance(x, Tensor) else x for x in (t, h)))
        return times.view(self._time_shape).unbind()

    def _inside(self, times: Tensor, jumps: Times, t: Number, h: Number) -> Tensor:
        """The times of a step from t, those at a jump moved to the step's side of it by the least that there is."""
        inside = times.detach()
        for end, direction in ((t, h), (t + h, -h)):
            there = (jumps.distance(end) <= 1e-9 * absolute(h) + 1e-15 * absolute(end)) & (direction != 0)
            if there is not False:
                end, beyond = (torch.as_tensor(x, dtype=times.dtype, device=times.device) for x in (end, direction))
                nearest = torch.nextafter(end, beyond * torch.inf)
                moved = where(direction > 0, torch.maximum(inside, nearest), torch.minimum(inside, nearest))
                inside = where(there, moved, inside)
        return times + (inside - times.detach())

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, checked."""
        version = version_of(y)
        plain = not t.requires_grad
        # where no graph is recorded a field that differentiates begins its own, which what is cut out of one cannot
        recorded = not y.requires_grad or torch.is_grad_enabled()
        state = self.layout.unpack(y if recorded else y.detach())
        try:
            slope = called(self.fun, t, state, *self.args)
        except Exception as error:
            who = "the field" if self.name == "fun" else self.name
            error.add_note(f"(raised by {who} while thalweg evaluated it at t = {_describe(t)})")
            told = uncallable(self.fun, self.args, self.name) or self._one_number(error, t, y)
            if told is not None:
                raise ValueError(told) from error
            raise
        if version_of(y) != version:
            raise wrote(self.name, self.state)
        if plain and t.requires_grad:
            t.requires_grad_(False)  # the field has asked for its gradient; nobody else does
        if self.layout.spec is not None:
            slope = self._pack(slope, y)
        if not isinstance(slope, Tensor):
            raise ValueError(
                f"{self.name} must return a tensor shaped like {self.state}, got {type(slope).__name__}; "
                "collect components with torch.stack"
            )
        if slope.shape != y.shape:
            expected, got = tuple(y.shape), tuple(slope.shape)
            raise ValueError(
                f"{self.name} must return the shape of {self.state}, {expected}, but returned {got}; "
                "check broadcasting between t and the state, and the field's last layer"
            )
        if slope.dtype != y.dtype or slope.device != y.device or slope.layout is not torch.strided:
            raise self._of_another_kind(slope, y)
        return slope

    def _one_number(self, error: Exception, t: Tensor, y: Tensor) -> str | None:
        """What is wrong where Python asked a tensor of several numbers for one; None where it did not."""
        if not any(words in str(error) for words in _ONE_NUMBER):
            return None
        each = ", a time for each row" if self.layout.by_row else ""
        return (
            f"{self.name} took a tensor of several numbers for a single one, as math.cos, float() and `if` do "
            f"({error}); here t has shape {tuple(t.shape)}{each}, and {self.state} has {tuple(y.shape)}: use functions "
            "of tensors, such as torch.cos and torch.where"
        )

    def _of_another_kind(self, slope: Tensor, y: Tensor) -> ValueError:
        """The error for a slope, or a leaf of it, whose dtype, device or layout is not the state's."""
        if slope.dtype != y.dtype:
            kind, advice = y.device.type, "convert the field (module.to(y.dtype)) or y0"
            if torch.is_autocast_enabled(kind) and slope.dtype == torch.get_autocast_dtype(kind):
                advice = (
                    "torch.autocast computes in it: convert what the field returns (.to(y.dtype)), or solve outside"
                )
            return ValueError(
                f"{self.name} must return the dtype of y, {y.dtype}, but returned {slope.dtype}; {advice}"
            )
        if slope.layout is not torch.strided:
            return ValueError(
                f"{self.name} must return a dense tensor, but returned one of layout {slope.layout}; add .to_dense()"
            )
        return ValueError(
            f"{self.name} must return a tensor on y's device, {y.device}, but returned one on {slope.device}; "
            "move the field or y0"
        )

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor | None:
        """The user's Jacobian, checked; None where there is none."""
        if self.jac is None:
            return None
        version = version_of(y)
        matrix = self.jac if isinstance(self.jac, Tensor) else self.jac(t, self.layout.unpack(y), *self.args)
        if version_of(y) != version:
            raise wrote("jac", "y")
        rows = y.shape[:1] if self.layout.by_row else ()
        size = math.prod(y.shape[len(rows) :])
        if not isinstance(matrix, Tensor):
            raise ValueError(f"jac must return a tensor, got {type(matrix).__name__}; collect entries with torch.stack")
        if matrix.layout is not torch.strided:
            raise ValueError(
                f"jac must return a dense matrix, but returned one of layout {matrix.layout}; give its .to_dense(), "
                "and where its zeros lie by jac_sparsity"
            )
        if not isinstance(self.jac, Tensor):
            matrix = kept(matrix)
        elif matrix.shape == (size, size):
            matrix = matrix.expand(*rows, size, size)
        if matrix.shape != (*rows, size, size):
            raise ValueError(
                f"jac must return shape {(*rows, size, size)}, the derivative of entry i by entry j in row i and "
                f"column j, but returned {tuple(matrix.shape)}"
            )
        if matrix.dtype != y.dtype or matrix.device != y.device:
            raise ValueError(
                f"jac must return the dtype and device of y, {y.dtype} on {y.device}, but returned {matrix.dtype} on "
                f"{matrix.device}"
            )
        return matrix

    def _pack(self, slope: Any, y: Tensor) -> Tensor:
        """Pack what the user's function returned for a structured state."""
        leaves, spec = pytree.tree_flatten(slope)
        if spec != self.layout.spec:
            raise ValueError(
                f"{self.name} must return the structure of {self.state}, {self.layout.spec}, but returned {spec}"
            )
        for leaf, shape in zip(leaves, self.layout.shapes, strict=True):
            if not isinstance(leaf, Tensor) or leaf.shape != shape:
                got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ValueError(
                    f"{self.name} must return leaves shaped like those of {self.state}, expected {tuple(shape)}, "
                    f"got {got}"
                )
            if leaf.dtype != y.dtype or leaf.device != y.device or leaf.layout is not torch.strided:  # packing converts
                raise self._of_another_kind(leaf, y)
        return self.layout.pack(slope)


class AdditiveField(Field):
    """dy/dt = f(t, y, *args) + g(t, y, *args), `fun` being (f, g); `jac` and `sparsity` are those of g alone."""

    @cached_property
    def parts(self) -> Sequence[Field]:
        """The fields of f and of g."""
        (f, g), given = self.fun, (self.args, self.layout, self._like)
        return (
            Field(f, *given, None, self.jumps, name="fun[0]"),
            Field(g, *given, self.jac, self.jumps, sparsity=self.sparsity, name="fun[1]"),
        )

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The sum."""
        f, g = self.parts
        return f(t, y) + g(t, y)

    def jacobian(self, t: Tensor, y: Tensor) -> None:
        """The user's is that of g."""


class SeparableField(Field):
    """dq/dt = v(t, p, *args), dp/dt = f(t, q, *args), `fun` being (v, f) and the state a pair (q, p) of one structure.

    Packed, q and p are the two halves of the last dimension; the parts of this field take and return one of them.

    Raises
    ------
    ValueError
        When the state is no such pair.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _half_layout(self.layout, self._like)  # refuses a state that is no pair, also where nothing is evaluated

    @cached_property
    def parts(self) -> Sequence[Field]:
        """The fields of v and of f."""
        (v, f), given = self.fun, (self.args, _half_layout(self.layout, self._like), halves(self._like)[0])
        return (
            _Half(v, *given, None, self.jumps, name="fun[0]", state="q"),
            _Half(f, *given, None, self.jumps, name="fun[1]", state="p"),
        )

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Both slopes."""
        (v, f), (q, p) = self.parts, halves(y)
        return torch.cat([v(t, p), f(t, q)], -1)


class _Half(Field):
    """One function of a separable pair, from one half of the packed state to the slope of the other."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope, checked."""
        if self.layout.spec is not None:
            return super().__call__(t, y)
        return super().__call__(t, y.reshape(self.layout.shapes[0])).reshape(y.shape)


FIELDS: dict[str | None, type[Field]] = {None: Field, "additive": AdditiveField, "separable": SeparableField}
"""What holds the user's function, or pair of functions, by what a method takes."""


def halves(y: Tensor) -> tuple[Tensor, Tensor]:
    """Q and p of a packed pair."""
    q, p = y.tensor_split(2, -1)
    return q, p


def _half_layout(layout: Layout, like: Tensor) -> Layout:
    """How q is packed, and p, each alone."""
    state = layout.unpack(like)
    parts = [pytree.tree_flatten(part) for part in state] if isinstance(state, tuple | list) else []
    shapes = [[leaf.shape for leaf in leaves] for leaves, _ in parts]
    if len(parts) != 2 or parts[0][1] != parts[1][1] or shapes[0] != shapes[1]:
        got = (
            f"a tensor of shape {tuple(like.shape)}"
            if layout.spec is None
            else f"shapes {[*map(tuple, layout.shapes)]}"
        )
        raise ValueError(
            "a pair fun=(v, f) with dq/dt = v(t, p), dp/dt = f(t, q) needs y0=(q, p), two tensors of one shape or two "
            f"pytrees of one structure, got {got}"
        )
    single = isinstance(state[0], Tensor)
    return Layout(None if single else parts[0][1], tuple(shapes[0]), layout.by_row)


def kept(slope: Tensor) -> Tensor:
    """A slope, or a Jacobian, that outlives the next: a field may hand out one tensor of its own again and again.

    One that is part of a graph is no such tensor.
    """
    return slope if slope.requires_grad else slope.clone()


def version_of(y: Tensor) -> int:
    """How often a state, or a view of it, was written to; always -1 of a tensor of inference mode, which counts none.

    Whoever calls a person's function looks before and after, as the solve goes on with the state that it lends.
    """
    return -1 if y.is_inference() else y._version


def wrote(name: str, state: str) -> ValueError:
    """The error for a function that wrote into the state that it was given."""
    return ValueError(
        f"{name} must not write into {state}, with which the solve goes on: compute new tensors, by {state}.neg() in "
        f"place of {state}.neg_(), or write into a copy, {state}.clone()"
    )


_ONE_NUMBER = (
    "converted to Python scalars",
    "converted to Scalar",
    "Boolean value of Tensor with more than one value",
    "only integer tensors of a single element",
)
"""What PyTorch says where Python asks a tensor for its one number, and it has several."""


def uncallable(fun: Callable[..., Any], args: tuple[Any, ...], name: str = "fun") -> str | None:
    """What is wrong where a function cannot take (t, y, *args) at all, and how to mend it; None where it can."""
    try:
        taken = inspect.signature(fun.forward if isinstance(fun, torch.nn.Module) else fun)
    except (TypeError, ValueError):  # some that are compiled do not say
        return None

    def takes(count: int) -> bool:
        try:
            taken.bind(*range(count))
        except TypeError:
            return False
        return True

    count, further = 2 + len(args), ", *args" if args else ""
    if takes(count):
        return None
    timeless = f"where it does without the time, give lambda t, y{further}: fun(y{further})"
    if args and takes(2):
        advice = f"leave out args, or let it take them{f'; {timeless}' if count == 3 else ''}"
    elif takes(count - 1):
        advice = timeless
    else:
        advice = "give what else it takes by args=(…,), or give a lambda that calls it as it is to be called"
    given = f", here with {len(args)} of args" if args else ""
    return f"{name} must be callable as {name}(t, y{further}){given}, but it takes {taken}; {advice}"


def time_of(field: FieldLike, t: Number, device: torch.device, h: Number = 0.0) -> Tensor:
    """A time as the user's function takes it; where the field jumps there, on the side of a step of size h from it."""
    (time,) = field.times(t, h, torch.zeros(1, dtype=wide_dtype(device), device=device))
    return time


def _host(x: Number) -> float:
    """A number of the whole batch, outside of any graph."""
    return x.item() if isinstance(x, Tensor) else x


def _describe(t: Tensor) -> str:
    """A time, or the range of times of a batch, for a message."""
    t = t.detach().flatten()
    if t.numel() == 0:
        return "no time"
    low, high = torch.aminmax(t)
    return f"{low.item():g}" if t.numel() == 1 or low == high else f"{low.item():g} .. {high.item():g}"
