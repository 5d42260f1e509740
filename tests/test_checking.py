"""`check_gradients` tells what gradient methods do on a problem: how exact they are, what they cost, which refuse."""

import math

import pytest
import torch

from gradient_checks import F64, Nonlinear, central_differences
from thalweg import Adjoint, check_gradients, solve_ivp
from thalweg.gradients import GRADIENTS


def problem(dtype=F64, rows=3):
    torch.manual_seed(0)
    field = Nonlinear().to(dtype)
    y0 = torch.randn(rows, 2, dtype=dtype, requires_grad=True)
    k = torch.randn(2, dtype=dtype, requires_grad=True)
    return field, (0.0, 1.0), y0, k


def by_name(report):
    return {row.gradient: row for row in report.rows}


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_all_methods_are_tried_and_the_exact_ones_are_known(batching):
    """With steps of a given size the discrete gradients are those of differences, and the adjoint's is not."""
    field, t_span, y0, k = problem()
    rows = by_name(check_gradients(field, t_span, y0, "rk4", args=(k,), step_size=0.25, batching=batching, repeats=1))
    assert list(rows) == list(GRADIENTS)
    for name in ("direct", "checkpointed", "forward"):
        assert rows[name].to_differences < 1e-7
        assert rows[name].to_direct < 1e-12
    assert 1e-6 < rows["adjoint"].to_differences < 1e-2
    assert rows["adjoint"].to_direct == pytest.approx(rows["adjoint"].to_differences, rel=1e-2)


def test_distances_are_those_that_hands_measure():
    """One source, moved number by number: the same as finite differences of the whole gradient."""
    k = torch.tensor([0.5, 1.5], dtype=F64, requires_grad=True)

    def end(gradient):
        sol = solve_ivp(
            lambda t, y, k: -k * y**2, (0.0, 1.0), torch.ones(2, dtype=F64), "rk4", args=(k,), step_size=0.5,
            gradient=gradient,
        )  # fmt: skip
        return sol.ys[-1].square().sum()

    (found,) = torch.autograd.grad(end("adjoint"), [k])
    expected = central_differences(lambda: end("direct").item(), k)
    report = check_gradients(
        lambda t, y, k: -k * y**2, (0.0, 1.0), torch.ones(2, dtype=F64), "rk4", args=(k,), step_size=0.5,
        methods=["adjoint"], repeats=1,
    )  # fmt: skip
    distance = ((found - expected).norm() / expected.norm()).item()
    assert report.rows[0].to_differences == pytest.approx(distance, rel=1e-4)


def test_float32_is_set_beside_float64():
    """The distance of an exact gradient is the rounding of float32, which differences there could not see."""
    field, t_span, y0, k = problem(torch.float32)
    report = check_gradients(field, t_span, y0, "rk4", args=(k,), step_size=0.1, methods=["checkpointed"], repeats=1)
    assert "float64" in report.differences
    assert report.rows[0].to_differences < 1e-5


def test_a_field_that_float64_does_not_go_through_is_taken_as_it_is():
    k = torch.tensor([0.5], requires_grad=True)

    def field(t, y):
        return (-k * y).float()

    report = check_gradients(field, (0.0, 1.0), torch.ones(1), "rk4", step_size=0.25, methods=["direct"], repeats=1)
    assert "own precision" in report.differences
    assert report.rows[0].to_differences < 1e-3


def test_a_gradient_that_is_cut_is_found_out():
    """The field hides half of its gradient, from every method alike: only the differences show it."""
    k = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    report = check_gradients(lambda t, y: -k.detach() * k * y, (0.0, 1.0), torch.ones(2, dtype=F64), repeats=1)
    for row in report.rows:
        assert row.to_differences == pytest.approx(0.5, rel=1e-2)
        assert row.to_direct < 1e-2
    assert "detach()" in report.recommendation


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_differences_are_taken_of_what_a_scripted_module_holds():
    """It would not be moved, and an exact gradient would be far from them."""
    module = torch.jit.script(torch.nn.Linear(2, 2, dtype=F64))
    report = check_gradients(
        lambda t, y: module(y), (0.0, 1.0), torch.ones(3, 2, dtype=F64), methods=["direct"], repeats=1
    )
    assert math.isnan(by_name(report)["direct"].to_differences)
    assert "cannot be moved" in report.differences


