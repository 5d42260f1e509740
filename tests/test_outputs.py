"""Outputs: times of fewer digits, rows with fewer times than others, and states of 16 bits."""

import numpy as np
import pytest
import torch

from thalweg import SolveError, solve_ivp

F64 = torch.float64
NAN = float("nan")
TIMES = torch.tensor([[0.0, 0.5, 0.2], [0.3, 2.0, NAN], [0.3, NAN, NAN], [1.0, NAN, NAN]], dtype=F64)
ENDS = torch.tensor([1.0, 2.0, 0.5], dtype=F64)
RATES = torch.tensor([[1.0], [3.0], [0.5]], dtype=F64)


def decay(t, y, rate):
    return -rate * y + torch.sin(t)


def ragged(times=TIMES, rows=(0, 1, 2), y0=None, rate=RATES, **options):
    rows = list(rows)
    y0 = torch.ones(3, 2, dtype=F64) if y0 is None else y0
    options = {"rtol": 1e-9, "atol": 1e-9, "batching": "per_sample", **options}
    return solve_ivp(decay, (0.0, ENDS[rows]), y0[rows], t_eval=times[:, rows], args=(rate[rows],), **options)


class TestTimesOfFewerDigits:
    """0.6 and 0.7 in single precision lie beyond the numbers 0.6 and 0.7, above and below."""

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize(
        ("span", "times"),
        [
            ((0.0, 0.6), torch.linspace(0, 0.6, 4)),
            ((0.6, 0.0), torch.linspace(0.6, 0, 4)),
            ((0.7, 1.0), np.linspace(0.7, 1, 4, dtype=np.float32)),
            ((0.0, torch.tensor(0.7)), [0.0, 0.3, 0.7]),
            (torch.tensor([0.0, 0.7]), torch.linspace(0, 0.7, 4, dtype=F64)),
        ],
    )
    def test_an_end_of_the_span_is_one_of_its_times(self, batching, span, times):
        sol = solve_ivp(lambda t, y: -y, span, torch.ones(1, 1, dtype=F64), t_eval=times, batching=batching)
        expected = torch.exp(sol.ts.flatten()[0] - sol.ts.flatten())
        torch.testing.assert_close(sol.ys.flatten(), expected, rtol=1e-3, atol=0)
        assert sol.ts.flatten()[[0, -1]].tolist() == [float(t) for t in span]

    def test_it_keeps_its_gradient(self):
        """As that of t, of dy/dt = t from 0: at 0.6 it is 0.6."""
        times = torch.linspace(0, 0.6, 3, requires_grad=True)
        sol = solve_ivp(lambda t, y: t.expand_as(y), (0.0, 0.6), torch.zeros(1, dtype=F64), t_eval=times)
        (slope,) = torch.autograd.grad(sol.ys.sum(), times)
        torch.testing.assert_close(slope, times.detach())

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("span", [(0.0, 0.6), (0.6, 0.0)])
    def test_a_dense_solution_reaches_to_it(self, batching, span):
        y0 = torch.ones(2, 1, dtype=F64)
        sol = solve_ivp(lambda t, y: -y, span, y0, dense_output=True, batching=batching)
        assert torch.equal(sol(torch.linspace(0, 0.6, 3)), sol(torch.tensor([0.0, 0.3, 0.6]).double().clamp(max=0.6)))
        with pytest.raises(ValueError, match="t must lie between the ends"):
            sol(0.6000001)

    @pytest.mark.parametrize("times", [[0.6000001], torch.tensor([0.6000002])])
    def test_what_differs_in_its_digits_lies_outside(self, times):
        with pytest.raises(ValueError, match="t_eval must lie within t_span"):
            solve_ivp(lambda t, y: -y, (0.0, 0.6), torch.ones(1), t_eval=times)


