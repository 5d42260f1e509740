"""How each operation of PyTorch becomes instructions.

Tables by PyTorch's own names: what moves entries and computes nothing; what is one instruction for each entry; and
rules of their own. What is said in terms of other operations stands in `decompositions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from . import matrices, windows
from .builder import Codes, NoInstruction, Untraceable
from .decompositions import DECOMPOSED, dims_of, in_order, no_errors, rounded_quotient, solve
from .prologue import Slot
from .tracer import Traced, Tracer, any_batched, given_to, is_batched

_PRODUCTS = 4096
"""The most multiplications, of a sample, in a product of two values: instructions are made for vectors."""

MOVES = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "cat", "clone", "detach", "diagonal", "expand", "flip"),
    *("lift_fresh", "permute", "repeat", "reshape", "roll", "select", "select_scatter", "slice", "slice_scatter"),
    *("split", "split_with_sizes", "squeeze", "stack", "t", "transpose", "unbind", "unfold", "unsafe_chunk"),
    *("unsafe_split", "unsafe_split_with_sizes", "unsqueeze", "view"),
}
"""What moves entries and computes nothing: done to the codes as they are."""

_UNARY = {
    *("neg", "abs", "reciprocal", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sigmoid"),
    *("relu", "silu", "exp2", "log2", "erf", "erfc", "erfinv", "lgamma", "digamma", "sign", "floor"),
}
_COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
_FARTHEST = 4096
"""How far a place is moved at once: whole numbers are held as those of y, which are exact up to 2^24."""

_WITHOUT_GRADIENT = _COMPARISONS | {
    *("searchsorted", "bucketize", "isnan", "isinf", "isfinite", "logical_and", "logical_or", "logical_xor"),
    *("logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "__and__", "__or__", "__xor__"),
    *("sign", "sgn", "signbit", "floor", "ceil", "trunc", "round", "floor_divide", "argmax", "argmin"),
}
"""What has no derivative, and may be made of what a field has cut from the graph."""

_FILLED = {"zeros": 0.0, "ones": 1.0, "empty": math.nan, "full": None}
"""What is filled with one number; where memory was not written to, NaN."""


def name_of(func: Any) -> str:
    """PyTorch's name of an operation, without its overload."""
    return str(func._schema.name).removeprefix("aten::")


