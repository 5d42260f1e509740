"""What the data of a path must be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .pieces import column

OUTSIDE = ("hold", "extrapolate", "raise")


def any_of(flags: Tensor) -> bool:
    """Whether a flag is set; False under `torch.vmap`, where no value can be read."""
    try:
        return bool(flags.any())
    except RuntimeError:
        return False


def real_dtype(xs: Tensor) -> torch.dtype:
    """The dtype of times beside values."""
    return xs.dtype.to_real() if xs.is_complex() else xs.dtype


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def checked_data(ts: Any, xs: Any, **more: Any) -> dict[str, Tensor]:
    """The data as tensors on one device; a parameter stays the same object.

    Raises
    ------
    ValueError
        When shapes do not fit, times do not ascend strictly, or an entry has no value at all.
    """
    values = _tensor("xs", xs)
    if not (values.is_floating_point() or values.is_complex()):
        raise ValueError(f"xs has dtype {values.dtype}, but values must be floating or complex; use xs.float()")
    times = _tensor("ts", ts, values.device)
    if times.is_complex():
        raise ValueError(f"ts must be real, got dtype {times.dtype}")
    _check_shapes(times, values)
    others = {name: _tensor(name, x, values.device) for name, x in more.items()}
    for name, x in others.items():
        if x.shape != values.shape or x.dtype != values.dtype:
            raise ValueError(
                f"{name} must be shaped and typed as xs, {tuple(values.shape)} and {values.dtype}, got "
                f"{tuple(x.shape)} and {x.dtype}"
            )
    in_their_dtype = times.detach().to(real_dtype(values))
    _check_times(in_their_dtype)
    _check_values(in_their_dtype, values.detach(), others)
    return {"ts": times, "xs": values, **others}


def _tensor(name: str, value: Any, device: torch.device | None = None) -> Tensor:
    try:
        there = isinstance(value, Tensor) and device in (None, value.device)
        return value if there else torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a tensor or numbers, got {type(value).__name__}") from None


def _check_shapes(ts: Tensor, xs: Tensor) -> None:
    """(T,) beside (T, …), or (T, batch) beside (T, batch, …)."""
    if ts.ndim not in (1, 2) or len(ts) < 2:
        raise ValueError(f"ts must have shape (T,) or (T, batch) with at least two times, got {tuple(ts.shape)}")
    if xs.shape[: ts.ndim] == ts.shape:
        return
    hint = ""
    if xs.ndim > 1 and (xs.shape[1], xs.shape[0])[: ts.ndim] == ts.shape:
        hint = "; the dimension of time comes first: xs.transpose(0, 1)"
    elif ts.ndim == 2 and ts.T.shape == xs.shape[:2]:
        hint = "; the dimension of time comes first: ts.T"
    raise ValueError(f"xs must begin with the dimensions of ts, {tuple(ts.shape)}, got shape {tuple(xs.shape)}{hint}")


def _check_times(ts: Tensor) -> None:
    """Finite, ascending, and NaN only where a row has ended."""
    if (bad := _first(ts.isinf())) is not None:
        raise ValueError(f"ts must be finite, but ts{bad} = {ts[tuple(bad)].item()}")
    missing = ts.isnan()
    if (bad := _first(missing[:1])) is not None:
        raise ValueError(f"ts must begin with a time, but ts{bad} is NaN")
    if (bad := _first(missing[:-1] & ~missing[1:])) is not None:
        raise ValueError(f"ts may be NaN only behind a row's last time, but ts{bad} is NaN and a time follows")
    if (bad := _first(ts.diff(dim=0) <= 0)) is not None:
        later = [bad[0] + 1, *bad[1:]]
        raise ValueError(
            f"ts must ascend strictly in {ts.dtype}, but ts{later} = {ts[tuple(later)].item():g} follows "
            f"ts{bad} = {ts[tuple(bad)].item():g}; sort the data by time, keep one value for each time, and use "
            "float64 where times lie close together"
        )


def _check_values(ts: Tensor, xs: Tensor, others: dict[str, Tensor]) -> None:
    """At least one value for each entry of x."""
    missing = xs.isnan() | column(ts.isnan(), xs)
    for other in others.values():
        missing = missing | other.detach().isnan()
    if (bad := _first(missing.all(0))) is not None:
        where = f"xs[{', '.join([':', *map(str, bad)])}]"
        raise ValueError(f"xs must have a value for each entry at some time, but {where} is NaN at all of them")


def _first(flags: Tensor) -> list[int] | None:
    """The index of the first flag that is set."""
    if not any_of(flags):
        return None
    return torch.nonzero(flags)[0].tolist()