class TestRaggedTimes:
    @pytest.mark.parametrize(
        "options", [{}, {"shrink": True}, {"dense_output": True}, {"events": lambda t, y, r: y[:, 0] - 9}]
    )
    def test_each_row_has_the_outputs_that_it_has_alone(self, options):
        sol = ragged(**options)
        assert torch.equal(sol.ts.isnan(), TIMES.isnan())
        for row in range(3):
            count = int((~TIMES[:, row].isnan()).sum())
            alone = solve_ivp(
                decay, (0.0, ENDS[row].item()), torch.ones(1, 2, dtype=F64), t_eval=TIMES[:count, row],
                args=(RATES[row : row + 1],), rtol=1e-9, atol=1e-9, batching="per_sample",
            )  # fmt: skip
            torch.testing.assert_close(sol.ys[:count, row], alone.ys[:, 0], rtol=1e-12, atol=0)
            assert sol.ys[count:, row].isnan().all()

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating"])
    def test_gradients_pass_by_what_is_not_there(self, gradient):
        """To y0, to arguments and to the times that there are; the sum is of these outputs."""
        y0, rate = torch.ones(3, 2, dtype=F64, requires_grad=True), RATES.clone().requires_grad_()
        times = TIMES.clone().requires_grad_()
        found = torch.autograd.grad(
            ragged(times, y0=y0, rate=rate, gradient=gradient).ys.nansum(), [y0, rate, times], materialize_grads=True
        )
        expected = [torch.zeros_like(y0), torch.zeros_like(rate), torch.zeros_like(times)]
        for row in range(3):
            count = int((~TIMES[:, row].isnan()).sum())
            sol = ragged(times[:count], rows=[row], y0=y0, rate=rate, gradient="direct")
            for total, part in zip(expected, torch.autograd.grad(sol.ys.sum(), [y0, rate, times]), strict=True):
                total += part
        for gradient_found, gradient_expected in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient_found, gradient_expected, rtol=1e-6, atol=1e-6)

    def test_a_row_without_any(self):
        times = torch.tensor([[0.5, NAN], [1.0, NAN]], dtype=F64)
        sol = solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2, 1, dtype=F64), t_eval=times, batching="per_sample")
        assert sol.ys[:, 1].isnan().all()
        assert not sol.ys[:, 0].isnan().any()

    def test_nan_between_times_is_refused(self):
        times = torch.tensor([[0.1, NAN], [0.5, 0.7]], dtype=F64)
        with pytest.raises(ValueError, match="NaN only after all times of a row"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2, 1, dtype=F64), t_eval=times, batching="per_sample")

    def test_in_joint_a_time_is_a_number(self):
        with pytest.raises(ValueError, match="holds nan"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2, 1, dtype=F64), t_eval=[0.1, NAN])


class TestProgress:
    """A bar on standard error, which ends where the solve does; nothing else changes."""

    @pytest.mark.parametrize(
        ("method", "options"),
        [("tsit5", {}), ("tsit5", {"batching": "per_sample", "shrink": True}), ("scipy:RK45", {}), ("rodas5p", {})],
    )
    def test_it_ends_with_the_solve(self, method, options, capsys):
        solved = [
            solve_ivp(
                lambda t, y: -y,
                (0.0, 2.0),
                torch.ones(2, 1, dtype=F64),
                method,
                progress=progress,
                backend="eager",
                **options,
            )
            for progress in (True, False)
        ]
        shown = capsys.readouterr()
        assert not shown.out
        steps = int(torch.as_tensor(solved[0].stats.n_steps).max())
        for part in ("t = 2", "100%", f"{steps} steps, h = "):
            assert part in shown.err
        assert torch.equal(solved[0].ys, solved[1].ys)

    def test_a_solve_that_fails_says_how_far_it_came(self, capsys):
        with pytest.raises(SolveError):
            solve_ivp(lambda t, y: y**2, (0.0, 2.0), torch.ones(1, dtype=F64), progress=True)
        assert "t = 1" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
class TestSixteenBits:
    """Values and gradients to what the dtype holds."""

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating"])
    def test_values_and_gradients(self, dtype, batching, gradient):
        y0 = torch.linspace(0.5, 1.5, 6).view(3, 2).to(dtype).requires_grad_()
        tolerance = 10 * torch.finfo(dtype).eps
        sol = solve_ivp(
            lambda t, y: -y + torch.sin(t), (0.0, 1.0), y0, "dopri5", (0.0, 0.5, 1.0), batching=batching,
            gradient=gradient, rtol=tolerance, atol=tolerance,
        )  # fmt: skip
        assert sol.ys.dtype == dtype
        exact = solve_ivp(
            lambda t, y: -y + torch.sin(t), (0.0, 1.0), y0.detach().double(), "vern7", rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(sol.ys[-1].double(), exact.ys[-1], rtol=tolerance, atol=tolerance)
        (found,) = torch.autograd.grad(sol.ys[-1].sum(), y0)
        torch.testing.assert_close(found.double(), torch.full((3, 2), -1.0, dtype=F64).exp(), rtol=tolerance, atol=0.0)

    def test_tolerances_that_the_dtype_cannot_hold_next_to_zero(self, dtype, batching):
        """An entry that stays 0 is allowed an error that is less than the least number of 16 bits, and has none."""
        y0 = torch.tensor([[0.0, 1.0]], dtype=dtype)
        sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, "tsit5", rtol=0.1, atol=1e-12, batching=batching)
        assert torch.equal(sol.ys[-1, :, 0], torch.zeros(1, dtype=dtype))
