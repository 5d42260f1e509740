"""Failed rows: their gradient says so, and no other row's feels it."""

import pytest
import torch

from thalweg import Checkpointed, Status, solve_ivp

F64 = torch.float64


def blow_up(t, y):
    return y * y


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating", "forward"])
def test_gradients_of_good_rows_are_those_that_they_have_alone(gradient):
    """y' = y², which leaves for infinity at t = 1 / y0."""
    y0 = torch.tensor([[0.3], [2.0], [-1.0]], dtype=F64, requires_grad=True)
    sol = solve_ivp(
        blow_up,
        (0.0, 1.0),
        y0,
        rtol=1e-8,
        atol=1e-8,
        batching="per_sample",
        gradient=gradient,
        on_failure="return",
        max_steps=500,
    )
    assert sol.success.tolist() == [True, False, True]
    assert torch.isnan(sol.ys[-1, 1]).all()
    (found,) = torch.autograd.grad(sol.ys[-1, [0, 2]].sum(), [y0])
    good = y0.detach()[[0, 2]]
    torch.testing.assert_close(found[[0, 2]], 1 / (1 - good) ** 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["euler", "tsit5"])
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", Checkpointed(memory_limit=0), "reversible", "forward"])
@pytest.mark.parametrize("start", ["overflows", "not finite"])
def test_a_row_that_overflows_by_steps_of_one_size_leaves_shared_gradients_as_they_are(method, gradient, start):
    """A weight that all rows share: 0 times infinity would be NaN."""
    field, y0 = {
        "overflows": (lambda t, y, w: w * y * y, [[0.3], [1e3], [-1.0]]),
        "not finite": (lambda t, y, w: w * y.log(), [[3.0], [-1.0], [2.0]]),
    }[start]

    def solved(rows):
        weight = torch.tensor(0.5, dtype=F64, requires_grad=True)
        start = torch.tensor(y0, dtype=F64)[rows]
        sol = solve_ivp(
            field, (0, 1), start, method, [0.3, 1], args=weight, step_size=0.1, batching="per_sample",
            gradient=gradient, backend="eager", on_failure="return",
        )  # fmt: skip
        return sol, torch.autograd.grad(sol.ys[:, sol.success].square().sum(), [weight])[0]

    sol, found = solved([0, 1, 2])
    assert sol.status.tolist() == [Status.SUCCESS, Status.NONFINITE, Status.SUCCESS]
    assert torch.isnan(sol.ys[-1, 1]).all()
    torch.testing.assert_close(found, solved([0, 2])[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "forward"])
def test_outputs_before_the_failure_have_gradients(gradient):
    y0 = torch.tensor([2.0], dtype=F64, requires_grad=True)
    sol = solve_ivp(
        blow_up,
        (0.0, 1.0),
        y0,
        t_eval=[0.1, 0.2, 0.9],
        rtol=1e-8,
        atol=1e-8,
        gradient=gradient,
        on_failure="return",
        max_steps=500,
    )
    assert sol.status in (Status.STEP_UNDERFLOW, Status.NONFINITE, Status.MAX_STEPS)
    (found,) = torch.autograd.grad(sol.ys[1].sum(), [y0])
    torch.testing.assert_close(found, 1 / (1 - 0.2 * y0.detach()) ** 2, rtol=1e-6, atol=0)


def test_the_adjoint_says_why_it_cannot_go_back():
    y0 = torch.tensor([2.0], dtype=F64, requires_grad=True)
    sol = solve_ivp(blow_up, (0.0, 1.0), y0, t_eval=[0.1, 0.9], gradient="adjoint", on_failure="return", max_steps=100)
    with pytest.raises(RuntimeError, match="checkpointed"):
        sol.ys[0].sum().backward()
