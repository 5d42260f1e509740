"""Boats on a river: what a field does to many states, as arrays that can be drawn.

z: (N, *D) tensors come in; (…, N, D) arrays go out, with D flattened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ivp import solve_ivp

Array = NDArray[np.float64]
FieldFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Voyage:
    """Paths of N boats and their velocities.

    Attributes
    ----------
    t : (T,)
        Equally spaced, from t0 to t1.
    z, v : (T, N, D)
    """

    t: Array
    z: Array
    v: Array

    def until_last(self) -> Voyage:
        """All but the last time: where Euler's steps begin."""
        return Voyage(self.t[:-1], self.z[:-1], self.v[:-1])


@dataclass(frozen=True)
class Log:
    """How the solver carried one boat.

    Attributes
    ----------
    t, z : (S + 1,), (S + 1, D)
        The start, and the end of each accepted step.
    t_asked, z_asked : (E,), (E, D)
        Every evaluation of the field, those of rejected steps too.
    """

    t: Array
    z: Array
    t_asked: Array
    z_asked: Array

    def along(self, line: Callable[[Array], Array]) -> Log:
        """The same log with states of one dimension, (…, 1)."""
        return Log(self.t, line(self.z)[:, None], self.t_asked, line(self.z_asked)[:, None])


def velocity(field: FieldFunction, t: Tensor | float, z: Tensor) -> Tensor:
    """dz/dt of states (N, *D) at one time; a field that looks at the time alone says the same to all boats."""
    return field(z.new_tensor(float(t)), z).expand_as(z)


@torch.no_grad()
def sail(
    field: FieldFunction, t_span: tuple[Any, Any], z0: Tensor, options: dict[str, Any], *, times: int = 97
) -> Voyage:
    """Carry boats down the river with the solver of `options`.

    Parameters
    ----------
    field : callable
        `field(t, z)`.
    t_span : (t0, t1)
        Numbers or 0-d tensors.
    z0 : Tensor (N, *D)
    options : dict
        Those of `thalweg.solve_ivp`.
    times : int
        The number of times at which to look.

    Raises
    ------
    ValueError
        When t0 and t1 are equal.
    """
    t0, t1 = (float(t) for t in t_span)
    if t0 == t1:
        raise ValueError(f"t_span must have two different times for there to be a flow to draw, got t0 = t1 = {t0:g}")
    t = torch.linspace(t0, t1, times, dtype=torch.float64, device="cpu")
    z = solve_ivp(field, (t0, t1), z0, t_eval=t, **options).ys
    v = torch.stack([velocity(field, time, state) for time, state in zip(t, z, strict=True)])
    return Voyage(t.numpy(), _array(z), _array(v))


@torch.no_grad()
def keep_log(field: FieldFunction, t_span: tuple[Any, Any], z0: Tensor, options: dict[str, Any]) -> Log:
    """Carry one boat (1, *D) alone, and note each step and each question to the field; arguments as for `sail`."""
    asked: list[tuple[float, Tensor]] = []

    def noting(t: Tensor, z: Tensor) -> Tensor:
        asked.append((t.item(), z.clone()))
        return field(t, z)

    t0, t1 = (float(t) for t in t_span)
    sol: Any = solve_ivp(noting, (t0, t1), z0, dense_output=True, **options).sol
    ts: Tensor = sol.ts.flatten()
    stops = torch.cat([ts[:1], ts[1:][ts.diff() != 0]])  # a time repeats where a step was rejected
    times, states = zip(*asked, strict=True)
    return Log(_array(stops), _array(sol(stops))[:, 0], np.array(times), _array(torch.stack(states))[:, 0])


@torch.no_grad()
def euler(
    field: FieldFunction, t_span: tuple[Any, Any], z0: Tensor, steps: int, *, batching: str = "per_sample"
) -> Voyage:
    """The same field read as a residual network of `steps` blocks, which is Euler's method; T = steps + 1."""
    t0, t1 = (float(t) for t in t_span)
    t = torch.linspace(t0, t1, steps + 1, dtype=torch.float64, device="cpu")
    options: dict[str, Any] = {"step_size": abs(t1 - t0) / steps, "batching": batching}
    z = solve_ivp(field, (t0, t1), z0, "euler", t_eval=t, **options).ys
    v = torch.stack([velocity(field, time, state) for time, state in zip(t, z, strict=True)])
    return Voyage(t.numpy(), _array(z), _array(v))


def _array(x: Tensor) -> Array:
    """As float64, with all but the leading dimensions of (T, N, *D) in one."""
    x = x.detach().to("cpu", torch.float64)
    return (x.flatten(2) if x.ndim > 2 else x).numpy()
