"""The steady state that the water reaches: followed until Newton's method can do the rest.

z: (R, N); what each row has one of: (R,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.arithmetic import across
from ..core.status import Status
from ..ivp import solve_ivp
from .roots import Found
from .system import System

_GROWTH = 4.0  # of each stretch of the way over the last
_STRETCHES = 40
_CONTRACTION = 0.125  # of the steps of Newton's method, from where it is trusted
_TRIALS = 8  # of these steps


def follow(system: System, z: Tensor, most: int) -> Found:
    """Follow the flow of f from z to where it comes to rest.

    The flow is solved over longer and longer stretches of time. Before each, Newton's method is tried from where the
    water is: its steps must shrink eightfold from the first on, so that the field is nearly linear between there and
    the root, and the root must attract. Where nothing repels, but something neither attracts, as along what is
    conserved, the water is there when two stretches in a row have not moved it.
    """
    going = torch.isfinite(system(z, torch.ones_like(system.nfev, dtype=torch.bool))).all(1)
    status = torch.where(going, Status.RUNNING.value, Status.NONFINITE.value)
    z = torch.where(across(going, 2), z, 0.0)
    n_steps, quiet, span = torch.zeros_like(status), torch.zeros_like(status), 1.0
    for _ in range(_STRETCHES):
        z, there = _arrival(system, z, going, quiet >= 2)
        status, going = torch.where(there, Status.SUCCESS.value, status), going & ~there
        left = most - int(n_steps.max())
        if not bool(going.any()) or left <= 0:
            break
        found = _stretch(system, z, torch.where(going, span, 0.0), left)
        well = going & (found.status == Status.SUCCESS.value)
        moved = system.relative(found.z - z, z) > 1
        quiet = torch.where(moved, 0, quiet + 1)
        z = torch.where(across(well, 2), found.z, z)
        n_steps = n_steps + torch.where(going, found.n_steps, 0)
        status, going = torch.where(going & ~well, found.status, status), well
        span *= _GROWTH
    late = torch.where(n_steps >= most, Status.MAX_STEPS.value, Status.NOT_CONVERGED.value)
    return Found(z, torch.where(going, late, status), n_steps)


def _arrival(system: System, z: Tensor, going: Tensor, resting: Tensor) -> tuple[Tensor, Tensor]:
    """Where Newton's method goes from z, of the rows that it shows to be nearly there; and which these are."""
    start, hopeful = z, going
    there = torch.zeros_like(going)
    before = torch.full_like(z[:, 0], torch.inf)
    for trial in range(_TRIALS):
        f, linear = system.jacobian(z, hopeful)
        if trial == 0:
            still = going & (f == 0).all(1)
            if bool((going & resting).any()):
                still = still | (going & resting & (linear.rightmost() <= 1))
            there, hopeful = still, hopeful & ~still
        step = -linear.solve(f)
        size = system.relative(step, z)
        if trial == 0:  # by chance a step may end at a root far away: half of it must leave half of f
            bend = linear.solve(system(z + step / 2, hopeful) - f / 2)
            hopeful = hopeful & ((system.relative(bend, z) <= _CONTRACTION * size) | (size <= 1))
        hopeful = hopeful & ~linear.singular & ((size <= _CONTRACTION * before) | (size <= 1))  # false where it is NaN
        if not bool(hopeful.any()):
            break
        z = torch.where(across(hopeful, 2), z + step, z)
        arrived = hopeful & (size <= 1)
        if bool(arrived.any()):
            there, hopeful = there | (arrived & (linear.rightmost() < -1)), hopeful & ~arrived
        before = size
    return torch.where(across(there, 2), z, start), there


def _stretch(system: System, z: Tensor, span: Tensor, most: int) -> Found:
    """The flow of each row over its span."""
    sol = solve_ivp(
        lambda _, y: system.field(system.time, y),
        (0.0, span if system.by_row else span.item()),
        system.packed(z),
        "auto",
        atol=system.tolerance.atol,
        max_steps=most,
        batching="per_sample" if system.by_row else "joint",
        on_failure="return",
    )
    status, n_steps, nfev, njev = (
        torch.as_tensor(x, device=z.device).reshape(-1)
        for x in (sol.status, sol.stats.n_steps, sol.stats.nfev, sol.stats.njev)
    )
    system.nfev, system.njev = system.nfev + nfev, system.njev + njev
    return Found(system.rows(sol.ys[-1]), status, n_steps)
