"""A trace is told from those of others, also where memory is used again: an identity lasts as long as its object."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch

from thalweg import explain, solve_ivp
from thalweg.engine import cache
from thalweg.engine.cache import cached_trace

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


Pair, Turned = namedtuple("Pair", "a b"), namedtuple("Pair", "b a")


@pytest.mark.parametrize("have_hashes", sorted({cache._STRUCTURES_HAVE_HASHES, False}))
@pytest.mark.filterwarnings("ignore:.*children_specs:FutureWarning")
def test_structures_of_one_name_are_two(have_hashes, monkeypatch):
    """Also those of a PyTorch whose structures have no hash."""
    monkeypatch.setattr(cache, "_STRUCTURES_HAVE_HASHES", have_hashes)

    def decay(t, y, pair):
        return pair.a * y

    assert end(decay, Pair(a=1.0, b=-1.0)) == pytest.approx(math.e)
    assert end(decay, Turned(a=1.0, b=-1.0)) == pytest.approx(math.e)

    def of_a_dict(t, y, tree):
        return tree["rates"][0]["k"] * y

    assert end(of_a_dict, {"rates": [{"k": torch.tensor(-1.0)}]}) == pytest.approx(math.exp(-1))
    assert end(of_a_dict, {"rates": [{"k": torch.tensor(1.0)}]}) == pytest.approx(math.e)


READS = {
    "item": lambda k: k[0].item(),
    "bool": lambda k: 1.0 if k[0] > 1.5 else 2.0,
    "tolist": lambda k: k.tolist()[0],
    "numpy": lambda k: k.numpy()[0].item(),
    "numpy's own way": lambda k: float(np.asarray(k)[0]),
    "shared memory": lambda k: torch.from_numpy(k.numpy()),
    "bytes": lambda k: k.untyped_storage()[7] / 64.0,
    "equal": lambda k: 1.0 if torch.equal(k, torch.tensor([1.0, 2.0]).double()) else 2.0,
    "allclose": lambda k: 1.0 if torch.allclose(k, torch.tensor([1.0, 2.0]).double()) else 2.0,
    "a size by nonzero": lambda k: float(len(torch.nonzero(k - 1))),
    "a size by a mask": lambda k: float(len(k[k > 1.5])),
    "a size by unique": lambda k: float(len(torch.unique(k.clamp(min=2.0)))),
    "text": lambda k: float(str(k.tolist()[1])),
}
"""How a field may take numbers out of a tensor that it holds."""


class Reader(torch.nn.Module):
    def __init__(self, read):
        super().__init__()
        self.read = read
        self.register_buffer("k", torch.tensor([1.0, 2.0], dtype=torch.float64))

    def forward(self, t, y):
        return -self.read(self.k) * y


@pytest.mark.parametrize("way", ["in place", "by data", "in inference mode"])
@pytest.mark.parametrize("read", READS)
def test_numbers_that_a_field_reads_are_looked_at_again(read, way):
    field, y0 = Reader(READS[read]), torch.ones(3, 2, dtype=torch.float64)
    if way == "in inference mode":
        with torch.inference_mode():
            field.k = field.k.clone()
    assert explain(field, y0).backend == "native"
    for k in ([1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [1.0, 2.0]):
        with torch.inference_mode(way == "in inference mode"):
            (field.k.data if way == "by data" else field.k).copy_(torch.tensor(k))
        found, expected = (solve_ivp(field, (0.0, 0.5), y0, backend=name).ys for name in ("auto", "eager"))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


class Frozen(Reader):
    """A field that is another one while its parameter is frozen."""

    def __init__(self):
        super().__init__(None)
        self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, t, y):
        return y * self.weight if self.weight.requires_grad else -y


def test_whether_a_tensor_needs_a_gradient_is_looked_at_again():
    field, y0 = Frozen(), torch.ones(3, 2, dtype=torch.float64)
    assert explain(field, y0).backend == "native"
    for needed in (True, False, False, True):
        field.weight.requires_grad_(needed)
        end = solve_ivp(field, (0.0, 1.0), y0, rtol=1e-9, atol=1e-9).ys[-1]
        assert end[0, 0].item() == pytest.approx(math.e if needed else 1 / math.e, rel=1e-7)


class Pruned(torch.nn.Module):
    """Uses some of its weights."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        self.register_buffer("kept", torch.tensor([True, False, True]))

    def forward(self, t, y):
        return -y * self.weight[self.kept] * torch.masked_select(self.weight, self.kept)


def test_weights_that_a_mask_picks_from_are_followed_by_the_same_trace():
    """Their number depends on the mask alone."""
    field, y0 = Pruned(), torch.ones(3, 2, dtype=torch.float64)
    first = cached_trace(field, torch.zeros((), dtype=torch.float64), y0, by_row=False)
    with torch.no_grad():
        field.weight.add_(1.0)
    assert cached_trace(field, torch.zeros((), dtype=torch.float64), y0, by_row=False) is first
    end = solve_ivp(field, (0.0, 1.0), y0, rtol=1e-9, atol=1e-12).ys[-1]
    torch.testing.assert_close(end[0], torch.exp(-(field.weight[field.kept].detach() ** 2)), rtol=1e-6, atol=0)
    field.kept.copy_(torch.tensor([True, True, False]))
    assert cached_trace(field, torch.zeros((), dtype=torch.float64), y0, by_row=False) is not first
