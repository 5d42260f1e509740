"""Operations of PyTorch that are others together: what computes a number of entries by a formula.

Each is a function of tensors that calls PyTorch, and what it calls is traced in its turn. It must have the derivative
of PyTorch's own at kinks too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import matrices, windows
from .builder import Untraceable
from .tracer import is_batched, is_mixed


def dims_of(x: Tensor, dims: Sequence[int] | int | None) -> list[int]:
    """Dimensions counted from the front; all of them where none is named."""
    dims = [dims] if isinstance(dims, int) else dims
    return sorted(d % max(x.ndim, 1) for d in dims) if dims and x.ndim else [*range(x.ndim)]


def _amin(x: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    return -(-x).amax(tuple(dim), keepdim)


def _count(x: Tensor, dim: Any) -> int:
    return math.prod(x.shape[d] for d in dims_of(x, dim))


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    return torch.sum(x, dims_of(x, dim), keepdim, dtype=dtype) / _count(x, dim)


def _var_mean(
    x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    mean = _mean(x, dim, True)
    squares = (x - mean).square().sum(dims_of(x, dim), keepdim)
    freedom = max(_count(x, dim) - (1 if correction is None else correction), 0)
    return squares / freedom, mean if keepdim else mean.reshape(squares.shape)


def _var(x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    return _var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def _std(x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    return _root(_var(x, dim, correction=correction, keepdim=keepdim))


def _root(x: Tensor) -> Tensor:
    """The square root whose derivative at 0 is 0, as PyTorch has it for norms and deviations."""
    none = x == 0
    return torch.where(none, 0.0, torch.where(none, 1.0, x).sqrt())


def _norm(
    x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    if abs(order) == math.inf:
        size = x.abs()
        return (size.amax if order > 0 else size.amin)(dims_of(x, dim), keepdim)
    if order == 2:
        return _root(x.square().sum(dims_of(x, dim), keepdim, dtype=dtype))
    powers = (x != 0).to(x.dtype) if order == 0 else x.abs() if order == 1 else _power(x.abs(), order)
    total = powers.sum(dims_of(x, dim), keepdim, dtype=dtype)
    return total if order in (0, 1) else _power(total, 1 / order)


def _power(x: Tensor, exponent: float) -> Tensor:
    """A power of what is not negative, whose derivative at 0 is 0."""
    none = x == 0
    return torch.where(none, 0.0 if exponent > 0 else math.inf, torch.where(none, 1.0, x) ** exponent)


def _logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    largest = x.amax(dims_of(x, dim), True)
    total = (x - largest).exp().sum(dims_of(x, dim), True).log() + largest
    return total if keepdim else total.sum(dims_of(x, dim))


def _softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    powers = (x - x.amax(dim, True)).exp()
    return powers / powers.sum(dim, True)


def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """As attention has it: where nothing may be looked at, all is 0, and so is the gradient."""
    nothing = (x == -math.inf).logical_not().sum(dim, True) == 0
    return torch.where(nothing, 0.0, torch.softmax(torch.where(nothing, 0.0, x), dim, dtype))


def _log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    shifted = x - x.amax(dim, True)
    return shifted - shifted.exp().sum(dim, True).log()


def _normalized(x: Tensor, dim: Sequence[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """What has mean 0 and variance 1 along dim, the mean, and what it was divided by, inverted."""
    variance, mean = _var_mean(x, dim, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    return (x - mean) * scale, mean, scale


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    out, mean, scale = _normalized(x, [*range(x.ndim - len(shape), x.ndim)], eps)
    return _affine(out, weight, bias), mean, scale


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, channels: int, size: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    out, mean, scale = _normalized(x.reshape(n, groups, -1), [2], eps)
    weight, bias = (None if p is None else p.view(channels, *(1,) * (x.ndim - 2)) for p in (weight, bias))
    return _affine(out.view(x.shape), weight, bias), mean.view(n, groups), scale.view(n, groups)


def _rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None = None
) -> tuple[Tensor, Tensor]:
    dim = [*range(x.ndim - len(shape), x.ndim)]
    scale = (x.square().mean(dim, True) + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()
    return _affine(x * scale, weight, None), scale


def _running_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by running statistics."""
    shape = (-1, *(1,) * (x.ndim - 2))
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    moved = (x - mean.view(shape)) * scale.view(shape)
    return _affine(moved, None, None if bias is None else bias.view(shape)), mean, scale


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if not training and mean is not None and variance is not None:
        return _running_norm(x, weight, bias, mean, variance, momentum, eps)
    advice = "(batch_norm in training mode); call eval() on it, or use layer_norm"
    if mean is not None:
        raise Untraceable(f"the field writes running statistics {advice}")
    found, center, scale = _normalized(x, [d for d in range(x.ndim) if d != 1], eps)
    if is_mixed(found):  # that of instances, each a channel of its own, is not
        raise Untraceable(f"the field mixes samples {advice}")
    shape = (-1, *(1,) * (x.ndim - 2))
    weight, bias = (p if p is None else p.view(shape) for p in (weight, bias))
    return _affine(found, weight, bias), center.flatten(), scale.flatten()


