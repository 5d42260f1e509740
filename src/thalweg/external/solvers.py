"""Other libraries' solvers, step by step, as one interface on NumPy's float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..core.status import Status
from .methods import External

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


@dataclass(frozen=True)
class Task:
    """What is to be solved.

    Attributes
    ----------
    fun : callable
        fun(t, y) -> slope, both (N,).
    jac : callable or None
        jac(t, y) -> (N, N); None for methods that make no use of it.
    y0 : array (N,)
    rtol, atol : float or array (N,)
    first_step : float or None
        Without sign.
    """

    fun: Callable[[float, Array], Array]
    jac: Callable[[float, Array], Array] | None
    y0: Array
    t0: float
    t1: float
    rtol: float | Array
    atol: float | Array
    first_step: float | None
    max_step: float


class Stopped(Exception):
    """A step that could not be taken: why, and what the library says."""

    def __init__(self, status: Status, note: str) -> None:
        super().__init__(note)
        self.status, self.note = status, note


class Solver(Protocol):
    """A solver, underway."""

    t: float
    y: Array

    def step(self) -> None:
        """One step further, and no further than t1; raises `Stopped` where there is none."""

    def inside(self, t: float) -> Array:
        """The state at a time in the last step."""

    def costs(self) -> tuple[int, int, int]:
        """Evaluations, Jacobians and factorisations so far; 0 where the library does not say."""


def start(method: External, task: Task) -> Solver:
    """A solver at the beginning of its task."""
    if not (method.rtol_each or isinstance(task.rtol, float)):
        raise ValueError(f"method {method.name!r} takes one rtol for all entries: give a number")
    return _Scipy(method, task) if method.library == "scipy" else _Cvode(method, task)


class _Scipy:
    """One of SciPy's."""

    def __init__(self, method: External, task: Task) -> None:
        from scipy import integrate

        self._raised: Exception | None = None
        jacobian = {"jac": self._watched(task.jac)} if method.implicit and task.jac is not None else {}
        self._solver: Any = getattr(integrate, method.solver)(
            self._watched(task.fun),
            task.t0,
            task.y0,
            task.t1,
            first_step=task.first_step,
            max_step=task.max_step,
            rtol=task.rtol,
            atol=task.atol,
            **jacobian,
        )
        self.t, self.y = task.t0, task.y0
        self._between: Any = None

    def step(self) -> None:
        try:
            note = self._solver.step()
        except ValueError as error:  # of its linear algebra, which refuses what is not finite
            if error is self._raised:
                raise
            raise Stopped(Status.NONFINITE, str(error)) from None
        self._between = None
        if self._solver.status == "failed":
            known = note is not None and "spacing between numbers" in note
            raise Stopped(Status.STEP_UNDERFLOW if known else Status.NOT_CONVERGED, note or "the step failed")
        self.t, self.y = float(self._solver.t), self._solver.y

    def inside(self, t: float) -> Array:
        if self._between is None:
            self._between = self._solver.dense_output()
        return self._between(t)

    def costs(self) -> tuple[int, int, int]:
        return self._solver.nfev, self._solver.njev, self._solver.nlu

    def _watched(self, fun: Callable[[float, Array], Array]) -> Callable[[float, Array], Array]:
        """The same function, whose errors are told from SciPy's own."""

        def watched(t: float, y: Array) -> Array:
            try:
                return fun(t, y)
            except Exception as error:
                self._raised = error
                raise

        return watched


class _Cvode:
    """SUNDIALS' CVODE, by way of scikit-sundae."""

    def __init__(self, method: External, task: Task) -> None:
        try:
            from sksundae.cvode import CVODE
        except ImportError:
            raise ValueError(
                f"method {method.name!r} needs scikit-sundae, which is not installed: pip install thalweg[sundials]"
            ) from None
        self._task = task
        jacobian = {} if task.jac is None else {"jacfn": self._fill}
        self._solver: Any = CVODE(
            self._slope,
            method={"cvode_adams": "Adams", "cvode_bdf": "BDF"}[method.solver],
            rtol=task.rtol,
            atol=task.atol,
            first_step=task.first_step or 0.0,
            max_step=task.max_step if task.max_step < math.inf else 0.0,
            max_num_steps=1000,
            **jacobian,
        )
        self._solver.init_step(task.t0, task.y0)
        self.t, self.y = task.t0, task.y0
        self._last: Any = None

    def step(self) -> None:
        before = self.t
        while self.t == before:  # the state where it is comes first, after one from inside the step
            self._last = self._solver.step(self._task.t1, method="onestep", tstop=self._task.t1)
            if not self._last.success:
                failed = {-1: Status.STEP_UNDERFLOW, -3: Status.STEP_UNDERFLOW}
                raise Stopped(failed.get(self._last.status, Status.NOT_CONVERGED), self._last.message)
            self.t = float(self._last.t)
        self.y = np.array(self._last.y)

    def inside(self, t: float) -> Array:
        return np.array(self._solver.step(t, method="normal").y)

    def costs(self) -> tuple[int, int, int]:
        return (0, 0, 0) if self._last is None else (self._last.nfev, self._last.njev, 0)

    def _slope(self, t: float, y: Array, out: Array) -> None:
        out[:] = self._task.fun(t, y)

    def _fill(self, t: float, y: Array, slope: Array, out: Array) -> None:
        assert self._task.jac is not None
        out[:] = self._task.jac(t, y)
