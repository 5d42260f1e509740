"""The compiled engine as Python sees it: programs, methods and controllers in its terms, and its call.

y0: (B, D), contiguous, on the CPU, float32 or float64. Times are float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.compiled import native as _native
from ..methods.rosenbrock import Rosenbrock
from ..methods.tableau import Tableau
from ..stepsize.controllers import PID, Fixed
from .program import Program

AVAILABLE = _native is not None
"""Whether the engine was built when the package was installed."""


@functools.cache
def _codes() -> dict[str, int]:
    """The number of each operation."""
    return {name: i for i, name in enumerate(_native.operations())}


def compiled(program: Program) -> Any:
    """The program as the engine holds it."""
    code: list[int] = []
    scalars: list[float] = []
    for instruction in program.instructions:
        code += [_codes()[instruction.operation], instruction.size, len(instruction.operands)]
        for x in instruction.operands:
            code += [int(x.shared), x.number, x.row, x.stride]
        code += [len(instruction.index), *instruction.index, len(instruction.scalars)]
        scalars += instruction.scalars
    output = [program.output.number, program.output.row]
    return _native.Program(list(program.inputs), list(program.shared), code, scalars, output)


@functools.lru_cache(maxsize=64)
def method(data: Tableau | Rosenbrock) -> Any:
    """The method as the engine holds it."""
    common = (data.stages, float(data.error_order), [list(row) for row in data.interpolant])
    if isinstance(data, Rosenbrock):
        return _native.RosenbrockMethod(
            *common,
            data.gamma,
            list(data.alpha),
            list(data.gamma_sums),
            [list(row) for row in data.a],
            [list(row) for row in data.c],
            list(data.m),
            list(data.m_error),
        )
    return _native.ExplicitMethod(
        *common,
        data.fsal,
        [*data.c, *data.dense_c],
        [list(row) for row in (*data.a, *data.dense_a)],
        list(data.b),
        list(data.b_error or ()),
        list(data.b_coarse or ()),
    )


@functools.lru_cache(maxsize=256)
def control(
    controller: PID | Fixed,
    *,
    joint: bool,
    first_step: float | None,
    max_step: float,
    min_step: float,
    max_steps: int,
    parts: tuple[int, ...] = (),
) -> Any:
    """How steps are chosen, as the engine holds it; `parts`: the row behind each part whose error counts alone."""
    pid = controller if isinstance(controller, PID) else PID()
    return _native.Control(
        controller.adaptive,
        joint,
        pid.pcoeff,
        pid.icoeff,
        pid.dcoeff,
        pid.safety,
        pid.factor_min,
        pid.factor_max,
        math.nan if first_step is None else first_step,
        max_step,
        min_step,
        max_steps,
        list(parts),
    )


_COUNT, _TIME = (torch.empty(0, dtype=dtype, device="cpu") for dtype in (torch.int64, torch.float64))
"""What counts and times are made like, which takes a third less than to say so each time."""


class Solved(NamedTuple):
    """One call of the engine: what comes out.

    Attributes
    ----------
    ys : Tensor (T, B, D)
    recording : Any
        What the way back needs, None where it was not asked for.
    succeeded : bool
        Whether all samples reached t1.
    counts : sequence of int, or of Tensor (B,)
        The status, steps tried, steps kept, evaluations, Jacobians and factorisations: of each sample, or of all.
    ends : two of float, or Tensor (2, B)
        The time reached and the next size.
    steps : Any
        Those that were taken, None where nobody looks inside of them.
    """

    ys: Tensor
    recording: Any
    succeeded: bool
    counts: Sequence[Any]
    ends: Sequence[Any] | Tensor
    steps: Any = None


class Steps(NamedTuple):
    """Steps of N samples, with what one looks inside of them by; one that took fewer has some of size 0 at the end.

    Attributes
    ----------
    t, h : Tensor (steps, N)
        When each begins, and its size.
    y : Tensor (steps, N, D)
        Where it begins.
    slopes : Tensor (S, steps, N, D)
        Those that the interpolant weights.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    slopes: Tensor


def dealt_out(steps: Any, stages: int, y0: Tensor, ends: Tensor) -> Steps:
    """Steps of a solve from y0 (N, D), which ended at those times (N,)."""
    count = max(steps.length(), 1)
    t = ends.repeat(count, 1)
    y = y0.repeat(count, 1, 1)
    found = Steps(t, torch.zeros_like(t), y, y.new_zeros(stages, *y.shape))
    steps.deal_out(count, *found)
    return found


@dataclass(frozen=True)
class Solve:
    """One call of the engine: what goes in.

    Attributes
    ----------
    program, method, control
        From the functions above.
    times : Tensor (2,) or (2, B), float64
        t0 and t1.
    t_eval : Tensor (T,), (T, B) or None, float64
        The times of the outputs.
    rtol, atol : Tensor 0-d or (D,), of the dtype of y0
    memory_limit : int
        The bytes of stages that may be kept for the way back.
    """

    program: Any
    method: Any
    control: Any
    times: Tensor
    t_eval: Tensor | None
    rtol: Tensor
    atol: Tensor
    memory_limit: int

    @functools.cached_property
    def _held(self) -> Any:
        """What is the same in every call, as the engine holds it."""
        t_eval = self.t_eval
        outputs = 2 if t_eval is None else t_eval.shape[0]
        return _native.Solve(
            self.rtol.dtype is torch.float64,
            self.program,
            self.method,
            self.control,
            self.times.data_ptr(),
            self.times.ndim == 2,
            0 if t_eval is None else (t_eval if outputs else self.times).data_ptr(),  # that of no times is null
            outputs,
            t_eval is not None and t_eval.ndim == 2,
            self.rtol.data_ptr(),
            self.rtol.ndim == 1,
            self.atol.data_ptr(),
            self.atol.ndim == 1,
            self.memory_limit,
        )

    def run(
        self,
        y0: Tensor,
        own: Sequence[Tensor],
        shared: Sequence[Tensor],
        *,
        each: bool,
        record: bool,
        times_wanted: bool = False,
        dense: bool = False,
    ) -> Solved:
        """Solve.

        Parameters
        ----------
        each : bool
            Whether what became of each sample is wanted, and not of all together.
        record : bool
            Whether the way back will be asked for.
        times_wanted : bool
            Whether that may be asked for gradients to times.
        dense : bool
            Whether states inside of the steps will be asked for, and no way back.
        """
        batch, dimension = y0.shape
        outputs = 2 if self.t_eval is None else self.t_eval.shape[0]
        ys = y0.new_empty(outputs, batch, dimension)
        counts = _COUNT.new_empty(6, batch) if each else None
        ends = _TIME.new_empty(2, batch) if each else None
        given, steps = (batch, y0, own, shared, torch.get_num_threads(), ys, counts, ends), None
        if dense:
            (recording, worst, first, first_ends), steps = self._held.run_with_steps(*given)
        else:
            recording, worst, first, first_ends = self._held.run(*given, record, times_wanted)
        if counts is None or ends is None:
            return Solved(ys, recording, worst == 0, (worst, *first), first_ends, steps)
        return Solved(ys, recording, worst == 0, counts.unbind(), ends, steps)