def _euclidean_distance(x: Tensor, y: Tensor) -> Tensor:
    """As PyTorch finds it where there are many, by products; of what lies together the derivative is 0."""
    products = torch.cat([-2 * x, x.square().sum(-1, True), torch.ones_like(x[..., :1])], -1)
    squared = products @ torch.cat([y, torch.ones_like(y[..., :1]), y.square().sum(-1, True)], -1).mT
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def _prod(x: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    dims = dims_of(x, dim)
    out = x.permute(*(d for d in range(x.ndim) if d not in dims), *dims).flatten(x.ndim - len(dims)).unbind(-1)
    if len(out) > 64:
        raise Untraceable(f"the field multiplies {len(out)} numbers (prod); the native engine takes up to 64")
    product = math.prod(out[1:], start=out[0])
    return product.unsqueeze(dims[0]) if keepdim and dim is not None else product


def _cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    ones = torch.ones(x.shape[dim], x.shape[dim], dtype=torch.bool, device=x.device).triu()
    return (x.movedim(dim, -1) @ ones.to(x.dtype)).movedim(-1, dim)


def _trilinear(
    a: Tensor, b: Tensor, c: Tensor, a_new: Sequence[int], b_new: Sequence[int], c_new: Sequence[int], *rest: Any
) -> Tensor:
    """The sum over some dimensions of a product of three tensors, each with new dimensions of its own."""
    factors = []
    for x, new in ((a, a_new), (b, b_new), (c, c_new)):
        for dim in sorted(new):
            x = x.unsqueeze(dim)
        factors.append(x)
    return (factors[0] * factors[1] * factors[2]).sum(rest[0])


def _scatter_reduced(
    x: Tensor, dim: int, index: Tensor, values: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    if reduce not in ("sum", "mean"):
        raise Untraceable(f"the field scatters and reduces by {reduce}; the native engine sums and takes means")
    ones = torch.ones(index.shape, dtype=x.dtype, device=x.device)
    count = torch.zeros_like(x).scatter_add(dim, index, ones)
    x = (x if include_self else torch.where(count > 0, 0.0, x)).scatter_add(dim, index, values)
    return x if reduce == "sum" else x / (count + 1 if include_self else torch.where(count > 0, count, 1.0))


def _triangle(lower: bool) -> Callable[..., Tensor]:
    def decomposition(x: Tensor, diagonal: int = 0) -> Tensor:
        ones = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
        return torch.where(ones.tril(diagonal) if lower else ones.triu(diagonal), x, 0.0)

    return decomposition


def _hardtanh(x: Tensor, low: float = -1, high: float = 1) -> Tensor:
    """Unlike clamp, PyTorch passes no gradient at the bounds."""
    return torch.where(x >= high, high, torch.where(x <= low, low, x))


def _xlogy(x: Any, y: Any) -> Tensor:
    """By x log(y), and 0 where x is 0 and y has no logarithm; where both are 0, PyTorch's derivative to y is NaN."""
    x, y = _tensors(x, y)
    none = (x == 0) & (y <= 0)
    return torch.where(none, y.abs().sqrt() * 0.0, x * torch.where(none, 1.0, y).log())


def _xlog1py(x: Any, y: Any) -> Tensor:
    """The same with 1 + y."""
    x, y = _tensors(x, y)
    none = (x == 0) & (y <= -1)
    return torch.where(none, (1 + y).abs().sqrt() * 0.0, x * torch.where(none, 0.0, y).log1p())


def _tensors(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Two of which one may be a number."""
    a, b = (z if isinstance(z, Tensor) else torch.full((), z, dtype=other.dtype) for z, other in ((x, y), (y, x)))
    return a, b


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """A polynomial, lowest power first."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value = (value + coefficient) * x
    return value + coefficients[0]


def rounded_quotient(x: Any, y: Any, mode: str) -> Tensor:
    """The whole number that x / y is rounded to, by the exact quotient where to the floor; it has no derivative."""
    if mode == "trunc":
        return (x / y).trunc()
    whole = (x - torch.remainder(x, y)) / y
    if isinstance(y, Tensor) or y == 0:
        whole = torch.where(torch.as_tensor(y == 0), x / y, whole)
    return whole.round()


def _cosine_of_sine(x: Tensor) -> Tensor:
    return ((1 - x) * (1 + x)).sqrt()


def _odd(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function f(-x) = -f(x), of what it is for x >= 0."""

    def decomposition(x: Tensor) -> Tensor:
        sign = torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))
        return sign * function(sign * x)

    return decomposition


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    """Scaled by a power of 2 where squares would leave the range of numbers."""
    largest, info = torch.maximum(x.abs(), y.abs()), torch.finfo(x.dtype)
    shift = 2.0 ** (round(math.log2(info.max)) // 2 + 4)
    one = torch.ones_like(largest)
    scale = torch.where(largest > shift / 64, one / shift, torch.where(largest < 64 / shift, one * shift, one))
    return ((x * scale).square() + (y * scale).square()).sqrt() / scale


def _sinc(x: Tensor) -> Tensor:
    """A series near 0, where the derivative of a quotient would be little but rounding."""
    angle = x * math.pi
    near = angle.abs() < 0.5
    series = _horner(torch.where(near, angle, 0.0).square(), [(-1) ** n / math.factorial(2 * n + 1) for n in range(8)])
    far = torch.where(near, 1.0, angle)
    return torch.where(near, series, far.sin() / far)


def _nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    info = torch.finfo(x.dtype)
    x = torch.where(x.isnan(), 0.0 if nan is None else nan, x)
    x = torch.where(x == math.inf, info.max if posinf is None else posinf, x)
    return torch.where(x == -math.inf, info.min if neginf is None else neginf, x)


def _cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    first, *others = x.unbind(dim)
    if len(others) >= 64:
        raise Untraceable(f"the field multiplies {len(others) + 1} numbers (cumprod); the native engine takes up to 64")
    return torch.stack(list(itertools.accumulate(others, torch.mul, initial=first)), dim)


_IN_ORDER = 32
"""The most numbers that are sorted: each of them is compared with about half of all."""


def in_order(x: Tensor, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
    """The entries along a dimension in their order, and where each was: neighbours change places, in as many rounds.

    Equal ones stay as they are.
    """
    x = x.movedim(dim, -1)
    length = x.shape[-1]
    if length > _IN_ORDER:
        raise Untraceable(f"the field sorts {length} numbers; the native engine sorts up to {_IN_ORDER}")
    both = torch.stack([x, torch.arange(length, dtype=x.dtype, device=x.device).expand(x.shape)])
    for begin in [n % 2 for n in range(length)]:
        end = length - (length - begin) % 2
        if begin == end:
            continue
        first, second = both[..., begin:end].unflatten(-1, (-1, 2)).unbind(-1)
        swap = second[0] > first[0] if descending else second[0] < first[0]
        pairs = torch.stack([torch.where(swap, second, first), torch.where(swap, first, second)], -1).flatten(-2)
        both = torch.cat([both[..., :begin], pairs, both[..., end:]], -1)
    values, places = both.movedim(-1, dim if dim < 0 else dim + 1)
    return values, places


def _inverse(a: Tensor) -> Tensor:
    return matrices.solved(a, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device), shared=False)


def solve(a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False) -> Tensor:
    """The solution of a x = b, or of x a = b, where b may be one vector for each matrix."""
    vector = b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    b = b.unsqueeze(-1) if vector else b
    found = matrices.solved(*((a, b) if left else (a.mT, b.mT)), shared=not is_batched(a))
    return found.squeeze(-1) if vector else found if left else found.mT


def no_errors(a: Tensor) -> Tensor:
    """A matrix without an inverse gives infinite numbers, and the solve fails."""
    return torch.zeros(a.shape[:-2], dtype=torch.int32, device="cpu")


def _triangular(a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    if not left:
        return _triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    if not is_batched(a):
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        return torch.linalg.solve_triangular(a, eye, upper=upper, unitriangular=unitriangular) @ b
    return matrices.solved_triangular(a, b, upper=upper, unit=unitriangular)


def _cholesky_solve(b: Tensor, a: Tensor, upper: bool = False) -> Tensor:
    lower = a.mT if upper else a
    return _triangular(lower.mT, _triangular(lower, b, upper=False), upper=True)


def _logsigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.minimum(x, torch.zeros_like(x)) - (-x.abs()).exp().log1p()
    return out, out


DECOMPOSED: dict[str, Callable[..., Any]] = {
    "_batch_norm_no_update": _running_norm,
    "_euclidean_dist": _euclidean_distance,
    "_fused_rms_norm": _rms_norm,
    "_log_softmax": _log_softmax,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _running_norm,
    "_prelu_kernel": lambda x, weight: torch.where(x > 0, x, x * weight),
    "_safe_softmax": _safe_softmax,
    "_softmax": _softmax,
    "_trilinear": _trilinear,
    "acos": lambda x: torch.atan2(_cosine_of_sine(x), x),
    "acosh": lambda x: (x - 1 + (x - 1).sqrt() * (x + 1).sqrt()).log1p(),
    "asin": lambda x: torch.atan2(x, _cosine_of_sine(x)),
    "asinh": _odd(lambda x: (x + x.square() / (1 + (x.square() + 1).sqrt())).log1p()),
    "atan": lambda x: torch.atan2(x, torch.ones_like(x)),
    "atanh": _odd(lambda x: (2 * x / (1 - x)).log1p() / 2),
    "addcdiv": lambda x, a, b, value=1: x + value * (a / b),
    "addcmul": lambda x, a, b, value=1: x + value * (a * b),
    "addmv": lambda x, a, b, beta=1, alpha=1: beta * x + alpha * (a @ b),
    "amin": _amin,
    "avg_pool2d": windows.average,
    "avg_pool3d": windows.average,
    "ceil": lambda x: -(-x).floor(),
    "celu": lambda x, alpha=1: torch.ops.aten.elu(x, alpha, 1, 1 / alpha),
    "_cdist_forward": lambda x, y, order, mode: _norm(x.unsqueeze(-2) - y.unsqueeze(-3), order, -1),
    "cholesky_solve": _cholesky_solve,
    "convolution": windows.convolution,
    "cosh": lambda x: (x.exp() + (-x).exp()) / 2,
    "cumprod": _cumprod,
    "cumsum": _cumsum,
    "dot": lambda x, y: (x * y).sum(),
    "fmax": lambda x, y: torch.where((x >= y) | y.isnan(), x, y),
    "floor_divide": lambda x, y: rounded_quotient(x, y, "floor"),
    "fmin": lambda x, y: torch.where((x <= y) | y.isnan(), x, y),
    "frac": lambda x: x - x.trunc(),
    "glu": lambda x, dim=-1: x.chunk(2, dim)[0] * x.chunk(2, dim)[1].sigmoid(),
    "hardshrink": lambda x, lambd=0.5: torch.where((x >= -lambd) & (x <= lambd), 0.0, x),
    "hardsigmoid": lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 6 + 0.5)),
    "hardswish": lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, x, x * (x + 3) / 6)),
    "hardtanh": _hardtanh,
    "hypot": _hypot,
    "isnan": lambda x: x != x,
    "lerp": lambda x, y, weight: x + weight * (y - x),
    "linalg_cholesky_ex": lambda a, *, upper=False, check_errors=False: (matrices.cholesky(a, upper), no_errors(a)),
    "linalg_inv_ex": lambda a, check_errors=False: (_inverse(a), no_errors(a)),
    "linalg_solve_triangular": _triangular,
    "linalg_vector_norm": _norm,
    "log10": lambda x: x.log() / math.log(10),
    "log_sigmoid_forward": _logsigmoid,
    "logsumexp": _logsumexp,
    "mean": _mean,
    "mish": lambda x: x * torch.tanh(torch.nn.functional.softplus(x)),
    "nan_to_num": _nan_to_num,
    "native_batch_norm": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "prod": _prod,
    "scatter_reduce": _scatter_reduced,
    "sgn": torch.sign,
    "signbit": lambda x: torch.copysign(torch.ones_like(x), x) < 0,
    "sigmoid_backward": lambda gradient, out: gradient * (out * (1 - out)),
    "sinc": _sinc,
    "sinh": lambda x: (x.expm1() - (-x).expm1()) / 2,
    "softshrink": lambda x, lambd=0.5: torch.where(x > lambd, x - lambd, torch.where(x < -lambd, x + lambd, x * 0.0)),
    "std": _std,
    "std_mean": lambda x, dim=None, **how: (_std(x, dim, **how), _var_mean(x, dim, **how)[1]),
    "tanh_backward": lambda gradient, out: gradient * (1 - out.square()),
    "tan": lambda x: x.sin() / x.cos(),
    "threshold_backward": lambda gradient, x, threshold: torch.where(x <= threshold, 0.0, gradient),
    "special_xlog1py": _xlog1py,
    "special_entr": lambda x: -torch.xlogy(x, x),
    "trunc": lambda x: torch.copysign(x.abs().floor(), x),
    "threshold": lambda x, threshold, value: torch.where(x <= threshold, value, x),
    "tril": _triangle(True),
    "triu": _triangle(False),
    "var": _var,
    "var_mean": _var_mean,
    "xlogy": _xlogy,
}
"""Operations that are others together."""
