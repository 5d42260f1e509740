"""Stiff batches: Robertson's reaction a thousand times, each with rates of its own, beside diffrax under vmap.

Run it where both are installed (`pip install diffrax`): `OMP_NUM_THREADS=1 python benchmarks/stiff.py`. The
solvers take turns; times are in milliseconds, diffrax's without its compilation. Errors are the largest at the end, of
any entry of any sample, as multiples of the tolerance, from a solution at a tolerance a million times as tight.

y: (batch, 3), float64; k: (batch, 3).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from testset import rober
from thalweg import solve_ivp
from thalweg.engine import native

RTOL, ATOL, T1 = 1e-4, 1e-8, 1e5
BACKENDS = ("native", "eager") if native.AVAILABLE else ("eager",)
Solver = Callable[[], np.ndarray]


def rates(batch: int) -> Tensor:
    """Those of Robertson 1966, times factors spread about 1."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.exp(0.2 * torch.randn(batch, 3, dtype=torch.float64, generator=generator))
    return torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64) * spread


def field(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
    """dy/dt."""
    return rober(torch, t, y, k.unbind(-1))


@torch.no_grad()
def solve(k: Tensor, method: str, backend: str, tighter: float = 1.0) -> np.ndarray:
    """The end, by thalweg."""
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(len(k), 1)
    options = {"rtol": RTOL / tighter, "atol": ATOL / tighter, "batching": "per_sample", "backend": backend}
    return solve_ivp(field, (0.0, T1), y0, method, args=(k,), **options).ys[-1].numpy()


def ours(k: Tensor) -> Iterator[tuple[str, Solver]]:
    """By each Rosenbrock method and each backend."""
    for method, backend in product(("rodas5p", "rosenbrock23"), BACKENDS):
        yield f"thalweg {method}, {backend}", partial(solve, k, method, backend)


def theirs(k: Tensor) -> Iterator[tuple[str, Solver]]:
    """By diffrax's implicit methods, compiled."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def make(solver: type) -> Solver:
        def one(k):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(partial(rober, jnp)),
                solver(),
                0.0,
                T1,
                None,
                jnp.array([1.0, 0.0, 0.0]),
                args=k,
                stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
                max_steps=100_000,
            ).ys[-1]

        batched, given = jax.jit(jax.vmap(one)), jnp.asarray(k.numpy())
        return lambda: np.asarray(jax.block_until_ready(batched(given)))

    for name in ("Kvaerno5", "Kvaerno3"):
        yield f"diffrax {name}", make(getattr(diffrax, name))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    k = rates(given.batch)
    solvers = dict(ours(k))
    try:
        solvers.update(theirs(k))
    except ImportError:
        print("diffrax is not installed; thalweg alone:")
    exact = solve(k, "rodas5p", BACKENDS[0], 1e6)
    errors = {name: (abs(run() - exact) / (ATOL + RTOL * abs(exact))).max() for name, run in solvers.items()}
    times: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(given.repeats):
        for name, run in solvers.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    print("| solver | ms | best | error |\n| --- | --: | --: | --: |")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.0f} | {min(found):.0f} | {errors[name]:.2f} |")


if __name__ == "__main__":
    main()
