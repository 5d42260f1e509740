"""The engine in C++. A pointer is a tensor's `data_ptr()`; the caller keeps the tensor alive and contiguous."""

def isa() -> str:
    """The set of instructions that solves run with: the widest here, or `THALWEG_ISA` of the environment."""

def isas() -> list[str]:
    """The sets of instructions that this machine can run, the widest last."""

def unary(name: str, isa: str, dtype: str, input: int, output: int, n: int) -> None:
    """One elementary function of `n` numbers, `dtype` "float32" or "float64", by the instructions `isa`."""

def pow(isa: str, dtype: str, base: int, exponent: int, output: int, n: int) -> None:
    """The powers of `n` numbers."""