def is_spread(tracer: Tracer, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operation on what is shared makes a tensor that may be written into, or that has a row a sample."""
    filled = _fill(name, args, kwargs)
    if filled is not None:
        return filled[2] == tracer.dtype or _has_rows(tracer, filled[0])
    return name in ("expand", "repeat") and _has_rows(tracer, args[1])


def _has_rows(tracer: Tracer, shape: Sequence[int]) -> bool:
    samples = tracer.builder.samples
    return samples > 1 and any(size and size % samples == 0 for size in shape)


def is_sure(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operation that may draw random numbers draws none this time."""
    return name.startswith("_scaled_dot_product") and not given_to(func, args, kwargs).get("dropout_p")


def lower(tracer: Tracer, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What an operation gives, as the field sees it; its instructions are written down."""
    filled = _fill(name, args, kwargs)
    if filled is not None:
        return _filled(tracer, *filled)
    within = not torch.is_grad_enabled()
    cuts = [x.cut for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Traced) and x.cut]
    cut = "no_grad, or an autograd.grad without create_graph" if within else cuts[0] if cuts else ""
    cut = "" if name in _WITHOUT_GRADIENT else cut
    written = func._schema.is_mutable
    if cut and (not getattr(args[0], "cut", "") if written else not (within or name in MOVES or name == "_to_copy")):
        raise Untraceable(f"the field cuts its own gradient ({name} after {cut})")
    if written:
        return _written(tracer, func, name, args, kwargs)
    found = _computed(tracer, func, name, args, kwargs)
    if cut:
        for x in pytree.tree_leaves(found):
            if is_batched(x):
                x.cut = cut
    return found


def _computed(tracer: Tracer, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation that writes into none of its arguments."""
    if name in MOVES:
        return _moved(tracer, func, args, kwargs)
    if name in _UNARY:
        return _each(tracer, name, args[0])
    if name in _COMPARISONS:
        return _each(tracer, name, *args, dtype=torch.bool)
    if name in RULES:
        return RULES[name](tracer, *args, **kwargs)
    with tracer:
        if name in DECOMPOSED:
            return DECOMPOSED[name](*args, **kwargs)
        from torch._decomp import decomposition_table

        try:
            decomposed = decomposition_table.get(func, func.decompose)(*args, **kwargs)
        except NoInstruction:
            raise NoInstruction(func) from None
    if decomposed is NotImplemented:
        raise NoInstruction(func)
    return decomposed


def _written(tracer: Tracer, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation that writes into its first argument: made anew, its codes are then written into those there."""
    target = args[0]
    if not is_batched(target) or name[-1] != "_":
        raise Untraceable(f"the field writes what depends on the sample into a tensor that does not ({name})")
    if name in ("copy_", "fill_"):
        made = args[1]
    elif name == "zero_":
        made = 0.0
    else:
        functional = getattr(getattr(torch.ops.aten, name[:-1]), func._overloadname)
        made = _computed(tracer, functional, name[:-1], args, kwargs)
    if not isinstance(made, Tensor):
        made = _rounded(made, target.dtype)
    elif torch.promote_types(made.dtype, target.dtype) != target.dtype:
        raise Untraceable(f"the field writes {made.dtype} into a tensor of {target.dtype}")
    target.codes.copy_(tracer.codes(made))
    return target


# tensors of one number


def _fill(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Sequence[int], float, torch.dtype] | None:
    """The shape, number and dtype of what is filled with one number of floating type."""
    dtype = kwargs.get("dtype")
    shape: Sequence[int]
    if name == "scalar_tensor":
        kind, shape, rest = name, (), args
    elif name == "_efficientzerotensor":  # the tangent of what has none
        kind, shape, rest = name, args[0], (0.0,)
    elif name == "_new_zeros_with_same_feature_meta":  # what forward differentiation begins with
        batch = args[0].shape[: kwargs.get("self_num_batch_dims", 0)]
        kind, dtype, shape, rest = name, args[1].dtype, (*batch, *args[1].shape), (0.0,)
    else:
        kind = name.removeprefix("new_").removesuffix("_like").removesuffix("_strided")
        if kind not in _FILLED:
            return None
        like = args[0] if isinstance(args[0], Tensor) else None
        dtype = dtype or (None if like is None else like.dtype)
        shape, rest = (like.shape, args[1:]) if name.endswith("_like") and like is not None else _sized(args)
        rest = rest if kind == "full" else (_FILLED[kind],)
    whole = dtype is None and kind == "full" and not isinstance(rest[0], float)
    dtype = torch.int64 if whole else dtype or torch.get_default_dtype()
    return (shape, float(rest[0]), dtype) if dtype.is_floating_point else None


def _sized(args: Sequence[Any]) -> tuple[Sequence[int], Sequence[Any]]:
    """The shape that is asked for, and what follows it."""
    at = 1 if isinstance(args[0], Tensor) else 0
    return args[at], args[at + 1 :]


def _filled(tracer: Tracer, shape: Sequence[int], number: float, dtype: torch.dtype) -> Traced:
    code = tracer.builder.constant(_rounded(number, dtype))
    return tracer.traced(torch.full(tuple(shape), code, device="cpu"), dtype)


def _rounded(number: float, dtype: torch.dtype) -> float:
    """What is left of a number in a tensor of that dtype, which may be less exact than y."""
    return torch.tensor(number, dtype=dtype, device="cpu").item()


# what moves entries


def _moved(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The same movement of the codes."""
    tensors = [x for x in pytree.tree_leaves(args) if isinstance(x, Tensor)]
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    codes = pytree.tree_map(lambda x: tracer.codes(x) if isinstance(x, Tensor) else x, args)
    return pytree.tree_map(lambda x: tracer.traced(x, dtype), func(*codes, **kwargs))


def _cast(tracer: Tracer, x: Traced, *, dtype: torch.dtype | None = None, **_: Any) -> Traced:
    if dtype is None or torch.promote_types(x.dtype, dtype) == dtype:
        return tracer.traced(tracer.codes(x).clone(), dtype or x.dtype)
    if dtype == torch.bool:
        return _each(tracer, "ne", x, 0.0, dtype=torch.bool)
    if x.dtype == tracer.dtype and dtype in (torch.int64, torch.int32):
        with tracer:
            whole = x.trunc()
        return tracer.traced(tracer.codes(whole), dtype)
    raise Untraceable(f"the field converts what depends on the sample from {x.dtype} to {dtype}")


def _indexed(tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None]) -> Traced:
    asked = [d for d, index in enumerate(indices) if is_batched(index) and _is_place(tracer, index)]
    if len(asked) == 1:
        return _looked_up(tracer, x, indices, asked[0])
    return tracer.traced(torch.ops.aten.index(tracer.codes(x), _known(tracer, indices)), x.dtype)


def _index_put(
    tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    if accumulate:
        places = torch.ops.aten.index(_places(x), _known(tracer, indices))
        return _accumulated(tracer, x, places, tracer.codes(values).expand(places.shape))
    if len(indices) == 1 and is_batched(indices[0]) and values.numel() == 1:
        mask = indices[0]
        assert mask is not None
        with tracer:
            return torch.where(mask.view(*mask.shape, *(1,) * (x.ndim - mask.ndim)), values.reshape(()), x)
    codes = torch.ops.aten.index_put(tracer.codes(x), _known(tracer, indices), tracer.codes(values))
    return tracer.traced(codes, x.dtype)


def _index_select(tracer: Tracer, x: Tensor, dim: int, index: Tensor) -> Traced:
    if is_batched(index) and _is_place(tracer, index):
        dim = dim % x.ndim
        return _looked_up(tracer, x, [*[None] * dim, index], dim)
    return tracer.traced(tracer.codes(x).index_select(dim, _known(tracer, [index])[0]), x.dtype)


def _gather(tracer: Tracer, x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Traced:
    if is_batched(index) and _is_place(tracer, index):
        grids = [torch.arange(n, device="cpu").view(-1, *(1,) * (x.ndim - d - 1)) for d, n in enumerate(index.shape)]
        dim = dim % x.ndim
        return _looked_up(tracer, x, [*grids[:dim], index, *grids[dim + 1 :]], dim)
    return tracer.traced(tracer.codes(x).gather(dim, _known(tracer, [index])[0]), x.dtype)


def _is_place(tracer: Tracer, index: Any) -> bool:
    """Whether an index is computed from the sample, and not only spread over them."""
    return index.dtype in (torch.int64, torch.int32) and bool((tracer.codes(index) >= 0).any())


def _looked_up(tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None], dim: int) -> Traced:
    """The entries of a table at places that depend on the sample, along dim: of all that there are, one is chosen.

    A place outside of the table is an error for PyTorch, and no number here.
    """
    index, length = indices[dim], x.shape[dim]
    assert index is not None
    others = _known(tracer, [None if d == dim else known for d, known in enumerate(indices)])

    def at(table: Tensor, places: Tensor) -> Tensor:
        return torch.ops.aten.index(table, [*others[:dim], places, *others[dim + 1 :]])

    numbers = torch.arange(index.numel(), device="cpu").view(index.shape)
    sizes = [index.numel() if d == dim else n for d, n in enumerate(x.shape)]
    along = numbers.view(-1, *(1,) * (x.ndim - dim - 1)).expand(sizes)
    place = tracer.traced(tracer.codes(index).flatten()[at(along, numbers)].unsqueeze(-1), torch.int64)
    if place.numel() * length > _PRODUCTS * tracer.builder.samples:
        count = place.numel() // tracer.builder.samples
        raise Untraceable(
            f"the field looks up {count} numbers among {length} each; the native engine takes up to {_PRODUCTS} in all"
        )
    codes = torch.stack([at(tracer.codes(x), torch.full_like(numbers, k)) for k in range(length)], -1)
    with tracer:
        here = (place == torch.arange(length)) | (place == torch.arange(-length, 0))
        found = torch.where(here, tracer.traced(codes, x.dtype), 0.0)
        inside = (place >= -length) & (place < length)
    summed = _reduced(tracer, "sum", found, [-1], False, dtype=x.dtype)
    nan = tracer.traced(torch.full((), tracer.builder.constant(math.nan)), x.dtype)
    return _where(tracer, tracer.traced(tracer.codes(inside).squeeze(-1), torch.bool), summed, nan)


def _searched(
    tracer: Tracer,
    sequence: Tensor,
    x: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Traced:
    """How many of an ascending sequence lie before a number, or at it from the right."""
    if sorter is not None or not isinstance(x, Tensor):
        raise Untraceable("the field searches among what is not sorted")
    length, dtype = sequence.shape[-1], torch.int32 if out_int32 else torch.int64
    if not length:
        return tracer.traced(torch.full_like(tracer.codes(x), tracer.builder.constant(0.0)), dtype)
    with tracer:
        x, among = x.unsqueeze(-1), sequence if sequence.ndim == 1 else sequence.unsqueeze(-2)
        behind = among.isnan() | ((among > x) if right or side == "right" else (among >= x))
    after = _reduced(tracer, "sum", behind, [-1], False, dtype=dtype)
    return _each(tracer, "sub", length, after, dtype=dtype)


def _bucketized(tracer: Tracer, x: Any, sequence: Tensor, *, out_int32: bool = False, right: bool = False) -> Traced:
    return _searched(tracer, sequence, x, out_int32=out_int32, right=right)


def _scattered(tracer: Tracer, x: Tensor, dim: int, index: Tensor, values: Any) -> Tensor:
    if is_batched(index) and _is_place(tracer, index):
        return _put(tracer, x, dim, index, values, lambda there, value: value)
    index = _known(tracer, [index])[0]
    if _places(x).gather(dim, index).unique().numel() != index.numel():
        raise Untraceable("the field scatters several entries to one place, of which PyTorch takes any")
    codes = tracer.codes(values)
    codes = _first_of(codes, index) if isinstance(values, Tensor) else codes.expand_as(index)
    return tracer.traced(tracer.codes(x).scatter(dim, index, codes), x.dtype)


def _scatter_added(tracer: Tracer, x: Tensor, dim: int, index: Tensor, values: Tensor) -> Tensor:
    if is_batched(index) and _is_place(tracer, index):
        return _put(tracer, x, dim, index, values, torch.add)
    index = _known(tracer, [index])[0]
    return _accumulated(tracer, x, _places(x).gather(dim, index), _first_of(tracer.codes(values), index))


def _put(
    tracer: Tracer, x: Tensor, dim: int, index: Tensor, values: Any, made: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Entries put, one after the other, at places that depend on the sample; of one outside, no number comes."""
    dim = dim % x.ndim
    if any(n != x.shape[d] for d, n in enumerate(index.shape) if d != dim):
        raise Untraceable("the field scatters to some rows alone, by places that depend on the sample")
    length, count = x.shape[dim], index.shape[dim]
    if count * x.numel() > _PRODUCTS * tracer.builder.samples:
        raise Untraceable(
            f"the field scatters {count} rows to {length} places; the native engine takes up to {_PRODUCTS} in all"
        )
    with tracer:
        places = torch.arange(length, device="cpu").view(-1, *(1,) * (x.ndim - dim - 1))
        for k in range(count):
            place = index.narrow(dim, k, 1)
            value = values.narrow(dim, k, 1) if isinstance(values, Tensor) else torch.full((), values, dtype=x.dtype)
            x = torch.where(place == places, made(x, value), x)
            x = torch.where((place >= 0) & (place < length), x, torch.full((), math.nan, dtype=x.dtype))
    return x


def _places(x: Tensor) -> Tensor:
    """Where each entry lies among all of them."""
    return torch.arange(x.numel(), device="cpu").view(x.shape)


def _first_of(x: Tensor, like: Tensor) -> Tensor:
    """The part of a tensor that is as large as another."""
    return x[tuple(slice(size) for size in like.shape)]


def _accumulated(tracer: Tracer, x: Tensor, places: Tensor, values: Tensor) -> Traced:
    """The sum of a tensor and of the values (codes) that go to each of its places; places with as many at once."""
    _check_dtype(tracer, "add", (x,))
    codes, order = tracer.codes(x).flatten().clone(), places.flatten().argsort(stable=True)
    values = values.flatten()[order]
    found, counts = places.flatten()[order].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    zero = tracer.builder.constant(0.0)
    for n in counts.unique().tolist():
        chosen = counts == n
        items = values[starts[chosen].unsqueeze(-1) + torch.arange(n, device="cpu")]
        if not bool((codes[found[chosen]] == zero).all()):
            items = torch.cat([codes[found[chosen]].unsqueeze(-1), items], -1)
        single = items.shape[-1] == 1
        summed = items[:, 0] if single else torch.from_numpy(tracer.builder.reduce("sum", items.numpy()))
        codes[found[chosen]] = summed
    return tracer.traced(codes.view(x.shape))


def _known(tracer: Tracer, indices: Sequence[Tensor | None]) -> list[Any]:
    return [None if index is None else tracer.known(index, "indexes with a tensor") for index in indices]


def _padded(tracer: Tracer, x: Tensor, pad: Sequence[int], value: float = 0) -> Traced:
    code = tracer.builder.constant(_rounded(value, x.dtype))
    return tracer.traced(torch.ops.aten.constant_pad_nd(tracer.codes(x), pad, code), x.dtype)


# what is computed entry by entry


def _each(
    tracer: Tracer, operation: str, *xs: Any, scalars: Sequence[float] = (), dtype: torch.dtype | None = None
) -> Traced:
    """One instruction, or none where it changes nothing."""
    if dtype is None:
        dtype = _check_dtype(tracer, operation, xs)
    codes = [tracer.codes(x).numpy() for x in xs]
    made = _simplified(tracer, operation, codes)
    if made is None:
        made = tracer.builder.elementwise(operation, codes, scalars)
    return tracer.traced(torch.from_numpy(made), dtype)


def _check_dtype(tracer: Tracer, operation: str, xs: Sequence[Any]) -> torch.dtype:
    """Refuse arithmetic in another dtype than that of y; places may be moved, and kept within bounds."""
    dtype = _result_type(xs)
    moved = dtype in (torch.int64, torch.int32) and operation in ("add", "sub", "clamp", "remainder")
    if (
        moved
        and all(isinstance(x, Tensor) or abs(x) <= _FARTHEST for x in xs)
        and is_batched(xs[0])
        and not any_batched(xs[1:])
    ):
        return dtype
    if dtype != tracer.dtype:
        raise Untraceable(f"the field computes in {dtype} ({operation}), but y has dtype {tracer.dtype}")
    return dtype


def _result_type(xs: Sequence[Any]) -> torch.dtype:
    """The dtype of what is computed of one or two."""
    like = [
        torch.empty((1,) * min(x.ndim, 1), dtype=x.dtype, device=x.device) if isinstance(x, Tensor) else x for x in xs
    ]
    return torch.result_type(*like) if len(like) == 2 else like[0].dtype


def _simplified(tracer: Tracer, operation: str, codes: list[Codes]) -> Codes | None:
    """The codes where an operation with a constant needs no instruction of its own kind."""
    number = tracer.builder.number
    if len(codes) != 2 or operation in _COMPARISONS:
        return None
    x, y = codes
    if operation in ("add", "mul") and number(x) is not None and number(y) is None:
        x, y = y, x
    neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(operation)
    constant = number(y)
    if neutral is not None and constant == neutral:
        return np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, y.shape)))
    if (operation, constant) == ("mul", -1.0):
        return tracer.builder.elementwise("neg", [np.broadcast_to(x, np.broadcast_shapes(x.shape, y.shape))])
    if operation == "sub" and number(x) == 0.0:
        return tracer.builder.elementwise("neg", [np.broadcast_to(y, np.broadcast_shapes(x.shape, y.shape))])
    if operation == "mul" and x.shape == y.shape and (x == y).all():
        return tracer.builder.elementwise("square", [x])
    return None


def _binary(operation: str) -> Callable[..., Traced]:
    def rule(tracer: Tracer, x: Any, y: Any) -> Traced:
        return _each(tracer, operation, x, y)

    return rule


def _scaled(tracer: Tracer, x: Any, alpha: float) -> Any:
    return x if alpha == 1 else _each(tracer, "mul", x, alpha)


def _add(tracer: Tracer, x: Any, y: Any, *, alpha: float = 1) -> Traced:
    return _each(tracer, "add", x, _scaled(tracer, y, alpha))


def _sub(tracer: Tracer, x: Any, y: Any, *, alpha: float = 1) -> Traced:
    return _each(tracer, "sub", x, _scaled(tracer, y, alpha))


def _rsub(tracer: Tracer, x: Any, y: Any, alpha: float = 1) -> Traced:
    return _each(tracer, "sub", y, _scaled(tracer, x, alpha))


def _mul(tracer: Tracer, x: Any, y: Any) -> Traced:
    boolean = all(isinstance(z, Tensor) and z.dtype == torch.bool for z in (x, y))
    return _each(tracer, "mul", x, y, dtype=torch.bool if boolean else None)


def _div(tracer: Tracer, x: Any, y: Any, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is not None:
        with tracer:
            return rounded_quotient(x, y, rounding_mode)
    return _each(tracer, "div", x, y)


def _pow(tracer: Tracer, x: Any, y: Any) -> Traced:
    if isinstance(y, Tensor):
        return _each(tracer, "pow", x, y)
    if y == 1:
        return tracer.traced(tracer.codes(x).clone())
    if y in (3, 4):
        square = _each(tracer, "square", x)
        return _each(tracer, "mul", square, x) if y == 3 else _each(tracer, "square", square)
    name = {2: "square", -1: "reciprocal", 0.5: "sqrt", -0.5: "rsqrt"}.get(y)
    return _each(tracer, name, x) if name else _each(tracer, "power", x, scalars=(y,))


def _round(tracer: Tracer, x: Tensor, *, decimals: int = 0) -> Tensor:
    if decimals == 0:
        return _each(tracer, "round", x)
    scale = 10.0 ** abs(decimals)
    with tracer:
        return (x * scale).round() / scale if decimals > 0 else (x / scale).round() * scale


def _clamp(tracer: Tracer, x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    low, high = min, max
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        with tracer:
            x = x if low is None else torch.where(x < low, low, x)
            return x if high is None else torch.where(x > high, high, x)
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    return _each(tracer, "clamp", x, scalars=bounds)


def _clamp_max(tracer: Tracer, x: Tensor, max: Any) -> Tensor:
    return _clamp(tracer, x, None, max)


def _leaky_relu(tracer: Tracer, x: Tensor, slope: float = 0.01) -> Traced:
    return _each(tracer, "leaky_relu", x, scalars=(slope,))


def _elu(tracer: Tracer, x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Traced:
    return _each(tracer, "elu", x, scalars=(alpha, scale, input_scale))


def _gelu(tracer: Tracer, x: Tensor, *, approximate: str = "none") -> Traced:
    return _each(tracer, "gelu" if approximate == "none" else "gelu_tanh", x)


def _softplus(tracer: Tracer, x: Tensor, beta: float = 1, threshold: float = 20) -> Traced:
    return _each(tracer, "softplus", x, scalars=(beta, threshold))


def _where(tracer: Tracer, mask: Tensor, x: Any, y: Any) -> Traced:
    return _each(tracer, "where", mask, x, y, dtype=_result_type((x, y)))


def _masked_fill(tracer: Tracer, x: Tensor, mask: Tensor, value: Any) -> Traced:
    return _where(tracer, mask, value, x)


def _logical(operation: str) -> Callable[..., Traced]:
    """On masks, and on numbers, which are true where they are not 0."""

    def rule(tracer: Tracer, *xs: Tensor) -> Traced:
        return _each(tracer, operation, *(_mask(tracer, x) for x in xs), dtype=torch.bool)

    return rule


def _bitwise(name: str, operation: str) -> Callable[..., Traced]:
    """On masks; the bits of numbers are another matter."""

    def rule(tracer: Tracer, *xs: Any) -> Traced:
        if any(isinstance(x, Tensor) and x.dtype != torch.bool for x in xs):
            raise Untraceable(f"the field looks at the bits of numbers ({name})")
        return _logical(operation)(tracer, *xs)

    return rule


def _mask(tracer: Tracer, x: Tensor) -> Tensor:
    return x if x.dtype == torch.bool else _each(tracer, "ne", x, 0.0, dtype=torch.bool)


def _logical_not(tracer: Tracer, x: Tensor) -> Traced:
    return _each(tracer, "eq", x, 0.0, dtype=torch.bool)


def _bitwise_not(tracer: Tracer, x: Tensor) -> Traced:
    if x.dtype != torch.bool:
        raise Untraceable("the field looks at the bits of numbers (bitwise_not)")
    return _logical_not(tracer, x)


# products


def _mm(tracer: Tracer, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Traced:
    """(M, K) by (K, N), and a shared bias (N,)."""
    _check_dtype(tracer, "mm", (a, b))
    if not is_batched(b):
        held = None if bias is None else tracer.slot(bias)
        made = tracer.builder.linear(tracer.codes(a).numpy(), _transposed(tracer, tracer.slot(b)), held)
        return tracer.traced(torch.from_numpy(made))
    if not is_batched(a):
        made = tracer.builder.linear(tracer.codes(b).t().numpy(), tracer.slot(a))
        return tracer.traced(torch.from_numpy(made).t())
    return tracer.traced(_bmm_codes(tracer, tracer.codes(a)[None], tracer.codes(b)[None])[0])


def _bmm(tracer: Tracer, a: Tensor, b: Tensor) -> Traced:
    """(P, M, K) by (P, K, N)."""
    _check_dtype(tracer, "bmm", (a, b))
    return tracer.traced(_bmm_codes(tracer, tracer.codes(a), tracer.codes(b)))


def _bmm_codes(tracer: Tracer, a: Tensor, b: Tensor) -> Tensor:
    """The codes of a batched product: linear where all of one factor is shared, else sums of products."""
    if bool((b < 0).all()):
        return _mapped(tracer, a, b.mT)
    if bool((a < 0).all()):
        return _mapped(tracer, b.mT, a).mT
    terms = len(a) * a.shape[1] * a.shape[2] * b.shape[2]
    if terms > _PRODUCTS * tracer.builder.samples:
        raise Untraceable(
            f"the field multiplies two matrices that depend on the sample, {terms // tracer.builder.samples} products "
            f"for each; the native engine takes up to {_PRODUCTS}"
        )
    products = _each(tracer, "mul", tracer.traced(a.unsqueeze(-2)), tracer.traced(b.mT.unsqueeze(-3)))
    return tracer.codes(_reduced(tracer, "sum", products, [-1], False))


def _mapped(tracer: Tracer, x: Tensor, weights: Tensor) -> Tensor:
    """The codes (P, M, R) of x (P, M, K) by shared weights (P, R, K); equal weights at once."""
    groups: dict[bytes, list[int]] = {}
    for number, weight in enumerate(weights):
        groups.setdefault(weight.contiguous().numpy().tobytes(), []).append(number)
    out = x.new_empty(*x.shape[:2], weights.shape[1])
    for numbers in groups.values():
        rows, weight = x[numbers].flatten(0, 1), weights[numbers[0]]
        made = tracer.builder.linear(rows.numpy(), weight.contiguous().numpy())
        out[numbers] = torch.from_numpy(made).view(len(numbers), x.shape[1], -1)
    return out


def _transposed(tracer: Tracer, slot: int) -> int:
    """The slot of the transpose; the matrix itself where the slot is a transpose already."""
    maker = tracer.prologue.maker(slot)
    if maker is not None and maker.function is torch.ops.aten.t.default:
        return maker.args[0].number
    return tracer.prologue.call(torch.ops.aten.t.default, Slot(slot)).number


def _addmm(tracer: Tracer, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Traced:
    if beta == alpha == 1 and bias.ndim == 1 and not any_batched([bias, b]) and len(bias) == b.shape[1]:
        return _mm(tracer, a, b, bias)
    return _add(tracer, _scaled(tracer, _mm(tracer, a, b), alpha), _scaled(tracer, bias, beta))


def _baddbmm(tracer: Tracer, x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Traced:
    return _add(tracer, _scaled(tracer, _bmm(tracer, a, b), alpha), _scaled(tracer, x, beta))


def _mv(tracer: Tracer, a: Tensor, x: Tensor) -> Traced:
    with tracer:
        column = x.unsqueeze(-1)
    made = _mm(tracer, a, column)
    return tracer.traced(tracer.codes(made).squeeze(-1))


# reductions


def _reduced(
    tracer: Tracer,
    operation: str,
    x: Tensor,
    dims: Sequence[int] | int | None,
    keepdim: bool,
    *,
    dtype: torch.dtype | None = None,
) -> Traced:
    if dtype is None:
        _check_dtype(tracer, operation, (x,))
    codes = tracer.codes(x)
    dims = dims_of(x, dims)
    kept = [d for d in range(x.ndim) if d not in dims]
    shape = [1 if d in dims else x.shape[d] for d in range(x.ndim) if keepdim or d not in dims]
    items = codes.permute(*kept, *dims).flatten(len(kept)) if dims else codes.unsqueeze(-1)
    made = items[..., 0] if items.shape[-1] == 1 else torch.from_numpy(tracer.builder.reduce(operation, items.numpy()))
    return tracer.traced(made.clone().reshape(shape), dtype)


def _sum(
    tracer: Tracer, x: Tensor, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Traced:
    if x.dtype == torch.bool:  # their number
        return _reduced(tracer, "sum", x, dims, keepdim, dtype=dtype or torch.int64)
    if dtype not in (None, tracer.dtype):
        raise Untraceable(f"the field sums in {dtype}, but y has dtype {tracer.dtype}")
    return _reduced(tracer, "sum", x, dims, keepdim)


def _amax(tracer: Tracer, x: Tensor, dims: Any = (), keepdim: bool = False) -> Traced:
    return _reduced(tracer, "amax", x, dims, keepdim)


def _any(tracer: Tracer, x: Tensor, dims: Any = None, keepdim: bool = False) -> Traced:
    return _reduced(tracer, "amax", _mask(tracer, x), dims, keepdim, dtype=torch.bool)


def _all(tracer: Tracer, x: Tensor, dims: Any = None, keepdim: bool = False) -> Traced:
    return _logical_not(tracer, _any(tracer, _logical_not(tracer, x), dims, keepdim))


def _extreme(largest: bool) -> Callable[..., Any]:
    """Of all entries, or along a dimension; there the first of equal ones gets the gradient."""

    def rule(tracer: Tracer, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        with tracer:
            if dim is None:
                return x.amax() if largest else x.amin()
            values = _first_extreme(x, dim, largest)
            values = values if keepdim else values.squeeze(dim)
        return values, _place_of_extreme(largest)(tracer, x, dim, keepdim)

    return rule


def _first_extreme(x: Tensor, dim: int, largest: bool) -> Tensor:
    """Neighbours are compared, then those that are left, and so on: the first of them stays the first."""
    extreme = torch.maximum if largest else torch.minimum
    while (size := x.shape[dim]) > 1:
        first, second = x.narrow(dim, 0, size // 2 * 2).unfold(dim, 2, 2).unbind(-1)
        found = torch.where(first == second, first, extreme(first, second))
        x = torch.cat([found, x.narrow(dim, size - 1, 1)], dim) if size % 2 else found
    return x


def _place_of_extreme(largest: bool) -> Callable[..., Tensor]:
    """Where the largest or smallest entry lies, the first of equal ones."""

    def rule(tracer: Tracer, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        with tracer:
            if dim is None:
                return rule(tracer, x.flatten(), 0)
            length = x.shape[dim]
            here = (x == (x.amax(dim, True) if largest else x.amin(dim, True))) | x.isnan()
            behind = torch.arange(length, 0, -1, dtype=x.dtype, device="cpu").view(
                -1, *(1,) * (x.ndim - dim % x.ndim - 1)
            )
            place = length - torch.where(here, behind, 0.0).amax(dim, keepdim)
        return tracer.traced(tracer.codes(place), torch.int64)

    return rule


def _sorted(tracer: Tracer, x: Tensor, dim: int = -1, descending: bool = False, **_: Any) -> tuple[Tensor, Tensor]:
    with tracer:
        values, places = in_order(x, dim, descending)
    return values, tracer.traced(tracer.codes(places), torch.int64)


def _first_sorted(
    tracer: Tracer, x: Tensor, k: int, dim: int = -1, largest: bool = True, *_: Any
) -> tuple[Tensor, ...]:
    found = _sorted(tracer, x, dim, largest)
    with tracer:
        return tuple(z.narrow(dim, 0, k) for z in found)


def _sorted_at(tracer: Tracer, x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, ...]:
    found = _sorted(tracer, x, dim)
    with tracer:
        chosen = tuple(z.narrow(dim, k - 1, 1) for z in found)
        return chosen if keepdim else tuple(z.squeeze(dim) for z in chosen)


def _median(tracer: Tracer, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower one of two in the middle."""
    if dim is None:
        with tracer:
            flat = x.flatten()
        return _median(tracer, flat, 0)[0]
    return _sorted_at(tracer, x, (x.shape[dim] + 1) // 2, dim, keepdim)


def _largest_of_windows(tracer: Tracer, x: Tensor, *args: Any) -> tuple[Tensor, Traced]:
    with tracer:
        values = windows.largest(x, *args)
    return values, tracer.unsaid(values.shape, "asks where the largest entry of a window lies")


def _with_factors(
    function: Callable[..., Sequence[Tensor]], after: Callable[[Tensor], Sequence[Tensor]] = lambda a: ()
) -> Callable[..., Any]:
    """What is made of a matrix; its factors, which PyTorch's own derivative reads, are none that a program says."""

    def rule(tracer: Tracer, a: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        with tracer:
            found, last = function(a, *args, **kwargs), after(a)
        factors = (
            tracer.unsaid(shape, "differentiates what it makes of a matrix") for shape in (a.shape, a.shape[:-1])
        )
        return (*found, *factors, *last)

    return rule


RULES: dict[str, Callable[..., Any]] = {
    "_linalg_det": _with_factors(lambda a: (matrices.determinant(a),)),
    "_linalg_slogdet": _with_factors(lambda a: matrices.log_determinant(a)),
    "_linalg_solve_ex": _with_factors(lambda a, *b, **options: (solve(a, *b, **options),), lambda a: (no_errors(a),)),
    "_to_copy": _cast,
    "index": _indexed,
    "index_put": _index_put,
    "index_select": _index_select,
    "gather": _gather,
    "constant_pad_nd": _padded,
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "fmod": _binary("fmod"),
    "remainder": _binary("remainder"),
    "atan2": _binary("atan2"),
    "copysign": _binary("copysign"),
    "round": _round,
    "minimum": _binary("minimum"),
    "maximum": _binary("maximum"),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "gelu": _gelu,
    "softplus": _softplus,
    "where": _where,
    "masked_fill": _masked_fill,
    "logical_and": _logical("mul"),
    "bitwise_and": _bitwise("bitwise_and", "mul"),
    "logical_or": _logical("maximum"),
    "bitwise_or": _bitwise("bitwise_or", "maximum"),
    "logical_xor": _logical("ne"),
    "bitwise_xor": _bitwise("bitwise_xor", "ne"),
    "logical_not": _logical_not,
    "bitwise_not": _bitwise_not,
    "mm": _mm,
    "bmm": _bmm,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "mv": _mv,
    "sum": _sum,
    "amax": _amax,
    "_has_same_storage_numel": lambda tracer, x, y: x.numel() == y.numel(),
    "any": _any,
    "all": _all,
    "max": _extreme(True),
    "min": _extreme(False),
    "argmax": _place_of_extreme(True),
    "argmin": _place_of_extreme(False),
    "max_pool2d_with_indices": _largest_of_windows,
    "max_pool3d_with_indices": _largest_of_windows,
    "sort": _sorted,
    "topk": _first_sorted,
    "kthvalue": _sorted_at,
    "median": _median,
    "bucketize": _bucketized,
    "searchsorted": _searched,
    "scatter": _scattered,
    "scatter_add": _scatter_added,
}
"""Operations with a rule of their own, which takes the tracer and their arguments."""
