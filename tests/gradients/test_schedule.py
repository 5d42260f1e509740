"""The schedule of checkpoints takes as few steps again as can be, against the recursion itself and the known rule."""

from functools import cache
from math import comb

import pytest

from thalweg.gradients.schedule import Places, repeated, stride

STEPS, STATES = range(1, 41), range(1, 7)


@cache
def least(length, free):
    """The least number of steps taken again to pull back a stretch, by trying every first checkpoint."""
    if length == 1:
        return 0
    if free == 0:
        return length * (length - 1) // 2
    return min(k + least(length - k, free - 1) + least(k, free) for k in range(1, length))


@cache
def least_of_known(length, free):
    """The same once the steps were taken and the best beginnings were kept on the way, their number being known."""
    kept = [least(k, free) + least_of_known(length - k, free - 1) for k in range(1, length)] if free else []
    return min([least(length, free), *kept])


def wang(count, steps):
    """The beginnings that are kept by Wang, Moin & Iaccarino: by levels, the last step's always among them."""
    kept = []
    for n in range(1, steps):
        levels = [level for _, level in kept]
        dispensable = [i for i, level in enumerate(levels) if level < max(levels[i:])]
        if len(kept) < count:
            kept.append((n, 0))
        elif dispensable:
            del kept[dispensable[-1]]
            kept.append((n, 0))
        else:
            kept[-1] = (n, levels[-1] + 1)
    return [n for n, _ in kept]


def way_back(beginnings, steps, count):
    """How many steps are taken again from those beginnings on, at best."""
    ends = [0, *beginnings, steps]
    return sum(least(ends[i + 1] - ends[i], count - i) for i in range(len(ends) - 1))


def solved(steps, count):
    """The places after that many steps."""
    places = Places(count)
    for n in range(1, steps):
        places.add(n)
    return places


def walked(places, steps):
    """Go back through all steps as a tape does; each beginning as (number, taken again), with states checked."""
    states, walk = {0, *places.taken}, []
    for n in reversed(range(steps)):
        states = {m for m in states if m <= n}
        begin, stops = places.way_to(n)
        assert begin in states
        assert all(begin < stop <= n for stop in stops)
        for stop in stops:
            places.keep(stop)
        states |= set(stops)
        assert len(states) <= places.count + 1
        walk += range(begin, n)
    return walk


@pytest.mark.parametrize("free", range(7))
def test_the_closed_form_is_the_recursion(free):
    for length in STEPS:
        assert repeated(length, free) == least(length, free)


@pytest.mark.parametrize("free", range(1, 7))
def test_the_first_checkpoint_is_a_best_one(free):
    for length in range(2, 41):
        k = stride(length, free)
        assert k + least(length - k, free - 1) + least(k, free) == least(length, free)


@pytest.mark.parametrize("count", STATES)
def test_steps_are_taken_again_as_often_as_the_formula_says(count):
    """And never more states are kept than there are places for."""
    for steps in STEPS:
        places = solved(steps, count)
        expected = way_back(places.taken, steps, count)
        assert len(walked(places, steps)) == expected


@pytest.mark.parametrize("count", STATES)
def test_no_schedule_that_knows_the_number_of_steps_is_better_up_to_a_point(count):
    """The number of steps being C(c + 3, 2); beyond, by no more than a tenth, or 22 % with one state."""
    for steps in STEPS:
        found, best = len(walked(solved(steps, count), steps)), least_of_known(steps, count)
        if steps <= comb(count + 3, 2):
            assert found == best
        else:
            assert best <= found <= best * (1.1 if count > 1 else 1.22)


@pytest.mark.parametrize("count", STATES)
def test_the_rule_of_wang_moin_and_iaccarino_takes_more_steps_again(count):
    """At one number of steps it takes one less, at all others no fewer, and a tenth more on average."""
    found = [len(walked(solved(steps, count), steps)) for steps in STEPS]
    others = [way_back(wang(count, steps), steps, count) for steps in STEPS]
    assert all(one <= other + (count == 2 and other == 60) for one, other in zip(found, others, strict=True))
    assert sum(found) < 0.91 * sum(others)


@pytest.mark.parametrize("count", STATES)
def test_a_second_way_back_begins_at_the_start_and_is_the_best_from_there(count):
    for steps in STEPS:
        places = solved(steps, count)
        walked(places, steps)
        assert len(walked(places, steps)) == least(steps, count)


def test_as_many_places_as_steps_leave_nothing_to_be_taken_again():
    for steps in STEPS:
        assert walked(solved(steps, max(steps - 1, 1)), steps) == []


def test_no_step_is_taken_again_more_often_than_it_must():
    """r times, from the start: the least r for which C(c + 1 + r, r) is no less than the number of steps."""
    for count in STATES:
        for steps in STEPS:
            walk = walked(Places(count), steps)
            r = next(r for r in range(steps + 1) if comb(count + 1 + r, r) >= steps)
            assert max([walk.count(n) for n in walk], default=0) <= r
