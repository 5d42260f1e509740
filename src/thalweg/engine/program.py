"""A field as a program: a short list of instructions on vectors of one sample, with what all samples share beside.

A value is a vector of a fixed number of rows, for each sample: first the inputs (the time, the state, the arguments
that each sample has of its own), then what each instruction makes, in order. Shapes are flattened in row-major order.
What is the same for all samples (parameters, constants, and all that is computed from these alone) is no value: it is
a shared tensor, made by PyTorch before the solve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["unary", "binary", "where", "linear", "gather", "reduce"]

TIME, STATE = 0, 1
"""The first two values of each program."""


@dataclass(frozen=True)
class Operation:
    """What an instruction may do.

    Attributes
    ----------
    kind : str
        Which operands it takes: `unary` x; `binary` x, y; `where` mask, x, y; `linear` x, weight, and perhaps bias;
        `gather` any number; `reduce` x.
    saves : tuple of str
        What its derivative needs of the forward pass: "inputs", "output", both or nothing.
    scalars : int
        How many numbers it takes beside its operands.
    """

    kind: Kind
    saves: tuple[str, ...] = ()
    scalars: int = 0


OPERATIONS: dict[str, Operation] = {
    "linear": Operation("linear", ("inputs",)),
    "gather": Operation("gather"),
    "sum": Operation("reduce"),
    "amax": Operation("reduce", ("inputs", "output")),
    "where": Operation("where", ("inputs",)),
    "add": Operation("binary"),
    "sub": Operation("binary"),
    "mul": Operation("binary", ("inputs",)),
    "div": Operation("binary", ("inputs",)),
    "pow": Operation("binary", ("inputs", "output")),
    "fmod": Operation("binary", ("inputs",)),
    "remainder": Operation("binary", ("inputs", "output")),
    "atan2": Operation("binary", ("inputs",)),
    "copysign": Operation("binary", ("inputs",)),
    "minimum": Operation("binary", ("inputs",)),
    "maximum": Operation("binary", ("inputs",)),
    "gt": Operation("binary"),
    "ge": Operation("binary"),
    "lt": Operation("binary"),
    "le": Operation("binary"),
    "eq": Operation("binary"),
    "ne": Operation("binary"),
    "neg": Operation("unary"),
    "abs": Operation("unary", ("inputs",)),
    "square": Operation("unary", ("inputs",)),
    "reciprocal": Operation("unary", ("output",)),
    "sqrt": Operation("unary", ("output",)),
    "rsqrt": Operation("unary", ("output",)),
    "exp": Operation("unary", ("output",)),
    "expm1": Operation("unary", ("output",)),
    "exp2": Operation("unary", ("output",)),
    "log": Operation("unary", ("inputs",)),
    "log1p": Operation("unary", ("inputs",)),
    "log2": Operation("unary", ("inputs",)),
    "sin": Operation("unary", ("inputs",)),
    "cos": Operation("unary", ("inputs",)),
    "tanh": Operation("unary", ("output",)),
    "sigmoid": Operation("unary", ("output",)),
    "relu": Operation("unary", ("output",)),
    "leaky_relu": Operation("unary", ("inputs",), scalars=1),  # slope below 0
    "elu": Operation("unary", ("inputs",), scalars=3),  # alpha, scale, input_scale
    "gelu": Operation("unary", ("inputs",)),
    "gelu_tanh": Operation("unary", ("inputs",)),
    "silu": Operation("unary", ("inputs",)),
    "softplus": Operation("unary", ("inputs",), scalars=2),  # beta, threshold
    "clamp": Operation("unary", ("inputs",), scalars=2),  # low, high; infinite where there is no bound
    "power": Operation("unary", ("inputs",), scalars=1),  # exponent
    "erf": Operation("unary", ("inputs",)),
    "erfc": Operation("unary", ("inputs",)),
    "erfinv": Operation("unary", ("output",)),
    "lgamma": Operation("unary", ("inputs",)),
    "digamma": Operation("unary", ("inputs",)),
    "sign": Operation("unary"),
    "floor": Operation("unary"),
    "round": Operation("unary"),  # ties to even
}
"""All operations by name. Comparisons give 1 where they hold and 0 elsewhere. They, signs and whole numbers have no
derivative."""


@dataclass(frozen=True)
class Operand:
    """Rows that an instruction reads.

    Attributes
    ----------
    number : int
        Which value, or which shared tensor.
    shared : bool
        Whether it is a shared tensor: a weight (R, K), or as many numbers as there are rows, or one.
    row : int
        The first row of the value, or the first number of the shared tensor.
    stride : int
        1: a row for each row of the result; 0: one for all of them.
    """

    number: int
    shared: bool = False
    row: int = 0
    stride: int = 1


@dataclass(frozen=True)
class Instruction:
    """One step of a program, which makes one value.

    Attributes
    ----------
    operation : str
        A name in `OPERATIONS`.
    size : int
        The rows of the value that it makes.
    operands : tuple of Operand
        As the kind of the operation asks; not all of them are shared. Of `linear`, x is a value, weight and bias are
        shared.
    index : tuple of int
        `linear`: (repeats, R, K): result[i R + r] = sum_k weight[r, k] x[i K + k] + bias[r].
        `gather`: for each row of the result, the number of the operand and the row in it, counted from the operand's
        own first row (2 * size numbers).
        `reduce`: (length,): result[i] is made of x[i length], …, x[(i + 1) length - 1].
    scalars : tuple of float
        The numbers of the operation.
    """

    operation: str
    size: int
    operands: tuple[Operand, ...]
    index: tuple[int, ...] = ()
    scalars: tuple[float, ...] = ()


@dataclass(frozen=True)
class Program:
    """A field: dy/dt of one sample from the time, its state and its own arguments.

    Attributes
    ----------
    inputs : tuple of int
        The rows of the time (1), the state, and each argument that every sample has of its own.
    shared : tuple of int
        The number of entries of each shared tensor.
    instructions : tuple of Instruction
    output : Operand
        The rows of dy/dt, as many as the state has; never shared.
    """

    inputs: tuple[int, ...]
    shared: tuple[int, ...]
    instructions: tuple[Instruction, ...]
    output: Operand

    @property
    def sizes(self) -> tuple[int, ...]:
        """The rows of each value."""
        return (*self.inputs, *(instruction.size for instruction in self.instructions))

    @property
    def multiplications(self) -> int:
        """The multiplications of all `linear` instructions, for one sample: most of what a network costs."""
        return sum(i.index[0] * i.index[1] * i.index[2] for i in self.instructions if i.operation == "linear")
