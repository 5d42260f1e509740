"""Which beginnings of steps to keep where only so many can be, and how to come back to the others: whole numbers alone.

To pull back l steps, the first of which begins where a state is kept, with room for f states more: keep that after k
steps, pull back those beyond it, then those before it, with its place free again. A step that leads to a beginning is
taken again, without a graph; the least number of such steps is

    T(l, f) = min over k of { k + T(l - k, f - 1) + T(k, f) },   T(1, f) = 0,   T(l, 0) = l (l - 1) / 2.

With s = f + 1 and r the least number for which beta(s, r) = C(s + r, s) is no less than l,

    T(l, f) = r l - C(s + r, r - 1),

and every k with beta(s, r - 2) <= k <= beta(s, r - 1) and beta(s - 1, r - 1) <= l - k <= beta(s - 1, r) is a best one
(Griewank & Walther 2000). No step is then taken again more than r times.

On the way there l is not known. The beginnings p_1 < … < p_m that are kept, m <= c, with p_0 = 0, are such that if the
solve ended now, with n steps, the way back would cost sum_i T(p_{i+1} - p_i, c - i), p_{m+1} being n. When all places
are taken and a step begins, the beginning is given up without which this sum is least, the first of those that are
alike. For up to C(c + 3, 2) steps that is as good as if their number had been known; beyond, by up to a tenth worse,
and a fifth where c = 1, as far as it was computed. The rule of Wang, Moin & Iaccarino (2009), which minimises r, takes
a tenth to a quarter more steps again, on average of up to 40.

References
----------
Griewank & Walther, "Algorithm 799: revolve", ACM Transactions on Mathematical Software 26 (2000).
Wang, Moin & Iaccarino, "Minimal repetition dynamic checkpointing algorithm for unsteady adjoint calculation", SIAM
Journal on Scientific Computing 31 (2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import comb


@lru_cache(maxsize=2**14)
def repeated(length: int, free: int) -> int:
    """T(l, f), how many steps are taken again to pull back `length` of them with `free` places.

    Examples
    --------
    >>> [repeated(10, free) for free in (0, 1, 3, 9)]
    [45, 20, 14, 9]
    """
    if length <= 1:
        return 0
    r = _repetitions(length, free + 1)
    return r * length - comb(free + 1 + r, r - 1)


def stride(length: int, free: int) -> int:
    """After how many steps to keep the first state, so that as few as possible are taken again."""
    s = free + 1
    r = _repetitions(length, s)
    return max(1, _beta(s, r - 2), length - _beta(s - 1, r))


class Places:
    """The beginnings that are kept, that of step 0 not counted, which always is.

    Parameters
    ----------
    count : int
        How many can be kept.

    Attributes
    ----------
    taken : list of int
        The numbers of the steps whose beginnings are kept, in ascending order.

    Examples
    --------
    >>> places = Places(2)
    >>> [places.add(n) for n in range(1, 8)]
    [None, None, 1, 2, 3, 5, 6]
    >>> places.taken
    [4, 7]
    >>> [(n, *places.way_to(n)) for n in (7, 6)]
    [(7, 7, []), (6, 4, [5])]
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken: list[int] = []

    def add(self, n: int) -> int | None:
        """Keep the beginning of step n, the last that there is; says which is given up, where all places are taken."""
        self.taken.append(n)
        return self.taken.pop(self._least_missed(n + 1)) if len(self.taken) > self.count else None

    def way_to(self, n: int) -> tuple[int, Sequence[int]]:
        """The kept beginning from which to come to that of step n, and those to `keep` on the way.

        Step n is the last one that is still to be pulled back: the places of later ones are free.
        """
        while self.taken and self.taken[-1] > n:
            self.taken.pop()
        begin = here = self.taken[-1] if self.taken else 0
        stops: list[int] = []
        for free in range(self.count - len(self.taken), 0, -1):
            if here == n:
                break
            here += stride(n + 1 - here, free)
            stops.append(here)
        return begin, stops

    def keep(self, n: int) -> None:
        """Keep the beginning of step n, which was come to: an error on the way there leaves its place free."""
        self.taken.append(n)

    def _least_missed(self, steps: int) -> int:
        """Which of the beginnings, one more than there are places, to give up if that is all of the steps."""
        ends, most = [0, *self.taken, steps], self.count
        lengths = [end - begin for begin, end in pairwise(ends)]
        before, after = [0], [0]
        for i, length in enumerate(lengths):
            before.append(before[-1] + repeated(length, most - i))
        for i in range(len(lengths) - 1, 0, -1):  # each has a place more once one before it is given up
            after.append(after[-1] + repeated(lengths[i], most - i + 1))
        after.reverse()  # after[i] counts from stretch i + 1 on

        def total(i: int) -> int:
            return before[i] + repeated(lengths[i] + lengths[i + 1], most - i) + after[i + 1]

        return min(range(len(self.taken)), key=total)


def _beta(s: int, r: int) -> int:
    """The most steps that can be pulled back with s states, none taken again more than r times."""
    return comb(s + r, s) if r >= 0 else 0


def _repetitions(length: int, s: int) -> int:
    """The least r for which beta(s, r) is no less than the length."""
    r, reach = 0, 1
    while reach < length:
        r += 1
        reach = reach * (s + r) // r
    return r
