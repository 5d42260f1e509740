"""The loop's arithmetic by compiled code is PyTorch's, to rounding: the same steps, counts and statuses."""

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import Checkpointed, solve_ivp
from thalweg.core import compiled
from thalweg.methods import methods
from thalweg.methods.tableau import Tableau

pytestmark = pytest.mark.skipif(compiled.native is None, reason="there is no compiled code")

EXPLICIT = [method for method in methods() if isinstance(method.data, Tableau)]
TELLING = [method.name for method in EXPLICIT if method.data.b_error and method.order < 8]
"""Beyond that order an error is found as the small difference of large numbers, whose rounding makes other steps."""


def by_pytorch():
    """Inside, every tensor is too large for compiled code."""
    return patch.object(compiled, "_LARGEST", 0)


def both(*args, **options):
    found = solve_ivp(*args, backend="eager", on_failure="return", **options)
    with by_pytorch():
        return found, solve_ivp(*args, backend="eager", on_failure="return", **options)


def assert_same(found, expected, rtol):
    for name in ("n_steps", "n_accepted", "nfev"):
        assert torch.equal(*(torch.as_tensor(getattr(x.stats, name)) for x in (found, expected))), name
    assert torch.equal(*(torch.as_tensor(x.status) for x in (found, expected)))
    torch.testing.assert_close(found.ys, expected.ys, rtol=rtol, atol=rtol, equal_nan=True)


def pendulum(t, y, rate):
    return torch.stack([y[..., 1], -rate * y[..., 0].sin() - 0.1 * torch.cos(t.reshape(-1)) * y[..., 1]], -1)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", TELLING)
def test_steps_are_the_same(method, batching):
    y0 = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rate = torch.linspace(0.5, 9.0, 7, dtype=torch.float64)
    for t_span, outputs in (((0.0, 3.0), None), ((3.0, -1.0), torch.linspace(3.0, -1.0, 5, dtype=torch.float64))):
        found, expected = both(
            pendulum, t_span, y0, method, outputs, args=(rate,), rtol=1e-8, atol=1e-9, batching=batching
        )
        assert_same(found, expected, 1e-11)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", EXPLICIT, ids=lambda method: method.name)
def test_sums_are_the_same(method, batching):
    y0 = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rate, times = torch.linspace(0.5, 9.0, 7, dtype=torch.float64), torch.linspace(0.0, 2.0, 9, dtype=torch.float64)
    found, expected = both(
        pendulum, (0.0, 2.0), y0, method.name, times, args=(rate,), step_size=0.17, batching=batching
    )
    largest = max(abs(weight) for row in method.data.a for weight in (*row, 0.0))  # vern8's reach 1,000
    assert_same(found, expected, 1e-14 * max(10, largest))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    single=st.booleans(),
    by_row=st.booleans(),
    log_rtol=st.integers(-7, -3),
    ends=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    seed=st.integers(0, 99),
)
def test_of_any_shape(shape, single, by_row, log_rtol, ends, seed):
    dtype = torch.float32 if single else torch.float64
    y0 = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    batching, tolerance = "per_sample" if by_row else "joint", 10.0 ** max(log_rtol, -5 if single else -7)
    # The slope of the field is below 1.6, so that rounding grows by no more than e^6.4, and no tolerance is so rough
    # that the answer hangs on the last bits of how long a step is.
    found, expected = both(
        lambda t, y: torch.sin(y) - 0.3 * y * t, ends, y0, rtol=tolerance, atol=tolerance, batching=batching
    )
    if single:  # a decision may fall the other way by rounding
        torch.testing.assert_close(found.ys, expected.ys, rtol=30 * tolerance, atol=30 * tolerance)
    else:
        assert_same(found, expected, 1e-10)


