"""The checks of what `solve_ivp` is given: each says which argument, what came, what was expected, how to mend it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .core.arithmetic import wide_dtype, within_digits
from .core.derivatives import unwrapped
from .core.norms import AsGiven, Tolerance
from .core.sparsity import Sparsity
from .external.methods import External
from .methods import Method

Time: TypeAlias = float | Tensor


def no_times(times: Tensor | Sequence[float]) -> bool:
    """Whether they are the default, the empty tuple: arrays and tensors compare with it number by number."""
    return isinstance(times, tuple) and not times


def stop_times(name: str, times: Tensor | Sequence[float], rows: int | None, device: torch.device) -> Tensor | None:
    """Times that no step crosses, (K,), or (K, batch) with NaN for those that a row lacks; None if there are none."""
    if no_times(times):
        return None
    if name == "jump_ts" and isinstance(times, Tensor) and times.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "jump_ts needs a gradient, and none reaches the times at which a field jumps: give jump_ts.detach() where "
            "none is wanted or the field is continuous there; where the time is learnt, let an event at that time "
            "change a state which the field depends on (thalweg.Event, apply)"
        )
    expected = "(K,)" if rows is None else f"(K,) or (K, {rows})"
    try:
        dtype, home = (torch.float64, "cpu") if rows is None else (wide_dtype(device), device)
        values = _real(times, dtype, home).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be real numbers of shape {expected}, got {times!r}") from None
    shape = tuple(values.shape)
    if values.ndim != 1 and (rows is None or values.ndim != 2 or shape[1] != rows):
        hint = "; times of their own for each row need batching='per_sample'" if rows is None else ""
        raise ValueError(f"{name} must be finite times of shape {expected}, got shape {shape}{hint}")
    known = torch.isfinite(values) if values.ndim == 1 else ~torch.isinf(values)
    if not bool(known.all()):
        lacking = "" if rows is None else ", (K, batch) with NaN for those that a row lacks"
        raise ValueError(f"{name} must be finite times{lacking}, got {times!r}")
    if values.numel() == 0:
        return None
    return values if rows is None or values.ndim == 2 else values.unsqueeze(1).expand(-1, rows)


def _real(x: Any, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Numbers as a tensor; PyTorch would take a complex one's real part, with no more than a warning."""
    if isinstance(x, Tensor) and x.is_complex():
        raise TypeError
    return torch.as_tensor(x, dtype=dtype, device=device)


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """The value, which must be one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


_PAIRS = {
    "additive": "fun=(f, g) for dy/dt = f(t, y) + g(t, y) with a stiff g, solved for, and an f that is not stiff; "
    "where there is no such split, choose a method for stiff fields, such as 'kvaerno5'",
    "separable": "fun=(v, f) for dq/dt = v(t, p), dp/dt = f(t, q) and y0=(q, p); "
    "where there is no such split, choose a method for one function, such as 'tsit5'",
}


def check_functions(fun: Any, method: Method | External) -> None:
    """Refuse what is not as many functions as the method takes."""
    if method.pair is not None:
        if not (isinstance(fun, tuple | list) and len(fun) == 2 and all(map(callable, fun))):
            got = f"{len(fun)} of them" if isinstance(fun, tuple | list) else type(fun).__name__
            raise ValueError(f"method {method.name!r} takes two functions, {_PAIRS[method.pair]}; got {got}")
    elif isinstance(fun, tuple | list) and fun and all(map(callable, fun)):
        raise ValueError(
            f"method {method.name!r} takes one function, got {len(fun)}; give the whole field, such as "
            "lambda t, y: f(t, y) + g(t, y), or choose a method for pairs (`thalweg methods` says which)"
        )
    elif not callable(fun):
        raise ValueError(f"fun must be callable as fun(t, y, *args), got {type(fun).__name__}")


def check_jacobian(jac: Any, sparsity: Sparsity | None, method: str, implicit: bool) -> None:
    """Refuse what is no Jacobian; whether it fits the state is seen where it is used."""
    if not (jac is None or callable(jac) or isinstance(jac, Tensor)):
        raise ValueError(f"jac must be callable as jac(t, y, *args), or a tensor, got {type(jac).__name__}")
    if not implicit and (jac is not None or sparsity is not None):
        name = "jac_sparsity" if jac is None else "jac"
        warnings.warn(f"method {method!r} is explicit and makes no use of {name}", stacklevel=3)


def positive(name: str, value: float) -> float:
    """The value as a float, which must be above 0, and finite."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}{_of_a_tensor(value)}")
    return float(value)


