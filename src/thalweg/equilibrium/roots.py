"""Roots of f: damped Newton, by the Jacobian or by products with it alone, and Anderson's acceleration.

Every row goes its own way, as if it were alone. z, f, s: (R, N); what each row has one of: (R,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import across
from ..core.norms import rms_of_rows
from ..core.status import Status
from .gmres import gmres
from .system import System

Direction: TypeAlias = Callable[[System, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""direction(system, z, f, going): Newton's change of z, and whether there is one."""

_DECREASE = 1e-4  # of |f|, relative to what a linear field would give
_HALVINGS = 30
_ROUNDING = 8.0  # of a state, in units of the spacing of numbers
_FORCING = 1e-2  # of f, left by the linear solves
_MEMORY = 5  # changes that Anderson's acceleration looks back on


@dataclass(frozen=True)
class Found:
    """What came of a search.

    Attributes
    ----------
    z : Tensor (R, N)
    status : Tensor (R,)
    n_steps : Tensor (R,)
    """

    z: Tensor
    status: Tensor
    n_steps: Tensor


def by_jacobian(system: System, z: Tensor, f: Tensor, going: Tensor) -> tuple[Tensor, Tensor]:
    """-J⁻¹ f, by factors of J."""
    _, linear = system.jacobian(z, going)
    return -linear.solve(f), ~linear.singular


def by_products(system: System, z: Tensor, f: Tensor, going: Tensor) -> tuple[Tensor, Tensor]:
    """-J⁻¹ f nearly, by GMRES on products with J that are differences of f (Knoll & Keyes 2004, section 2).

    All in units of each entry's own size, D = 1 + |z|: D⁻¹ J D x = -D⁻¹ f. Otherwise entries far smaller than others
    would be moved, for a difference, by more than they are, and what is left of their equations would not be seen.
    """
    units, room = 1 + z.abs(), torch.finfo(z.dtype).eps ** 0.5

    def product(v: Tensor, asked: Tensor) -> Tensor:
        size = across(room / rms_of_rows(v).clamp(min=torch.finfo(z.dtype).tiny), 2)
        size = torch.where(torch.isfinite(size), size, 0.0)
        change = (system(z + size * units * v, asked & going) - f) / units
        return torch.where(size > 0, change / torch.where(size > 0, size, 1.0), 0.0)

    step, left = gmres(product, -f / units, rtol=_FORCING, cycles=4)
    return units * step, left < 0.5


def newton(system: System, z: Tensor, most: int, direction: Direction) -> Found:
    """Newton's method, each step halved until |f| falls (Dennis & Schnabel 1983, section 6.3).

    A row is there when a whole step is within the tolerance: its error is then that of the step after, which Newton's
    quadratic convergence makes far smaller.
    """
    f = system(z, torch.ones_like(system.nfev, dtype=torch.bool))
    status, going = _begin(f)
    z, f = torch.where(across(going, 2), z, 0.0), torch.where(across(going, 2), f, 0.0)
    n_steps = torch.zeros_like(status)
    for _ in range(most):
        there = going & (f == 0).all(1)
        status, going = _set(status, there, Status.SUCCESS), going & ~there
        if not bool(going.any()):
            break
        step, known = direction(system, z, f, going)
        lost = going & ~(known & torch.isfinite(step).all(1))
        status, going = _set(status, lost, Status.SINGULAR), going & ~lost
        step = torch.where(across(going, 2), step, 0.0)
        near = going & (system.relative(step, z) <= 1)
        z, f, taken = _searched(system, z, f, step, going, near)
        n_steps, stuck, there = n_steps + going, going & ~taken, near & taken
        if bool(stuck.any()):
            there = there | (stuck & _as_small_as_can_be(system, z, f, stuck))
        status = _set(_set(status, stuck, Status.NOT_CONVERGED), there, Status.SUCCESS)
        going = going & taken & ~there
    return Found(z, _set(status, going, Status.MAX_STEPS), n_steps)