def test_rows_with_times_of_their_own_and_rows_that_fail():
    y0 = torch.tensor([[1.0], [2.0], [-1.0], [0.5], [3.0]], dtype=torch.float64)
    t0 = torch.tensor([0.0, 0.0, 1.0, 0.5, -1.0], dtype=torch.float64)
    t1 = torch.tensor([1.0, 3.0, 1.0, -2.0, 2.0], dtype=torch.float64)

    def field(t, y):
        blown = y**2  # the second row ends in a pole at t = 1/2
        broken = torch.where(t > 1.0, torch.nan, -y)  # and the last where there is no number
        return torch.cat([-y[:1], blown[1:2], -y[2:4], broken[4:]])

    found, expected = both(field, (t0, t1), y0, batching="per_sample", rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.ys, expected.ys, rtol=1e-10, atol=1e-10, equal_nan=True)
    ended = torch.tensor([True, False, True, True, False])
    for x in (found, expected):
        assert torch.equal(x.status == 0, ended)
    assert torch.equal(found.stats.nfev[ended], expected.stats.nfev[ended])
    assert found.status[1] == expected.status[1]
    assert found.status[4] == expected.status[4]
    assert found.ys[-1, 0].item() == pytest.approx(math.exp(-1), rel=1e-5)


@pytest.mark.parametrize("options", [{"shrink": True}, {"max_steps": 5}, {"first_step": 0.01}, {"dense_output": True}])
def test_with_what_else_a_solve_may_be_asked(options):
    y0 = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rate = torch.linspace(0.1, 40.0, 9, dtype=torch.float64)
    with torch.no_grad():
        found, expected = both(pendulum, (0.0, 4.0), y0, args=(rate,), batching="per_sample", rtol=1e-6, **options)
    assert_same(found, expected, 1e-11)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_gradients_are_the_same(batching):
    gradients = []
    for limit in (compiled._LARGEST, 0):
        y0 = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
        rate = torch.linspace(0.5, 9.0, 4, dtype=torch.float64, requires_grad=True)
        with patch.object(compiled, "_LARGEST", limit):
            end = solve_ivp(
                pendulum, (0.0, 2.0), y0, args=(rate,), rtol=1e-6, batching=batching, backend="eager",
                gradient=Checkpointed(memory_limit=1),
            ).ys[-1]  # fmt: skip
            gradients.append(torch.autograd.grad(end.square().sum(), [y0, rate]))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["a view", "a sign that is a flag", "expanded", "transposed"])
def test_states_that_do_not_lie_in_a_row(kind):
    z = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3) / 10
    y0 = {
        "a view": z[:, ::2],
        "a sign that is a flag": torch.complex(z, z).conj().imag,
        "expanded": z[:1].expand(4, 3),
        "transposed": z.t(),
    }[kind]
    found = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, rtol=1e-9, atol=1e-12, batching="per_sample", backend="eager")
    torch.testing.assert_close(found.ys[-1], y0 * math.exp(-1), rtol=1e-7, atol=0)


def test_slopes_that_do_not_lie_in_a_row():
    """A field may return its slope transposed, or expanded: of a row's steps, recorded or not."""
    y0 = torch.linspace(0.5, 1.5, 12, dtype=torch.float64).view(4, 3).requires_grad_()
    turn = torch.tensor([[-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.0, -2.0]], dtype=torch.float64)
    turned = torch.linalg.matrix_exp(turn)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            end = solve_ivp(
                lambda t, y: (turn @ y.t()).t(), (0.0, 1.0), y0, rtol=1e-9, atol=1e-12, batching="per_sample",
                backend="eager", gradient="direct",
            ).ys[-1]  # fmt: skip
        torch.testing.assert_close(end, y0 @ turned.t(), rtol=1e-7, atol=1e-9)
    with torch.no_grad():
        end = solve_ivp(
            lambda t, y: y.new_tensor(1.0).expand(4, 3), (0.0, 1.0), y0, batching="per_sample", backend="eager"
        ).ys[-1]
    torch.testing.assert_close(end, y0 + 1)
