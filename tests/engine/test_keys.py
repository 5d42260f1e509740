"""A solve like one before is had by a shorter way, the same to the last bit; one that asks otherwise is another."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thalweg import ivp, solve_ivp
from thalweg.compat.torchdiffeq import odeint, odeint_adjoint

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

F64 = torch.float64
Y0 = torch.linspace(-1, 1, 6, dtype=F64).view(3, 2)
TREES = {
    "a tensor": (lambda y: y, lambda y: y),
    "a tuple": (lambda y: (y, y[:, :1]), lambda y: y[0]),
    "a dict": (lambda y: {"q": y[:, :1], "p": y}, lambda y: y["p"]),
    "a number": (lambda y: y[0, 0], lambda y: y),
}
SPANS = {
    "numbers": (0.0, 1.0),
    "whole numbers": (0, 1),
    "a list": [0.0, 1.0],
    "a tensor": torch.tensor([0.0, 1.0], dtype=F64),
    "two tensors": (torch.tensor(0.0, dtype=F64), torch.tensor(1.0, dtype=F64)),
    "an array": np.array([0.0, 1.0]),
    "farther": (0.0, 1.5),
}
TIMES = {
    "none": None,
    "a list": [0.0, 0.3, 1.0],
    "a tensor": torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=F64),
    "single numbers": torch.tensor([0.0, 0.5, 1.0]),
    "an array": np.array([0.1, 0.9]),
    "whole numbers": [0, 1],
    "no times": [],
}


class Decay(nn.Module):
    """Of a state of any structure."""

    def __init__(self, taken=lambda y: y):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([1.0, 2.0], dtype=F64)[:1])
        self.taken = taken

    def forward(self, t, y):
        y = self.taken(y)
        if isinstance(y, dict):
            return {name: -self.rate * x for name, x in y.items()}
        if isinstance(y, tuple):
            return tuple(-self.rate * x for x in y)
        return (-self.rate * y).reshape(y.shape)


def parts(y):
    return list(y.values()) if isinstance(y, dict) else list(y) if isinstance(y, tuple) else [y]


def assert_same(found, expected):
    assert type(found.ys) is type(expected.ys)
    assert found.status is expected.status or torch.equal(found.status, expected.status)
    for a, b in zip([found.ts, *parts(found.ys)], [expected.ts, *parts(expected.ys)], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert str(found.stats) == str(expected.stats)


def refuse(*_, **__):
    raise AssertionError("the solve took the long way")


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("tree", TREES)
def test_the_second_time_is_the_same_by_the_shorter_way(tree, span, times, batching, monkeypatch):
    if tree == "a number" and batching == "per_sample":
        pytest.skip("it has no rows")
    field, y0 = Decay(), TREES[tree][0](Y0)
    options = {"t_eval": TIMES[times], "rtol": 1e-6, "batching": batching}
    first = solve_ivp(field, SPANS[span], y0, backend="native", **options)
    monkeypatch.setattr(ivp, "layout_of", refuse)
    second = solve_ivp(field, SPANS[span], y0, backend="native", **options)
    assert_same(second, first)
    loss = sum(y.square().sum() for y in parts(first.ys))
    if times == "no times":
        return
    again = sum(y.square().sum() for y in parts(second.ys))
    torch.testing.assert_close(
        torch.autograd.grad(again, field.rate)[0], torch.autograd.grad(loss, field.rate)[0], rtol=0, atol=0
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(SPANS)), st.sampled_from(sorted(TIMES)), st.sampled_from(["joint", "per_sample"])
        ),
        min_size=2,
        max_size=8,
    )
)
def test_solves_of_one_field_in_any_order_are_those_of_a_field_each(asked):
    field = Decay()
    for span, times, batching in asked:
        options = {"t_eval": TIMES[times], "batching": batching}
        found, expected = (solve_ivp(f, SPANS[span], Y0, **options) for f in (field, Decay()))
        assert_same(found, expected)


def test_times_that_are_written_to_are_other_times():
    field, times = Decay(), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    for middle in (0.5, 0.25, 0.5, 0.75):
        times[1] = middle
        sol = solve_ivp(field, (0.0, 1.0), Y0, t_eval=times, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sol.ts, times, rtol=0, atol=0)
        torch.testing.assert_close(sol.ys[1], Y0 * torch.exp(-times[1]), rtol=1e-7, atol=1e-8)
        sol.ts.fill_(torch.nan)  # is the solution's own
        times = times.clone() if middle == 0.25 else torch.tensor([0.0, middle, 1.0], dtype=F64)


def test_gradients_to_times_are_there_after_solves_without():
    field, y0 = Decay(), Y0.clone()
    t1 = torch.tensor(1.0, dtype=F64)
    for _ in range(2):
        solve_ivp(field, (0.0, t1), y0, rtol=1e-9, atol=1e-9)
    t1.requires_grad_()
    solve_ivp(field, (0.0, t1), y0, rtol=1e-9, atol=1e-9).ys[-1].sum().backward()
    torch.testing.assert_close(t1.grad, -(y0 * torch.exp(-t1.detach())).sum(), rtol=1e-6, atol=1e-9)


def test_rows_with_fewer_times_have_nan_each_time():
    field = Decay()
    times = torch.tensor([[0.0, 0.0, 0.0], [0.5, 1.0, torch.nan], [1.0, torch.nan, torch.nan]], dtype=F64)
    for _ in range(3):
        sol = solve_ivp(field, (0.0, 1.0), Y0, t_eval=times, batching="per_sample")
        torch.testing.assert_close(sol.ys.isnan().any(-1), times.isnan())
        torch.testing.assert_close(sol.ts, times, equal_nan=True)


def test_a_nan_and_what_is_no_time_is_an_error_each_time():
    field = Decay()
    for _ in range(2):
        solve_ivp(field, (0.0, 1.0), Y0, t_eval=[0.0, 1.0])
        for wrong in ([0.0, float("nan")], [0.0, 2.0], ["a"], [1.0, 0.0]):
            with pytest.raises(ValueError, match="t_eval"):
                solve_ivp(field, (0.0, 1.0), Y0, t_eval=wrong)
        with pytest.raises(ValueError, match="t_span"):
            solve_ivp(field, (0.0, 1.0, 2.0), Y0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("options", [{}, {"rtol": 1e-5, "atol": 1e-6}])
def test_what_was_written_for_torchdiffeq_takes_the_engine_and_has_the_same_gradient(dtype, options):
    """Also by its defaults, whose tolerance is below what float32 holds."""
    field, t = Decay().to(dtype), torch.linspace(0, 1, 5, dtype=dtype)
    y0 = Y0.to(dtype).requires_grad_()
    ys = odeint(field, y0, t, **options)
    assert "_FunctionBackward" in str(ys.grad_fn)
    found = torch.autograd.grad(ys.square().sum(), [y0, field.rate], create_graph=True)
    calls = []

    def counted(t, y):  # what changes is not watched
        calls.append(t)
        return field(t, y)

    theirs = odeint(counted, y0, t, **options)
    assert "_FunctionBackward" not in str(theirs.grad_fn)
    expected = torch.autograd.grad(theirs.square().sum(), [y0, field.rate], create_graph=True)
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype is F64 else {"rtol": 1e-4, "atol": 1e-5}
    for a, b in zip([ys, *found], [theirs, *expected], strict=True):
        torch.testing.assert_close(a, b, **close)
    twice, expected_twice = (torch.autograd.grad(g[0].sum(), field.rate)[0] for g in (found, expected))
    torch.testing.assert_close(twice, expected_twice, **close)
    with torch.no_grad():
        torch.testing.assert_close(odeint_adjoint(field, y0, t, **options), theirs.detach(), **close)


def test_times_too_many_to_be_compared_are_no_key_and_no_warning():
    """Nor are times that are learnt."""
    net, always = Decay(), torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # PyTorch says many things but once
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                sol = solve_ivp(net, (0.0, 1.0), Y0, t_eval=torch.linspace(0, 1, 5000, dtype=F64))
                end = torch.tensor(1.0, dtype=F64, requires_grad=True)
                solve_ivp(net, (0.0, end), Y0).ys.sum().backward()
    finally:
        torch.set_warn_always(always)
    assert not said
    assert sol.ys.shape == (5000, 3, 2)
    assert end.grad.isfinite()
