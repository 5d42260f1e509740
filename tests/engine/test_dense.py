"""Dense output of the engine is that of the eager loop: the same steps, and the same states inside of them."""

import pytest
import torch
from torch import nn

from thalweg import solve_ivp

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

F64 = torch.float64
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)  # the same network in each run
    NET = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double().requires_grad_(False)
METHODS = ["tsit5", "bosh3", "rk4", "dopri8", "vern9", "rosenbrock23", "rodas5p"]


def timed(t, y):
    return NET(y) * (1 + t)


def both(fun, span, y0, **options):
    return [solve_ivp(fun, span, y0, dense_output=True, backend=backend, **options) for backend in ("native", "eager")]


def assert_alike(ours, theirs, t, tolerance=1e-9):
    assert (ours.stats.backend, theirs.stats.backend) == ("native", "eager")
    assert torch.equal(torch.as_tensor(ours.stats.nfev), torch.as_tensor(theirs.stats.nfev))
    found, expected = ours.sol(t), theirs.sol(t)
    for x, y in zip(*([z] if isinstance(z, torch.Tensor) else z for z in (found, expected)), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, -0.5)])
@pytest.mark.parametrize("method", METHODS)
def test_of_each_method(method, span, batching):
    """Inside every step, beyond outputs that are asked for too, in several tiles and by several threads."""
    torch.manual_seed(0)
    y0 = torch.randn(70, 3, dtype=F64)
    # errors that methods of high orders estimate are little but rounding, and their steps would follow it
    size = {"step_size": 0.07} if method in ("rk4", "dopri8", "vern9") else {"rtol": 1e-5}
    for t_eval in (None, [span[0], 0.3, span[1]]):
        ours, theirs = both(timed, span, y0, method=method, batching=batching, t_eval=t_eval, **size)
        assert_alike(ours, theirs, torch.linspace(*span, 33, dtype=F64), 1e-9 if method in METHODS[:3] else 1e-6)
        torch.testing.assert_close(ours.sol(ours.sol.ts)[-1], ours.ys[-1], rtol=1e-10, atol=1e-10)


def test_of_rows_with_spans_of_their_own():
    """Some with nothing to do, and some that fail."""
    t0 = torch.tensor([0.0, 0.0, 1.0, 0.5, 0.0], dtype=F64)
    t1 = torch.tensor([1.0, 0.0, 0.0, 3.0, 2.0], dtype=F64)
    y0 = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0], dtype=F64)[:, None]
    ours, theirs = both(lambda t, y: y * y, (t0, t1), y0, batching="per_sample", on_failure="return", max_steps=60)
    assert ours.success.tolist() == [False, True, True, False, False]
    assert torch.equal(ours.success, theirs.success)
    t = t0 + 0.9 * (ours.sol.ts[-1] - t0) * torch.linspace(0, 1, 9, dtype=F64)[:, None]
    assert_alike(ours, theirs, t, 1e-7)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_of_pytrees(batching):
    """Rows that do not talk in joint batching are samples; rows that do are one."""
    y0 = {"p": torch.randn(4, 3, dtype=F64), "q": torch.randn(4, dtype=F64)}
    fields = [lambda t, y: {"p": NET(y["p"]), "q": -y["q"] * t}]
    if batching == "joint":
        fields.append(lambda t, y: {"p": NET(y["p"]), "q": y["q"].mean() - y["q"]})
    for fun in fields:
        ours, theirs = both(fun, (0.0, 1.0), y0, batching=batching)
        found, expected = ours.sol(0.4), theirs.sol(0.4)
        assert found.keys() == expected.keys()
        for name in y0:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_of_no_time_at_all(batching):
    y0 = torch.randn(2, 3, dtype=F64)
    ours, theirs = both(timed, (0.5, 0.5), y0, batching=batching)
    assert torch.equal(ours.sol(0.5), y0)
    assert torch.equal(ours.sol.ts, theirs.sol.ts)


def test_float32_and_single_numbers():
    ours, theirs = both(lambda t, y: -y, (0.0, 1.0), torch.tensor(1.0))
    assert ours.sol(0.3).dtype == torch.float32
    torch.testing.assert_close(ours.sol(0.3), theirs.sol(0.3))


def test_where_a_parameter_needs_a_gradient_it_is_left_to_pytorch():
    net = nn.Linear(3, 3).double()
    sol = solve_ivp(lambda t, y: net(y), (0.0, 1.0), torch.randn(2, 3, dtype=F64), dense_output=True)
    assert sol.stats.backend == "eager"
    with pytest.raises(ValueError, match="dense_output"):
        solve_ivp(lambda t, y: net(y), (0.0, 1.0), torch.randn(2, 3, dtype=F64), dense_output=True, backend="native")
    with torch.no_grad():
        sol = solve_ivp(lambda t, y: net(y), (0.0, 1.0), torch.randn(2, 3, dtype=F64), dense_output=True)
    assert sol.stats.backend == "native"
