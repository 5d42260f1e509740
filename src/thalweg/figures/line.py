"""Fields on the line: where boats are put in, and the water over the t–z plane.

z0: (N, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .voyage import FieldFunction, velocity
from .water import Water, exact_water

Array = NDArray[np.float64]

TIGHT: dict[str, Any] = {"method": "tsit5", "rtol": 1e-5, "atol": 1e-8, "batching": "per_sample"}
"""A path that the eye cannot tell from the exact one, in single precision too."""


def boats_at(fun: Any, places: Sequence[float] | Array | Tensor | float) -> Tensor:
    """Boats (N, 1) on the line, with the dtype and device of a module's parameters, else in float64.

    Raises
    ------
    ValueError
        When there are none.
    """
    parameters = fun.parameters() if isinstance(fun, torch.nn.Module) else iter(())
    like = next(parameters, torch.zeros((), dtype=torch.float64, device="cpu"))
    try:
        z0 = torch.as_tensor(places, dtype=torch.float64, device="cpu").reshape(-1, 1).to(like)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"where boats are put in must be told by numbers, got {places!r}: {error}") from error
    if len(z0) == 0:
        raise ValueError("z0_values must hold at least one number, where a boat is put in; got none")
    return z0


def boat_at(fun: Any, place: float) -> Tensor:
    """One boat (1, 1), as `boats_at` makes them."""
    boats = boats_at(fun, place)
    if len(boats) != 1:
        raise ValueError(f"z0 must be a number, where the boat is put in; got {len(boats)} of them")
    return boats


def line_water(fun: FieldFunction, like: Tensor, t: Array, z_range: tuple[float, float]) -> Water:
    """The water of a field at equally spaced times t; states are made like the tensor `like`."""

    @torch.no_grad()
    def slope(time: float, z: Array) -> Array:
        return velocity(fun, time, torch.from_numpy(z)[:, None].to(like)).to("cpu", torch.float64).numpy()[:, 0]

    return exact_water(slope, t, z_range)


def check_count(name: str, count: Any) -> None:
    """Refuse what is no number of steps."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} must be an integer of 1 or more, got {count!r}")