def test_many_numbers_are_moved_together():
    field = torch.nn.Linear(8, 8, dtype=F64)
    report = check_gradients(
        lambda t, y: torch.tanh(field(y)), (0.0, 1.0), torch.ones(8, dtype=F64), "rk4", step_size=0.25, directions=5,
        repeats=1,
    )  # fmt: skip
    assert "5 random directions" in report.differences
    assert "72 numbers" in report.problem
    assert by_name(report)["checkpointed"].to_differences < 1e-6


def test_those_that_refuse_say_why():
    field, t_span, y0, k = problem()
    rows = by_name(check_gradients(field, t_span, y0, "rodas5p", args=(k,), methods=["forward", "direct"], repeats=1))
    assert "Jacobians" in rows["forward"].refusal
    assert math.isnan(rows["forward"].to_direct)
    assert not rows["direct"].refusal


def test_evaluations_are_counted_by_pass():
    field, t_span, y0, k = problem()
    rows = by_name(check_gradients(field, t_span, y0, "rk4", args=(k,), step_size=0.25, repeats=1))
    assert rows["direct"].nfev_forward == 16
    assert rows["direct"].nfev_backward == 0
    assert rows["adjoint"].nfev_forward == 16
    assert rows["adjoint"].nfev_backward >= 16


def test_memory_grows_with_the_steps_where_a_graph_is_kept():
    field, t_span, y0, k = problem(rows=500)

    def held(step_size):
        report = check_gradients(
            field, t_span, y0, "rk4", args=(k,), step_size=step_size, methods=["direct", "adjoint"], repeats=1,
            directions=1,
        )  # fmt: skip
        return {row.gradient: (row.bytes_held, row.bytes_peak) for row in report.rows}

    few, many = held(0.25), held(0.025)
    for i in range(2):
        assert many["direct"][i] == pytest.approx(10 * few["direct"][i], rel=0.2)
        assert many["adjoint"][i] < 1.5 * few["adjoint"][i]
    assert few["direct"][0] > 16 * y0.nbytes
    assert few["direct"][0] <= few["direct"][1]


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_memory_is_followed_in_forward_mode_to_times_and_arguments(batching):
    """Some tangents there have no memory. What is held: outputs, a tangent of each source, the graph of the loss."""
    t0, t1, k = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.0, 1.0, 0.5))
    y0 = torch.ones(500, 2, dtype=F64)

    def field(t, y, k):
        return -k * y * t * torch.sign(k)  # whose derivative has none either

    report = check_gradients(
        field, (t0, t1), y0, args=(k,), batching=batching, methods=["forward"], directions=1, repeats=1
    )
    rows = by_name(report)
    assert rows["forward"].to_direct < 1e-12
    outputs = 2 * y0.nbytes
    assert 4 * outputs <= rows["forward"].bytes_held <= 8 * outputs
    assert rows["forward"].bytes_held < rows["forward"].bytes_peak


def test_methods_by_names_of_ones_own_and_a_loss():
    field, t_span, y0, k = problem()
    report = check_gradients(
        field, t_span, y0, t_eval=[0.5, 1.0], args=(k,), loss=lambda sol: sol.ys[0].sin().sum(),
        methods={"loose": Adjoint(rtol=1e-2), "tight": Adjoint(rtol=1e-10, atol=1e-12)}, rtol=1e-10, atol=1e-12,
        repeats=1,
    )  # fmt: skip
    rows = by_name(report)
    assert rows["tight"].to_differences < 1e-6 < rows["loose"].to_differences
    assert "None of these is exact" in report.recommendation or "tight" in report.recommendation


