"""What is compiled: the engine, and the arithmetic of the loop in Python.

Tensors are contiguous; where a number stands for one it is its `data_ptr()`, and the caller keeps it alive.
"""

from collections.abc import Mapping, Sequence
from types import CellType, CodeType, FunctionType
from typing import Any
from weakref import ReferenceType

from torch import Tensor, dtype

def isa() -> str:
    """The set of instructions that solves run with: the widest here, or `THALWEG_ISA` of the environment."""

def isas() -> list[str]:
    """The sets of instructions that this machine can run, the widest last."""

def unary(name: str, isa: str, dtype: str, input: int, output: int, n: int) -> None:
    """One elementary function of `n` numbers, `dtype` "float32" or "float64", by the instructions `isa`."""

def binary(name: str, isa: str, dtype: str, first: int, second: int, output: int, n: int) -> None:
    """The same for a function of two, as powers are."""

class Program:
    """A program, checked and laid out."""

    def __init__(
        self, inputs: list[int], shared: list[int], code: list[int], scalars: list[float], output: list[int]
    ) -> None: ...
    @property
    def saved(self) -> int:
        """The rows that an evaluation leaves for its derivative."""
    @property
    def scratch(self) -> int:
        """The rows that an evaluation works with."""

class ExplicitMethod:
    """An explicit Runge–Kutta method."""

    def __init__(
        self,
        stages: int,
        error_order: float,
        interpolant: list[list[float]],
        fsal: bool,
        c: list[float],
        a: list[list[float]],
        b: list[float],
        b_error: list[float],
        b_coarse: list[float],
    ) -> None: ...

class RosenbrockMethod:
    """A Rosenbrock method."""

    def __init__(
        self,
        stages: int,
        error_order: float,
        interpolant: list[list[float]],
        gamma: float,
        alpha: list[float],
        gamma_sums: list[float],
        a: list[list[float]],
        c: list[list[float]],
        m: list[float],
        m_error: list[float],
    ) -> None: ...

class Control:
    """How steps are chosen."""

    def __init__(
        self,
        adaptive: bool,
        joint: bool,
        p: float,
        i: float,
        d: float,
        safety: float,
        least: float,
        most: float,
        first_step: float,
        max_step: float,
        min_step: float,
        max_steps: int,
    ) -> None: ...

class Recording:
    """What the way back of a solve needs."""

    def bytes(self) -> int:
        """The memory that it holds."""

class Solve:
    """What is the same in every call of a solve.

    Pointers are addresses; `..._own` says whether each sample has times of its own, and each entry a tolerance.
    """

    def __init__(
        self,
        wide: bool,
        program: Program,
        method: ExplicitMethod | RosenbrockMethod,
        control: Control,
        times: int,
        times_own: bool,
        t_eval: int,
        outputs: int,
        t_eval_own: bool,
        rtol: int,
        rtol_own: bool,
        atol: int,
        atol_own: bool,
        memory_limit: int,
    ) -> None: ...
    def run(
        self,
        batch: int,
        y0: Tensor,
        own: Sequence[Tensor],
        shared: Sequence[Tensor],
        threads: int,
        ys: Tensor,
        counts: Tensor | None,
        ends: Tensor | None,
        record: bool,
        times_wanted: bool,
    ) -> tuple[Recording | None, int, list[int], list[float]]:
        """Solve; `counts` and `ends` may be None where nobody asks for those of all samples.

        What the way back needs, the worst status, and of the first sample the counts after the status and the two ends.
        """

def as_it_was(
    mappings: list[tuple[Mapping[Any, Any], int, tuple[Any, ...], tuple[Any, ...]]],
    attributes: list[tuple[Any, str, Any]],
    sequences: list[tuple[list[Any] | set[Any], list[Any]]],
    cells: list[tuple[CellType, Any]],
    absent: list[tuple[dict[str, Any], str]],
    functions: list[tuple[FunctionType, CodeType, tuple[Any, ...] | None, dict[str, Any] | None]],
    classes: list[tuple[ReferenceType[Any], type]],
    /,
) -> bool:
    """Whether all hold the very objects that they held, and attributes are equal to what they were.

    Of each mapping itself, its size or -1, keys, and what stood there; of each attribute its owner, its name and that;
    of lists, sets and cells what they held; of dicts which keys are not there; of functions their code and defaults;
    of objects, weakly held, their class. Where all keys of a mapping are given, their order counts.
    """

