"""From tensors whose entries are known by number to the instructions that make them.

A tensor that depends on the sample is traced as its codes: an int64 for each entry, which says what lies there and of
which sample. Whatever moves entries moves the codes in the same way, and what mixes samples is seen.

codes: any shape. row r of value v of sample s: (start of v + r) * (samples + 1) + s, where s = samples for a row that
is the same in all samples; entry e of what is shared: -1 - (start of it + e).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from . import reference
from .program import STATE, Instruction, Operand, Program
from .prologue import Prologue, Slot

if TYPE_CHECKING:
    from numpy.typing import NDArray  # a tenth of a second

Codes: TypeAlias = "NDArray[np.int64]"

MIXED = -(1 << 62)
"""The code of an entry that several samples have made; an error where it reaches dy/dt. Sums over the batch that are
only differentiated, as of energies, do not."""

_ROWS = 1 << 20
"""The most rows of a program."""

_CONSTANTS = 1 << 40
"""The first number of the constants among the entries of what is shared; all tensors lie below."""


def version(tensor: Tensor) -> int:
    """How often it has been written into; of a tensor made in inference mode PyTorch does not say."""
    return -1 if tensor.is_inference() else tensor._version


class Untraceable(ValueError):
    """A field that cannot be turned into a program, and why."""


class KeepsTensor(Untraceable):
    """A field that puts a tensor away, where it would find it when nobody watches."""

    def __init__(self) -> None:
        super().__init__("the field keeps a tensor that it has made, for itself or in a cache")


class NoInstruction(Untraceable):
    """An operation of PyTorch that no instruction does."""

    def __init__(self, func: Any) -> None:
        super().__init__(f"the field calls {func.name()}, for which the native engine has no instruction")


class _Mixed(Exception):
    """Items that no single sample makes."""


@dataclass
class Split:
    """Items sorted by sample: what each sample has is the same, and is said once.

    Attributes
    ----------
    entries : (n, width)
        What the items of one sample are made of: codes without the sample.
    slot, sample : (N,)
        For each item, which of the n it is, and of which sample.
    """

    entries: Codes
    slot: NDArray[np.int64]
    sample: NDArray[np.int64]


class Builder:
    """A program on the way.

    Parameters
    ----------
    samples : int
        How many samples the field is traced with.
    dtype : torch.dtype
        Of all values.
    inputs : sequence of int
        The rows of each input.
    """

    def __init__(self, samples: int, dtype: torch.dtype, inputs: Sequence[int]) -> None:
        self.samples, self.dtype = samples, dtype
        self.prologue = Prologue()
        self.inputs = tuple(inputs)
        self._starts = list(np.cumsum([0, *inputs])[:-1].tolist())
        self._rows = sum(inputs)
        self._instructions: list[Instruction] = []
        self._known: dict[Instruction, int] = {}
        self._constants: dict[str, int] = {}
        self._numbers: list[float] = []
        self._slots: list[int] = []  # the slots that are read, by number of the shared tensor
        self._shared_numbers: dict[int, int] = {}
        self._slot_starts: list[int] = []
        self._versions: list[int] = []
        self._entries = 0
        self._picks: dict[Any, int] = {}
        self._why, self._unsaid = "", ""

    # what is known of an entry

    def input_codes(self, number: int, shape: Sequence[int], *, uniform: bool = False) -> Codes:
        """The codes of an input, (samples, *shape), or of one that is the same for all, (*shape)."""
        rows = self._starts[number] + np.arange(self.inputs[number]).reshape(shape)
        if uniform:
            return np.asarray(rows * (self.samples + 1) + self.samples)
        samples = np.arange(self.samples).reshape(-1, *(1,) * len(shape))
        return rows * (self.samples + 1) + samples

    def slot_codes(self, slot: int) -> Codes:
        """The codes of a tensor of the prologue."""
        value = self.prologue.values[slot]
        start = self._slot_starts[self._shared(slot)]
        return np.asarray(-1 - start - np.arange(value.numel()).reshape(value.shape))

    def constant(self, number: float) -> int:
        """The code of a constant."""
        key = float(number).hex()
        if key not in self._constants:
            self._constants[key] = len(self._numbers)
            self._numbers.append(float(number))
        return -1 - _CONSTANTS - self._constants[key]

    def number(self, codes: Codes) -> float | None:
        """The constant that all entries are, or None."""
        first = int(codes.flat[0]) if codes.size else 0
        if not MIXED < first < -_CONSTANTS or not (codes == first).all():
            return None
        return self._numbers[-1 - _CONSTANTS - first]

    def _shared(self, slot: int) -> int:
        """The number of the shared tensor that a slot is."""
        if slot in self._shared_numbers:
            return self._shared_numbers[slot]
        value = self.prologue.values[slot]
        if value.is_complex() or not (value.ndim == 0 or torch.promote_types(value.dtype, self.dtype) == self.dtype):
            raise Untraceable(f"the field computes with a tensor of dtype {value.dtype}, but y has dtype {self.dtype}")
        self._shared_numbers[slot] = len(self._slots)
        self._slots.append(slot)
        self._slot_starts.append(self._entries)
        self._versions.append(version(value))
        self._entries += value.numel()
        return len(self._slots) - 1

    # the three kinds of computation

    def elementwise(self, operation: str, operands: Sequence[Codes], scalars: Sequence[float] = ()) -> Codes:
        """The codes of what an operation makes of its operands, broadcast against each other."""
        operands = np.broadcast_arrays(*operands)
        shape = operands[0].shape
        try:
            split = self._split(np.stack([x.ravel() for x in operands], 1), shape)
        except _Mixed as error:
            return self._mixed(shape, error)
        scalars = tuple(float(x) for x in scalars)
        columns = split.entries
        if len(columns) > 1 and (columns == columns[0]).all():
            columns, split.slot = columns[:1], np.zeros_like(split.slot)
        if (columns < 0).all():
            return self._folded(operation, columns, scalars, split).reshape(shape)
        given = tuple(self._operand(column) for column in columns.T)
        instruction = Instruction(operation, len(columns), given, (), scalars)
        return self._made(self._with_bias(instruction), split, 1).reshape(shape)

    def _with_bias(self, instruction: Instruction) -> Instruction:
        """A sum of all that a linear map makes and of a number for each row is that map with a bias."""
        for x, bias in (instruction.operands, instruction.operands[::-1]) if instruction.operation == "add" else ():
            if x.shared or x.number < len(self.inputs) or (x.row, x.stride) != (0, 1) or not bias.shared:
                continue
            source = self._instructions[x.number - len(self.inputs)]
            plain = source.operation == "linear" and len(source.operands) == 2
            if plain and source.index[:2] == (1, instruction.size) and bias.stride == 1:
                return replace(source, operands=(*source.operands, bias))
        return instruction

    def reduce(self, operation: str, items: Codes) -> Codes:
        """The codes of what becomes of the last dimension."""
        shape, length = items.shape[:-1], items.shape[-1]
        try:
            split = self._split(items.reshape(-1, length), shape)
        except _Mixed as error:
            return self._mixed(shape, error)
        n = len(split.entries)
        if (split.entries < 0).all():
            args = operation, n, Slot(self._picked(split.entries.ravel()))
            return self._computed(_reduced, args, split, 1).reshape(shape)
        given = (self._operand(split.entries.ravel(), spread=True),)
        return self._made(Instruction(operation, n, given, (length,)), split, 1).reshape(shape)

    def linear(self, x: Codes, weight: Codes | int, bias: Codes | int | None = None) -> Codes:
        """The codes (M, R) of x (M, K) by a weight (R, K) and a bias (R,), each a slot or codes of what is shared."""
        n_out = self.prologue.values[weight].shape[0] if isinstance(weight, int) else weight.shape[0]
        try:
            if not isinstance(weight, int) and (weight == MIXED).any():
                raise _Mixed(self._why or self._unsaid)
            split = self._split(x, x.shape[:1])
        except _Mixed as error:
            return self._mixed((len(x), n_out), error)
        n, n_in = split.entries.shape
        maps = [m if isinstance(m, int) else self._picked(m.ravel()) for m in (weight, bias) if m is not None]
        if (split.entries < 0).all():  # x is the same for all samples: PyTorch multiplies
            tensors = [Slot(slot) for slot in (self._picked(split.entries.ravel()), *maps)]
            return self._computed(_product, ((n, n_out, n_in), *tensors), split, n_out)
        given = (self._operand(split.entries.ravel(), spread=True), *(self._whole(slot) for slot in maps))
        return self._made(Instruction("linear", n * n_out, given, (n, n_out, n_in)), split, n_out)

    def program(self, out: Codes) -> tuple[Program, list[Tensor | int]]:
        """The program whose result has these codes, (samples, rows); and the slots that are its shared tensors."""
        try:
            split = self._split(out.reshape(-1, 1), out.shape)
        except _Mixed as error:
            raise Untraceable(f"the field {error}") from None
        rows = out.shape[1]
        expected = np.broadcast_to(np.arange(self.samples)[:, None], out.shape).ravel()
        ordered = split.slot.reshape(out.shape)
        if ((split.sample != expected) & (split.sample != self.samples)).any() or not (ordered == ordered[0]).all():
            raise Untraceable("the field gives a sample what belongs to another")
        entries = split.entries[ordered[0], 0]
        output = self._operand(entries, spread=True, value=True)
        instructions, output = _live(self._instructions, len(self.inputs), output)
        return self._finished(instructions, output, rows)

    # items and samples

    def _split(self, items: Codes, shape: Sequence[int]) -> Split:
        """Items (N, width), which fill a tensor of that shape, sorted by sample."""
        if not items.size:
            raise Untraceable("the field computes with an empty tensor")
        if (items == MIXED).any():
            raise _Mixed(self._why or self._unsaid)
        base = self.samples + 1
        samples = np.where(items >= 0, items % base, self.samples)
        sample = samples.min(1)
        if ((samples != self.samples) & (samples != sample[:, None])).any():
            raise _Mixed("mixes samples")
        entries = np.where(items >= 0, items // base, items)
        if (sample == self.samples).all():
            return self._uniform(entries, sample)
        if (sample == self.samples).any():
            sample = self._placed(sample, shape)
        if (np.bincount(sample, minlength=self.samples) * self.samples != len(sample)).any():
            raise _Mixed("treats some samples differently from others")
        order = np.argsort(sample, kind="stable").reshape(self.samples, -1)
        sorted_entries = entries[order]
        if not (sorted_entries == sorted_entries[:1]).all():
            raise _Mixed("treats some samples differently from others")
        slot = np.empty(len(items), dtype=np.int64)
        slot[order] = np.arange(order.shape[1])
        return Split(sorted_entries[0], slot, sample)

    def unsaid(self, shape: Sequence[int], why: str) -> Codes:
        """The codes of what no program can say."""
        self._unsaid = why
        return np.full(shape, MIXED)

    def _mixed(self, shape: Sequence[int], error: _Mixed) -> Codes:
        """The codes of what several samples have made."""
        self._why = self._why or str(error)
        return np.full(shape, MIXED)

    def _uniform(self, entries: Codes, sample: NDArray[np.int64]) -> Split:
        """Items that are the same in all samples: each once, in the order in which they come."""
        _, first, inverse = np.unique(entries, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return Split(entries[first[order]], rank[inverse.reshape(-1)], sample)

    def _placed(self, sample: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
        """The sample of each item, also of those that are the same in all, by where they lie in the tensor."""
        known = sample != self.samples
        for dim, size in enumerate(shape):
            if size % self.samples:
                continue
            index = np.arange(size).reshape(-1, *(1,) * (len(shape) - dim - 1))
            for guess in (index // (size // self.samples), index % self.samples):
                placed = np.broadcast_to(guess, shape).ravel()
                if (placed == sample)[known].all():
                    return placed
        raise _Mixed("treats some samples differently from others")

    # emission

    def _made(self, instruction: Instruction, split: Split, width: int) -> Codes:
        """The codes (N, width) of the rows of an instruction, of which each item has so many."""
        if instruction not in self._known:
            self._known[instruction] = self._append(instruction)
        rows = self._starts[self._known[instruction]] + split.slot[:, None] * width + np.arange(width)
        return rows * (self.samples + 1) + split.sample[:, None]

    def _append(self, instruction: Instruction) -> int:
        """The number of the value that a new instruction makes."""
        if self._rows + instruction.size > _ROWS:
            raise Untraceable(f"the field makes more than {_ROWS} numbers for each sample")
        self._instructions.append(instruction)
        self._starts.append(self._rows)
        self._rows += instruction.size
        return len(self._starts) - 1

    def _folded(self, operation: str, columns: Codes, scalars: tuple[float, ...], split: Split) -> Codes:
        """What is computed from what is shared: by PyTorch before the solve, or now where only constants are in it."""
        if (columns < -_CONSTANTS).all() and len(columns) == 1:
            given = [torch.tensor(self.number(column), dtype=self.dtype, device="cpu") for column in columns.T]
            value = reference.FORWARD[operation](scalars, *given).item()
            return np.full((len(split.slot), 1), self.constant(value))
        tensors = tuple(Slot(self._picked(column)) for column in columns.T)
        return self._computed(_row_by_row, (operation, scalars, *tensors), split, 1)

    def _computed(self, function: Any, args: tuple[Any, ...], split: Split, width: int) -> Codes:
        """The codes of what a function of the prologue makes."""
        codes = self.slot_codes(self.prologue.call(function, *args).number).reshape(-1, width)
        return codes[split.slot]

    def _operand(self, entries: Codes, *, spread: bool = False, value: bool = False) -> Operand:
        """What to read for entries (n,): a run of rows or one row for all; failing that, what a gather makes.

        Where it is to be `spread`, one row for all will not do; nor will what is shared where it must be a `value`.
        """
        first, n = int(entries[0]), len(entries)
        if not (value and first < 0):
            step = 1 if first >= 0 else -1
            if n == 1 or (not spread and (entries == first).all()):
                return self._at(first, stride=int(n == 1))
            if (np.diff(entries) == step).all() and self._home(first) == self._home(int(entries[-1])) != (True, -1):
                return self._at(first, stride=1)
            if (entries < 0).all():
                return self._whole(self._picked(entries))
        return self._gathered(entries)

    def _gathered(self, entries: Codes) -> Operand:
        """The value that a gather makes of entries."""
        homes = [self._home(entry) for entry in entries.tolist()]
        if all(shared for shared, _ in homes):
            slot = self._picked(entries)
            operands: tuple[Operand, ...] = (Operand(STATE), self._whole(slot))
            index = [n for row in range(len(entries)) for n in (1, row)]
        else:
            constants = entries < -_CONSTANTS
            if constants.any():
                slot = self._picked(entries[constants])
                entries = entries.copy()
                entries[constants] = self.slot_codes(slot)
                homes = [self._home(entry) for entry in entries.tolist()]
            at = [self._at(entry, 1) for entry in entries.tolist()]
            first: dict[tuple[bool, int], int] = {}
            for home, operand in zip(homes, at, strict=True):
                first[home] = min(first.get(home, operand.row), operand.row)
            operands = tuple(Operand(number, shared, row) for (shared, number), row in first.items())
            order = {home: position for position, home in enumerate(first)}
            index = [n for h, x in zip(homes, at, strict=True) for n in (order[h], x.row - first[h])]
        instruction = Instruction("gather", len(entries), operands, tuple(index))
        if instruction not in self._known:
            self._known[instruction] = self._append(instruction)
        return Operand(self._known[instruction])

    def _home(self, entry: int) -> tuple[bool, int]:
        """Whether an entry is shared, and the number of its tensor (-1: the constants) or value."""
        if entry < -_CONSTANTS:
            return True, -1
        if entry < 0:
            return True, bisect_right(self._slot_starts, -1 - entry) - 1
        return False, bisect_right(self._starts, entry) - 1

    def _at(self, entry: int, stride: int) -> Operand:
        """The operand that begins at an entry."""
        shared, number = self._home(entry)
        if number == -1:
            return Operand(-1, True, -1 - entry - _CONSTANTS, stride)
        start = (self._slot_starts if shared else self._starts)[number]
        return Operand(number, shared, (-1 - entry if shared else entry) - start, stride)

    def picked(self, codes: Codes) -> int | None:
        """The slot that holds entries, one after the other, if they are shared."""
        mixed = bool((codes == MIXED).any())
        if mixed and self._unsaid and not self._why:
            raise Untraceable(f"the field {self._unsaid}")
        return None if mixed or not codes.size or (codes >= 0).any() else self._picked(codes.ravel())

    def _whole(self, slot: int) -> Operand:
        """All of a tensor of the prologue."""
        return Operand(self._shared(slot), True)

    def _picked(self, entries: Codes) -> int:
        """The slot that holds shared entries (n,), one after the other."""
        key = entries.tobytes()
        if key in self._picks:
            return self._picks[key]
        first = self._home(int(entries[0]))
        whole = first[1] >= 0 and len(entries) == self.prologue.values[self._slots[first[1]]].numel()
        if whole and -1 - entries[0] == self._slot_starts[first[1]] and (np.diff(entries) == -1).all():
            return self._slots[first[1]]
        homes = sorted({self._home(entry)[1] for entry in entries.tolist()})
        places, tensors, offset = np.zeros_like(entries), [], 0
        for home in homes:
            if home == -1:
                tensor: Any = torch.tensor(self._numbers, dtype=self.dtype, device="cpu")
                start, size, tensor = _CONSTANTS, len(tensor), Slot(self.prologue.capture(tensor))
            else:
                start, slot = self._slot_starts[home], self._slots[home]
                size, tensor = self.prologue.values[slot].numel(), Slot(slot)
            inside = (-1 - entries >= start) & (-1 - entries < start + size)
            places[inside] = -1 - entries[inside] - start + offset
            tensors.append(tensor)
            offset += size
        slot = self.prologue.call(_entries, self.dtype, torch.from_numpy(places), *tensors).number
        self._picks[key] = slot
        return slot

    def _finished(
        self, instructions: list[Instruction], output: Operand, rows: int
    ) -> tuple[Program, list[Tensor | int]]:
        """The program with its shared tensors numbered as they come."""
        order: dict[int, int] = {}
        constants: dict[int, int] = {}

        def final(operand: Operand) -> Operand:
            if not operand.shared:
                return operand
            number = order.setdefault(operand.number, len(order))
            row = constants.setdefault(operand.row, len(constants)) if operand.number == -1 else operand.row
            return replace(operand, number=number, row=row)

        instructions = [replace(i, operands=tuple(final(x) for x in i.operands)) for i in instructions]
        for number in order:
            if number >= 0 and version(self.prologue.values[self._slots[number]]) != self._versions[number]:
                raise Untraceable("the field writes into a tensor after it has computed with it")
        numbers = torch.tensor([self._numbers[row] for row in constants], dtype=self.dtype, device="cpu")
        shared = [numbers if number == -1 else self._slots[number] for number in order]
        sizes = tuple(x.numel() if isinstance(x, Tensor) else self.prologue.values[x].numel() for x in shared)
        return Program(self.inputs, sizes, tuple(instructions), output), shared


def _live(instructions: list[Instruction], inputs: int, output: Operand) -> tuple[list[Instruction], Operand]:
    """Only what the output needs, numbered anew."""
    wanted = {output.number}
    for number in range(len(instructions) - 1, -1, -1):
        if number + inputs in wanted:
            wanted.update(x.number for x in instructions[number].operands if not x.shared)
    kept = [number for number in range(len(instructions)) if number + inputs in wanted]
    new = {**{n: n for n in range(inputs)}, **{old + inputs: n + inputs for n, old in enumerate(kept)}}

    def moved(operand: Operand) -> Operand:
        return operand if operand.shared else replace(operand, number=new[operand.number])

    live = [replace(instructions[n], operands=tuple(moved(x) for x in instructions[n].operands)) for n in kept]
    return live, moved(output)


# what the prologue calls beside PyTorch's own operations


def _entries(dtype: torch.dtype, places: Tensor, *tensors: Tensor) -> Tensor:
    """Entries of tensors laid one after the other."""
    return torch.cat([x.reshape(-1).to(dtype) for x in tensors]).index_select(0, places)


def _row_by_row(operation: str, scalars: tuple[float, ...], *operands: Tensor) -> Tensor:
    return reference.FORWARD[operation](scalars, *(x.reshape(-1) for x in operands))


def _reduced(operation: str, size: int, x: Tensor) -> Tensor:
    items = x.reshape(size, -1)
    return items.sum(-1) if operation == "sum" else items.amax(-1)


def _product(shape: tuple[int, int, int], x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    n, n_out, n_in = shape
    return torch.nn.functional.linear(
        x.reshape(n, n_in), weight.reshape(n_out, n_in), *(b.reshape(n_out) for b in bias)
    ).flatten()
