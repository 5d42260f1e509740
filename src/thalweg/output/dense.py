"""Dense output: the solution as a function of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, wide_dtype, within_digits
from ..core.step import Step, Stepper


class DenseRecorder:
    """Keeps what the interpolant of each step needs."""

    def __init__(self) -> None:
        self._t: list[Number] = []
        self._h: list[Number] = []
        self._y: list[Tensor] = []
        self._stages: list[Tensor] = []

    def record(self, step: Step, t: Number, h: Number, y: Tensor, accept: Flag) -> None:
        """Keep a step that some unit accepts."""
        if accept is False:
            return
        self._t.append(t)
        self._h.append(h)
        self._y.append(y)
        self._stages.append(torch.stack(list(step.stages)))

    def extend(self, later: DenseRecorder) -> None:
        """Go on with the steps of another, which begin where these end."""
        self._t += later._t
        self._h += later._h
        self._y += later._y
        self._stages += later._stages

    def finish(
        self, stepper: Stepper, y0: Tensor, t0: Number, t_end: Number, unpack: Callable[[Tensor], Any]
    ) -> DenseOutput:
        """The function of time."""
        wide = wide_dtype(y0.device)
        if not self._t:  # t0 == t1: one step of size zero
            self._t, self._h, self._y = [t0], [t0 * 0.0], [y0]
            self._stages = [torch.zeros((stepper.stages, *y0.shape), dtype=y0.dtype, device=y0.device)]

        def stack(numbers: list[Number]) -> Tensor:
            return torch.stack([torch.as_tensor(x, dtype=wide, device=y0.device) for x in numbers])

        steps = DenseSteps(stack(self._t), stack(self._h), torch.stack(self._y), torch.stack(self._stages, 1))
        return steps.finish(stepper, y0, t0, t_end, unpack)


@dataclass(frozen=True)
class DenseSteps:
    """What the interpolant of each step needs, side by side: t and h (steps,) or (steps, B), stages (S, steps, …)."""

    t: Tensor
    h: Tensor
    y: Tensor
    stages: Tensor

    def finish(
        self, stepper: Stepper, y0: Tensor, t0: Number, t_end: Number, unpack: Callable[[Tensor], Any]
    ) -> DenseOutput:
        """The function of time."""
        end = torch.as_tensor(t_end, dtype=self.t.dtype, device=self.t.device)
        return DenseOutput(stepper, self.t, self.h, self.y, self.stages, end, unpack)


class DenseOutput:
    """The solution between t0 and t1, as a function of time.

    Call it with a number for one state, with times of shape (m,) for states (m, *y0.shape), or, per sample, with
    times of shape (m, batch) for each row's own.

    Attributes
    ----------
    ts : Tensor
        The times between which the solver stepped, t0 first and t1 last: (steps + 1,) in joint,
        (steps + 1, batch) per sample, where a time that repeats marks a step that the row did not take.

    Examples
    --------
    >>> import torch, thalweg
    >>> y0 = torch.ones(1, dtype=torch.float64)
    >>> sol = thalweg.solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, dense_output=True, rtol=1e-8, atol=1e-10)
    >>> bool(abs(sol(0.5).item() - 0.6065306597126334) < 1e-7)
    True
    """

    def __init__(
        self,
        stepper: Stepper,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        stages: Tensor,
        t_end: Tensor,
        unpack: Callable[[Tensor], Any],
    ) -> None:
        self._stepper = stepper
        self._t, self._h, self._y, self._stages = t, h, y, stages
        self._unpack = unpack
        self.ts = torch.cat([t, t_end.unsqueeze(0)])
        self._direction = torch.sign(t_end - t[0])
        starts = t * self._direction
        self._starts = starts.movedim(0, -1).contiguous()
        # of the last step that each unit took; after it come steps of size 0
        self._latest = torch.where(starts < t_end * self._direction, starts, starts[0]).amax(0)

    def __call__(self, t: float | Tensor) -> Any:
        """The state at the time or times t.

        Raises
        ------
        ValueError
            When a time lies outside the solution's.
        """
        times = torch.as_tensor(t, dtype=self._t.dtype, device=self._t.device)
        scalar = times.ndim == 0
        times = times.reshape(1) if scalar else times
        by_row = self._t.ndim == 2
        if by_row and times.ndim == 1:
            times = times.unsqueeze(1).expand(-1, self._t.shape[1])
        if times.ndim != self._t.ndim or times.shape[1:] != self._t.shape[1:]:
            expected = "(), (m,) or (m, batch)" if by_row else "() or (m,)"
            raise ValueError(f"t must have shape {expected}, got {tuple(torch.as_tensor(t).shape)}")
        ends = self.ts[0], self.ts[-1]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        times = within_digits(times, low, high, t)
        outside = (times < low) | (times > high)
        if bool(outside.any()):
            *_, row = outside.nonzero()[0].tolist()
            where, own = (f" in row {row}", (row,)) if by_row else ("", ())
            first, last = (end[own].item() for end in ends)
            raise ValueError(
                f"t must lie between the ends of the solution, {first:g} and {last:g}{where}, got "
                f"{times[outside][0].item():g}"
            )
        ys = self.packed(times)
        return self._unpack(ys[0] if scalar else ys)

    def packed(self, times: Tensor) -> Tensor:
        """The states at `times`, (m,) or (m, B), as the solve has them: not unpacked; continued beyond its ends."""
        wanted = torch.clamp(times * self._direction, self._starts[..., 0], self._latest).movedim(0, -1).contiguous()
        index = (torch.searchsorted(self._starts, wanted, right=True) - 1).movedim(-1, 0)
        place = (index,) if index.ndim == 1 else (index, torch.arange(index.shape[1], device=index.device))
        h, start, y = self._h[place], self._t[place], self._y[place]
        theta = torch.where(h == 0, 0.0, (times - start) / torch.where(h == 0, 1.0, h))
        lead = index.ndim
        stages = self._stages[(slice(None), *place)].flatten(1, lead).unbind(0)
        flat = self._stepper.interpolate_rows(stages, y.flatten(0, lead - 1), h.flatten(), theta.flatten())
        return flat.view(y.shape)