def found_by(ways: list[tuple[Any, ...]], key: tuple[Any, ...], /) -> tuple[Any, ...] | None:
    """The first of the ways that begins with a key like this: equal, of the same types, and so are tuples in it."""

def in_place(tensors: list[Tensor], dtype: dtype, /) -> bool:
    """Whether all are of that dtype and contiguous, and lie somewhere as they are read."""

class StagesFloat:
    """The stages of a solve's steps, of float32 (S, rows x entries), and the rows of weights that sum them."""

    def __init__(self, stages: int, rows: int, entries: int, weights: int, stride: int, /) -> None: ...
    def resize(self, size: float, /) -> None:
        """Steps of one size for all."""
    def resize_rows(self, sizes: int, /) -> None:
        """Steps of a size for each row, float64."""
    def put(self, stage: int, k: int, /) -> None:
        """The slope k is that stage from here on."""
    def sum(self, row: int, count: int, base: int, out: int, /) -> None:
        """Out = [base +] size sum_j w_j k_j, by the first `count` weights of a row; `base` may be 0."""

class StagesDouble:
    """The stages of a solve's steps, of float64 (S, rows x entries), and the rows of weights that sum them."""

    def __init__(self, stages: int, rows: int, entries: int, weights: int, stride: int, /) -> None: ...
    def resize(self, size: float, /) -> None:
        """Steps of one size for all."""
    def resize_rows(self, sizes: int, /) -> None:
        """Steps of a size for each row, float64."""
    def put(self, stage: int, k: int, /) -> None:
        """The slope k is that stage from here on."""
    def sum(self, row: int, count: int, base: int, out: int, /) -> None:
        """Out = [base +] size sum_j w_j k_j, by the first `count` weights of a row; `base` may be 0."""

class Settler:
    """How one controller settles the steps of rows."""

    def __init__(
        self, safety: float, least: float, most: float, power: float, spacing: float, slack: float, /
    ) -> None: ...
    def __call__(
        self, rows: int, evaluations: int, given: list[int], numbers: int, flags: int, n_steps: int, nfev: int, /
    ) -> tuple[int, bool]:
        """How many rows run on, and whether any is stuck; what is given, and what comes, is told in isa.hpp."""

def measure_float(x: int, y: int, z: int, atol: int, rtol: float, rows: int, entries: int, out: int, /) -> None:
    """Of each row, the root mean square of x / (atol + rtol max(|y|, |z|)), float64; x is overwritten."""

def stage_times_float(t: int, h: int, c: int, count: int, rows: int, out: int, /) -> None:
    """The times t + c h of `count` stages, (count, rows); t, h and c are float64."""

def measure_double(x: int, y: int, z: int, atol: int, rtol: float, rows: int, entries: int, out: int, /) -> None:
    """Of each row, the root mean square of x / (atol + rtol max(|y|, |z|)), float64; x is overwritten."""

def stage_times_double(t: int, h: int, c: int, count: int, rows: int, out: int, /) -> None:
    """The times t + c h of `count` stages, (count, rows); t, h and c are float64."""

def select_rows(marks: int, a: int, b: int, rows: int, bytes: int, out: int, /) -> None:
    """The rows of a where they are marked, and those of b elsewhere; of each row so many bytes."""

def count_rows(marks: int, rows: int, counts: int, /) -> None:
    """Count one more for each row that is marked; the counts are int64."""

def operations() -> list[str]:
    """The names of all operations, in the order of their codes."""

def pull_back(
    recording: Recording,
    cotangent: Tensor,
    y0: Tensor | None,
    t0: Tensor | None,
    t1: Tensor | None,
    t_eval: Tensor | None,
    own: Sequence[Tensor | None],
    shared: Sequence[Tensor | None],
) -> int:
    """Writes gradients into the tensors; the evaluations that it took.

    cotangent: (T, B, D); t0, t1: (B,) and t_eval: (T, B), float64.
    """

def poison(on: bool) -> None:
    """For tests: whether the engine's memory is full of NaN when it gets it."""