def test_the_report_is_a_table():
    field, t_span, y0, k = problem()
    report = check_gradients(field, t_span, y0, "kvaerno3", args=(k,), methods=["checkpointed", "forward"], repeats=1)
    lines = str(report).split("\n")
    assert lines[0] == "differentiated by 12 numbers: y0 6, args 2, held by the field 4"
    assert lines[3].split("  ")[0] == "gradient"
    assert "to differences  to direct" in lines[3]
    assert lines[5].startswith("checkpointed")
    assert any(line.startswith("forward: gradient='forward' cannot") for line in lines)
    assert lines[-1].startswith("Choose checkpointed")
    assert max(map(len, lines)) <= 100


def test_what_is_wrong_with_the_problem_is_an_error_and_not_a_refusal():
    k = torch.ones(2, dtype=F64, requires_grad=True)
    with pytest.raises(ValueError, match="must return the shape of y"):
        check_gradients(lambda t, y: y @ k, (0.0, 1.0), torch.ones(2, dtype=F64))


def test_other_libraries_have_the_adjoint_alone():
    k = torch.ones(2, dtype=F64, requires_grad=True)
    report = check_gradients(lambda t, y: -k * y, (0.0, 1.0), torch.ones(2, dtype=F64), "scipy:LSODA", repeats=1)
    able = [row for row in report.rows if not row.refusal]
    assert [row.gradient for row in able] == ["adjoint"]
    assert able[0].to_differences < 1e-2
    assert math.isnan(able[0].to_direct)
    assert "None of these is exact here; adjoint is nearest" in report.recommendation


def test_a_gradient_of_zero_is_one():
    """Of an argument that the field does not use, for the differences and for all methods alike."""
    k = torch.ones(2, dtype=F64, requires_grad=True)
    report = check_gradients(lambda t, y, k: -y, (0.0, 1.0), torch.ones(2, dtype=F64), args=(k,), repeats=1)
    for row in report.rows:
        assert not row.refusal
        assert row.to_differences == row.to_direct == 0
    assert report.recommendation.startswith("Choose ")


def test_a_field_that_draws_anew_at_each_call_is_found_out():
    k = torch.ones(2, dtype=F64, requires_grad=True)
    torch.manual_seed(0)
    report = check_gradients(
        lambda t, y: -k * torch.nn.functional.dropout(y), (0.0, 1.0), torch.ones(2, dtype=F64), "rk4", step_size=0.25,
        methods=["checkpointed"], repeats=1,
    )  # fmt: skip
    assert "another one at each call" in report.recommendation


def test_where_there_are_no_differences_the_reason_is_told():
    t_eval = torch.tensor([0.5, 1.0], dtype=F64, requires_grad=True)  # the last cannot move on
    report = check_gradients(
        lambda t, y: -y, (0.0, 1.0), torch.ones(2, dtype=F64), t_eval=t_eval, methods=["direct"], repeats=1
    )
    assert "no differences: t_eval must lie within t_span" in report.differences


def test_nothing_is_left_behind():
    """No gradient is put into .grad, no value moved, and the default gradient methods are as they were."""
    field, t_span, y0, k = problem()
    before = [x.detach().clone() for x in (y0, k, field.weight)]
    check_gradients(field, t_span, y0, args=(k,), methods=["direct"], repeats=1)
    for x, value in zip((y0, k, field.weight), before, strict=True):
        assert torch.equal(x, value)
        assert x.grad is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"args": (torch.ones(2, dtype=F64),)}, ValueError, "nothing needs a gradient"),
        ({"methods": "direct"}, ValueError, r"write \['direct'\]"),
        ({"methods": ["secret"]}, ValueError, "holds 'secret', but"),
        ({"gradient": "direct"}, ValueError, "name those to try in methods="),
        ({"repeats": 0}, ValueError, "repeats must be a positive integer"),
        ({"loss": lambda sol: (sol.ys[-1] - 2).sqrt().sum()}, ValueError, "the loss is nan"),
        ({"loss": lambda sol: sol.ys[-1]}, TypeError, r"one real number as a tensor, got a tensor of shape \(2,\)"),
    ],
)
def test_arguments_that_cannot_be(change, error, message):
    k = torch.ones(2, dtype=F64, requires_grad=True)
    with pytest.raises(error, match=message):
        check_gradients(lambda t, y, k: -k * y, (0.0, 1.0), torch.ones(2, dtype=F64), **{"args": (k,), **change})