def positive_integer(name: str, value: int) -> int:
    """The value as an integer, which must be above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value <= 0:
        raise ValueError(f"{name} must be a positive integer, got {value!r}{_of_a_tensor(value)}")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether it is one real number, Python's or NumPy's; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _of_a_tensor(value: Any) -> str:
    """How to make a number of it, where it is a tensor: no gradient would reach it."""
    return "; give its .item()" if isinstance(value, Tensor) and value.numel() == 1 else ""


def check_shrink(by_row: bool, **asked: bool) -> None:
    """Refuse to shrink a batch where all rows must stay."""
    if not by_row:
        raise ValueError("shrink=True needs batching='per_sample': in joint batching all rows end together")
    for name in (name for name, wanted in asked.items() if wanted):
        raise ValueError(f"shrink=True does not go with {name}, which sees all rows; leave out one of them")


def ends_of(t_span: Any) -> tuple[Time, Time]:
    """Both ends of t_span."""
    try:
        t0, t1 = t_span
    except (TypeError, ValueError):
        raise ValueError(f"t_span must be a pair (t0, t1), got {t_span!r}") from None
    return t0, t1


def as_time(name: str, t: Time, rows: int | None, like: Tensor) -> Tensor:
    """A time, such as an end of t_span, as the loop keeps it: 0-d, or (batch,)."""
    try:
        time = _real(t, wide_dtype(like.device), like.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a real number or tensor, got {t!r}") from None
    if rows is None and time.ndim and time.numel() == 1:
        time = time.reshape(())
    elif rows is not None and time.ndim == 0:
        time = time.expand(rows)
    if time.shape != (() if rows is None else (rows,)):
        expected = "be one number" if rows is None else f"be a number or have shape ({rows},), one for each row of y0"
        hint = "; times of their own for each row need batching='per_sample'" if rows is None else ""
        raise ValueError(f"{name} must {expected}, got shape {tuple(time.shape)}{hint}")
    if not (math.isfinite(t) if isinstance(t, float | int) else bool(torch.isfinite(time).all())):
        raise ValueError(f"{name} must be finite, got {t!r}")
    return time


def output_times(
    t_eval: Any, t_span: Sequence[Any] | Tensor, t0: Tensor, t1: Tensor, rows: int | None, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """t_eval as the loop keeps it: (T,), or (T, batch), in the direction of time; and where NaN stood for no time.

    The loop takes a row's last time again in the place of NaN, whose outputs are then blotted out.
    """
    try:
        times = _real(t_eval, wide_dtype(like.device), like.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"t_eval must be real numbers, got {t_eval!r}") from None
    if rows is not None and times.ndim == 1:
        times = times.unsqueeze(1).expand(-1, rows)
    if times.ndim != t0.ndim + 1 or times.shape[1:] != t0.shape:
        expected = "(T,)" if rows is None else f"(T,) or (T, {rows})"
        raise ValueError(f"t_eval must have shape {expected}, got {tuple(torch.as_tensor(t_eval).shape)}")
    times, padding = (times, None) if rows is None else _filled(times, t0)
    with torch.no_grad():
        direction, low, high = torch.sign(t1 - t0), torch.minimum(t0, t1), torch.maximum(t0, t1)
    times = within_digits(times, low, high, t_eval, *t_span)
    with torch.no_grad():
        inside = (low <= times) & (times <= high)
        if not bool(inside.all()):
            raise ValueError(
                "t_eval must lie within t_span, which runs from "
                f"{_range(t0)} to {_range(t1)}, but it holds {times[~inside][0].item():g}"
            )
        if bool((times.diff(dim=0) * direction < 0).any()):
            order = "ascend" if bool((direction >= 0).all()) else "run in the direction of t_span"
            raise ValueError(f"t_eval must {order}; sort it")
    return times, padding


def blotted(x: Tensor, padding: Tensor | None) -> Tensor:
    """X (T, batch, …) with NaN where there is padding (T, batch)."""
    return x if padding is None else torch.where(padding.view(*padding.shape, *(1,) * (x.ndim - 2)), torch.nan, x)


def _filled(times: Tensor, t0: Tensor) -> tuple[Tensor, Tensor | None]:
    """Times (T, batch) with each row's last one, or t0, where it has NaN; and where that is."""
    padding = torch.isnan(times)
    if not bool(padding.any()):
        return times, None
    if bool((padding[:-1] & ~padding[1:]).any()):
        raise ValueError("t_eval may hold NaN only after all times of a row, to make rows with fewer as long as others")
    last = (~padding).sum(0) - 1
    place = torch.minimum(torch.arange(len(times), device=times.device).unsqueeze(1), last.clamp(min=0))
    return torch.where(last < 0, t0, times.gather(0, place)), padding


def _range(t: Tensor) -> str:
    """A time, or the range of the rows' times."""
    if t.numel() == 0:
        return "nowhere"
    low, high = t.min().item(), t.max().item()
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def as_tolerance(rtol: float | Tensor | AsGiven, atol: float | Tensor, y0: Tensor) -> Tolerance:
    """The tolerance, no tighter than the dtype can hold."""
    least = 10 * torch.finfo(y0.dtype).eps
    if isinstance(rtol, AsGiven):
        rtol, least = rtol.rtol, 0.0
    relative = _allowed("rtol", rtol, y0) if isinstance(rtol, Tensor) else positive("rtol", rtol)
    lowest = relative if isinstance(relative, float) else min(relative.flatten().tolist(), default=1.0)
    if lowest <= 0:
        raise ValueError("rtol must be positive in every entry")
    if lowest < least:
        warnings.warn(
            f"rtol={lowest:g} is below what {y0.dtype} holds; using {least:.1e} (a tighter tolerance needs float64)",
            stacklevel=4,
        )
        relative = max(relative, least) if isinstance(relative, float) else relative.clamp(min=least)
    absolute = _allowed("atol", atol, y0)
    if not isinstance(absolute, Tensor):
        absolute = torch.tensor(absolute, dtype=torch.promote_types(y0.real.dtype, torch.float32), device=y0.device)
    return Tolerance(relative if isinstance(relative, float) else unwrapped(relative), unwrapped(absolute))


def _allowed(name: str, value: float | Tensor, y0: Tensor) -> float | Tensor:
    """One of the tolerances: a number, or a tensor shaped like y0."""
    if not isinstance(value, Tensor):
        if not is_number(value) or not value >= 0:
            raise ValueError(f"{name} must be a number that is not negative, or a tensor of such, got {value!r}")
        return float(value)
    value = value.detach().to(device=y0.device, dtype=y0.real.dtype if y0.is_complex() else y0.dtype)
    if not bool((value >= 0).all()):
        raise ValueError(f"{name} must not be negative")
    try:
        return value.expand(y0.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} must broadcast against y0, of shape {tuple(y0.shape)}, got shape {tuple(value.shape)}"
        ) from None
