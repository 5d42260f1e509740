"""A trace is told from those of others, also where memory is used again: an identity lasts as long as its object."""

import math

import pytest
import torch

from thalweg import solve_ivp

RATES = [0.25 * (i % 7) for i in range(40)]


class Rate:
    def __init__(self, value):
        self.value = value


def end(fun, *args):
    sol = solve_ivp(fun, (0.0, 1.0), torch.ones(1, dtype=torch.float64), args=args, rtol=1e-9, atol=1e-9)
    return sol.ys[-1].item()


def of_a_default(rate):
    k = torch.tensor(rate, dtype=torch.float64)
    return end(lambda t, y, k=k: -k * y)


def of_a_keyword(rate):
    k = torch.tensor(rate, dtype=torch.float64)
    return end(lambda t, y, *, k=k: -k * y)


def of_a_closure(rate):
    k = torch.tensor(rate, dtype=torch.float64)
    return end(lambda t, y: -k * y)


def _decay(t, y, rate):
    return -rate.value * y


def of_an_argument(rate):
    return end(_decay, Rate(rate))


@pytest.mark.parametrize("solved", [of_a_default, of_a_keyword, of_a_closure, of_an_argument])
def test_what_is_gone_is_not_taken_for_what_came_in_its_place(solved):
    assert [solved(rate) for rate in RATES] == pytest.approx([math.exp(-rate) for rate in RATES], rel=1e-6)