def _searched(
    system: System, z: Tensor, f: Tensor, step: Tensor, going: Tensor, near: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Z and f after as much of the step as makes |f| fall, and for which rows any of it does.

    What is within the tolerance is taken as it is: rounding may keep |f| from falling further.
    """
    length, size = f.norm(dim=1), torch.ones_like(f[:, 0])
    pending, z_new, f_new = going, z, f
    for _ in range(_HALVINGS):
        trial = torch.where(across(pending, 2), z + across(size, 2) * step, z_new)
        f_trial = system(trial, pending)
        fell = f_trial.norm(dim=1) <= (1 - _DECREASE * size) * length  # false where it is NaN
        take = pending & (fell | (near & torch.isfinite(f_trial).all(1)))
        z_new, f_new = torch.where(across(take, 2), trial, z_new), torch.where(across(take, 2), f_trial, f_new)
        pending = pending & ~take
        if not bool(pending.any()):
            break
        size = torch.where(pending, size / 2, size)
    return z_new, f_new, going & ~pending


def _as_small_as_can_be(system: System, z: Tensor, f: Tensor, asked: Tensor) -> Tensor:
    """Whether f is no more than what it changes by where z changes by its rounding."""
    noise = system(z * (1 + _ROUNDING * torch.finfo(z.dtype).eps), asked) - f
    return f.norm(dim=1) <= noise.norm(dim=1)


def anderson(system: System, z: Tensor, most: int) -> Found:
    """The iteration z <- z + f(z), accelerated: each step goes by what the last ones did to f (Anderson 1965).

    The second of the two types of Fang & Saad 2009: with the changes of z and f in the columns of X and F, the next is
    z + f - (X + F) c, where c makes |f - F c| least. A row is there when f, as a change of z, is within the tolerance.
    """
    f = system(z, torch.ones_like(system.nfev, dtype=torch.bool))
    status, going = _begin(f)
    z, f = torch.where(across(going, 2), z, 0.0), torch.where(across(going, 2), f, 0.0)
    n_steps = torch.zeros_like(status)
    changes: list[tuple[Tensor, Tensor]] = []
    for _ in range(most):
        there = going & (system.relative(f, z) <= 1)
        status, going = _set(status, there, Status.SUCCESS), going & ~there
        if not bool(going.any()):
            break
        z_new = torch.where(across(going, 2), z + _mixed(f, changes), z)
        f_new = system(z_new, going)
        n_steps = n_steps + going
        lost = going & ~torch.isfinite(f_new).all(1)
        status, going = _set(status, lost, Status.NONFINITE), going & ~lost
        z_new = torch.where(across(going, 2), z_new, z)
        f_new = torch.where(across(going, 2), f_new, f)
        changes = [*changes[1 - _MEMORY :], (z_new - z, f_new - f)]
        z, f = z_new, f_new
    return Found(z, _set(status, going, Status.MAX_STEPS), n_steps)


def _mixed(f: Tensor, changes: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The change of z that the last ones make of f."""
    if not changes:
        return f
    moves, falls = (torch.stack(part, -1) for part in zip(*changes, strict=True))  # (R, N, M)
    length = falls.norm(dim=1, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    least = torch.finfo(f.dtype).eps ** 0.5  # of what the columns have in common, that is not taken for noise
    weights = torch.linalg.pinv(falls / length, rtol=least) @ f.unsqueeze(-1)
    return f - ((moves + falls) / length @ weights).squeeze(-1)


def _begin(f: Tensor) -> tuple[Tensor, Tensor]:
    """The status of each row, and which can begin."""
    going = torch.isfinite(f).all(1)
    status = torch.full_like(going, Status.RUNNING.value, dtype=torch.int64)
    return _set(status, ~going, Status.NONFINITE), going


def _set(status: Tensor, rows: Tensor, value: Status) -> Tensor:
    """The status, that of some rows another."""
    return torch.where(rows, value.value, status)
