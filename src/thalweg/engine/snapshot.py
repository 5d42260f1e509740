"""What was there before a field was watched, to be put back: it may keep what it makes, and count its calls."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Snapshot:
    """What a field may write to, and what was in it.

    A dict of which all entries matter is kept whole. Of the globals of a module some names are, and of a class all;
    a name that was not there goes again.

    Attributes
    ----------
    sequences : list of pairs
        Lists and sets, and their elements in the order that they have there, which a copy of a set need not have.
    cells : list of pairs
        Those of closures, and what they held.
    """

    def __init__(self) -> None:
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._globals: list[tuple[dict[str, Any], dict[str, Any], Sequence[str]]] = []
        self._classes: list[tuple[type, dict[str, Any]]] = []
        self.sequences: list[tuple[list[Any] | set[Any], list[Any]]] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self._caches: list[tuple[Any, int]] = []

    def keep_dict(self, found: dict[Any, Any]) -> None:
        """All entries."""
        self._dicts.append((found, dict(found)))

    def keep_globals(self, found: dict[str, Any], names: Iterable[str], absent: Sequence[str] = ()) -> None:
        """Those of that name, and those that are not there."""
        self._globals.append((found, {name: found[name] for name in names}, absent))

    def keep_class(self, kind: type) -> None:
        """All that is said in a class itself."""
        self._classes.append((kind, dict(vars(kind))))

    def keep_sequence(self, found: list[Any] | set[Any]) -> None:
        """All elements."""
        self.sequences.append((found, list(found)))

    def keep_cell(self, cell: types.CellType) -> None:
        """What a closure holds."""
        self.cells.append((cell, cell.cell_contents))

    def keep_cache(self, function: Any) -> None:
        """How often a function with a cache (`functools.lru_cache`) had to be called; what it holds cannot be asked."""
        self._caches.append((function, function.cache_info().misses))

    def restore(self) -> None:
        """Put it back."""
        for mapping, then in self._dicts:
            if _differ(mapping, then):
                mapping.clear()
                mapping.update(then)
        for mapping, then, absent in self._globals:
            mapping.update(then)
            for name in absent:
                mapping.pop(name, None)
        for kind, said in self._classes:
            if _differ(vars(kind), said):
                for name in vars(kind).keys() - said.keys():
                    type.__delattr__(kind, name)
                for name in [name for name, value in said.items() if vars(kind).get(name) is not value]:
                    type.__setattr__(kind, name, said[name])
        for found, elements in self.sequences:
            if isinstance(found, list):
                found[:] = elements
            else:
                found.clear()
                found.update(elements)
        for cell, value in self.cells:
            cell.cell_contents = value

    def clear_caches(self) -> None:
        """Empty those that were asked for more since: what they hold then may be what was only watched."""
        for i, (function, misses) in enumerate(self._caches):
            if function.cache_info().misses != misses:
                function.cache_clear()
                self._caches[i] = (function, 0)


@contextmanager
def dice_kept() -> Iterator[Callable[[], bool]]:
    """Put back the random numbers of Python and of NumPy; what it gives says afterwards whether some were drawn."""
    numpy = sys.modules.get("numpy.random")  # not imported for this
    before, thrown = _dice(numpy), False
    try:
        yield lambda: thrown
    finally:
        thrown = _dice(numpy) != before
        if thrown:  # which another thread may have done, whose numbers are not to come twice for nothing
            random.setstate(before[0])
            if numpy is not None:
                numpy.set_state(before[1])


def _dice(numpy: Any) -> tuple[Any, Any]:
    """Where they stand."""
    if numpy is None:
        return random.getstate(), None
    kind, keys, *rest = numpy.get_state()
    return random.getstate(), (kind, keys.tolist(), *rest)


def _differ(found: Any, then: dict[Any, Any]) -> bool:
    return found.keys() != then.keys() or any(found[key] is not value for key, value in then.items())
