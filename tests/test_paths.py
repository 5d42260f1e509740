"""Paths are what SciPy makes of the same data, entry by entry, and gradients of a solve reach their data."""

import copy

import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from torch.autograd import gradcheck
from torch.func import jacfwd, jacrev, vmap

import thalweg
from thalweg import solve_ivp
from thalweg.gradients.capture import captured_tensors
from thalweg.paths import CubicHermitePath, LinearPath, NaturalCubicSplinePath, RectilinearPath, StepPath

F64 = torch.float64
BOUND = 1e-12
GRADIENTS = ["direct", "checkpointed", "adjoint"]
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
KINDS = [LinearPath, CubicHermitePath, NaturalCubicSplinePath, StepPath, RectilinearPath]
INTERPOLATING = [LinearPath, CubicHermitePath, NaturalCubicSplinePath]
NAN = float("nan")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def ascending(*shape, seed=0):
    """Times from about -1, at distances of 0.2 to 1.2."""
    return (0.2 + torch.rand(*shape, dtype=F64, generator=generator(seed))).cumsum(0) - 2


def backward_slopes(ts, xs):
    lines = np.diff(xs, axis=0) / np.diff(ts).reshape(-1, *(1,) * (xs.ndim - 1))
    return np.concatenate([lines[:1], lines])


def reference(kind, ts, xs):
    """SciPy's piecewise polynomial for data without missing values."""
    if kind is NaturalCubicSplinePath:
        return scipy.interpolate.CubicSpline(ts, xs, bc_type="natural")
    if kind is CubicHermitePath:
        return scipy.interpolate.CubicHermiteSpline(ts, xs, backward_slopes(ts, xs))
    return scipy.interpolate.make_interp_spline(ts, xs, k=1)


def assert_close(found, expected, bound=BOUND):
    """To a bound relative to the largest entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert abs(found - expected).max(initial=0) <= bound * max(abs(expected).max(initial=0), 1)


def around(ts):
    """Times before, at, between and behind the knots."""
    middles = (ts[1:] + ts[:-1]) / 2
    return torch.cat([ts[:1] - 0.3, ts, middles, ts[:-1] + 0.9 * ts.diff(), ts[-1:] + 0.2])


class TestSciPy:
    @pytest.mark.parametrize("kind", INTERPOLATING)
    @pytest.mark.parametrize("dtype", [F64, torch.complex128])
    @settings(deadline=None, max_examples=30)
    @given(
        count=st.integers(2, 40),
        shape=st.lists(st.integers(1, 3), max_size=3),
        seed=st.integers(0, 10**6),
    )
    def test_values_and_slopes(self, kind, dtype, count, shape, seed):
        ts, xs = ascending(count, seed=seed), randn(count, *shape, seed=seed, dtype=dtype)
        path, expected = kind(ts, xs, outside="extrapolate"), reference(kind, ts.numpy(), xs.numpy())
        t = around(ts)
        assert_close(path(t), expected(t.numpy()))
        if kind is not LinearPath:  # at a knot SciPy's slope of degree 1 may be either
            assert_close(path.derivative(t), expected(t.numpy(), 1), 10 * BOUND)

    def test_given_slopes(self):
        ts, xs, slopes = ascending(12), randn(12, 2, seed=1), randn(12, 2, seed=2)
        path = CubicHermitePath(ts, xs, slopes, outside="extrapolate")
        expected, t = scipy.interpolate.CubicHermiteSpline(ts.numpy(), xs.numpy(), slopes.numpy()), around(ts)
        assert_close(path(t), expected(t.numpy()))
        assert_close(path.derivative(t), expected(t.numpy(), 1), 10 * BOUND)

    def test_a_held_line_is_that_of_numpy(self):
        ts, xs = ascending(12), randn(12)
        t = around(ts)
        assert_close(LinearPath(ts, xs)(t), np.interp(t.numpy(), ts.numpy(), xs.numpy()))

    @pytest.mark.parametrize(("continuous", "kind"), [("right", "previous"), ("left", "next")])
    def test_steps(self, continuous, kind):
        """SciPy's "next" of values that begin one earlier holds each value up to and with the next knot."""
        ts, xs = ascending(12), randn(12, 3)
        t = torch.cat([ts, (ts[1:] + ts[:-1]) / 2])
        values = xs if kind == "previous" else torch.cat([xs[:1], xs[:-1]])
        expected = scipy.interpolate.interp1d(ts.numpy(), values.numpy(), axis=0, kind=kind)
        path = StepPath(ts, xs, continuous=continuous)
        assert_close(path(t), expected(t.numpy()))
        assert not path.derivative(t).any()

    @pytest.mark.parametrize("kind", INTERPOLATING)
    def test_float32(self, kind):
        ts, xs = ascending(20), randn(20, 2)
        path = kind(ts, xs.float())
        t = torch.linspace(-1, 4, 30, dtype=F64)
        assert path(t).dtype == path.derivative(t).dtype == torch.float32
        assert_close(path(t), kind(ts, xs)(t), 2e-5)


class TestMissingValues:
    @pytest.mark.parametrize("kind", INTERPOLATING)
    @pytest.mark.parametrize("outside", ["hold", "extrapolate"])
    @settings(deadline=None, max_examples=40)
    @given(
        pattern=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=12),
        seed=st.integers(0, 99),
    )
    def test_an_entry_is_the_path_through_the_values_it_has(self, kind, outside, pattern, seed):
        there = torch.tensor(pattern)
        ts, xs = ascending(len(there), seed=seed), randn(len(there), 3, seed=seed)
        there[0] |= ~there.any(0)
        path, t = kind(ts, xs.where(there, NAN), outside=outside), around(ts)
        found, slopes = path(t), path.derivative(t)
        for j in range(3):
            known = there[:, j]
            if known.sum() == 1:
                alone, slope = xs[known, j].expand(len(t)), torch.zeros(len(t))
            else:
                expected = reference(kind, ts[known].numpy(), xs[known, j].numpy())
                start, end = ts[known][0], ts[known][-1]
                clipped = t.clamp(start, end) if outside == "hold" else t
                alone, slope = expected(clipped.numpy()), expected(t.numpy(), 1)
                slope = np.where((t >= start) & (t < end) | (end == ts[-1]) & (t == end), slope, 0.0)
                slope = slope if outside == "hold" else expected(t.numpy(), 1)
            assert_close(found[:, j], alone, 1e-11)
            if kind is not LinearPath:
                assert_close(slopes[:, j], slope, 1e-10)

    def test_steps_hold_over_them(self):
        path = StepPath(torch.arange(5.0), torch.tensor([NAN, 1.0, NAN, 3.0, NAN]))
        assert path(torch.arange(5.0)).tolist() == [1, 1, 1, 3, 3]

    def test_a_knot_without_a_slope_has_no_value(self):
        ts, xs, slopes = ascending(6), randn(6), randn(6, seed=1)
        slopes[2] = NAN
        keep = [0, 1, 3, 4, 5]
        t = around(ts)
        assert_close(CubicHermitePath(ts, xs, slopes)(t), CubicHermitePath(ts[keep], xs[keep], slopes[keep])(t))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_missing_value_has_the_gradient_zero(self, kind):
        ts, xs = ascending(7), randn(7, 2)
        xs[2:4, 0] = NAN
        xs.requires_grad_()
        kind(ts, xs)(torch.linspace(-1, 3, 20, dtype=F64)).sum().backward()
        assert xs.grad.isfinite().all()
        assert not xs.grad[2:4, 0].any()


class TestRows:
    """Rows with times of their own are each the row alone."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("outside", ["hold", "extrapolate"])
    @settings(deadline=None, max_examples=20)
    @given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=4), trailing=st.sampled_from([(1,), (2,), (2, 3)]))
    def test_a_row_among_others_is_the_row_alone(self, kind, outside, lengths, trailing):
        count, rows = max(lengths), len(lengths)
        ts, xs = ascending(count, rows), randn(count, rows, *trailing)
        for row, length in enumerate(lengths):
            ts[length:, row] = NAN
            xs[length:, row] = NAN
        path = kind(ts, xs, outside=outside)
        t = torch.cat([torch.linspace(-2, 8, 21, dtype=F64), ts[~ts.isnan()]])
        together, slopes = path(t), path.derivative(t)
        for row, length in enumerate(lengths):
            alone = kind(ts[:length, row], xs[:length, row], outside=outside)
            inside = t <= 2 * (length - 1) if kind is RectilinearPath else torch.ones_like(t, dtype=torch.bool)
            assert_close(together[inside, row], alone(t)[inside])
            inside &= t != 2 * (length - 1)  # where the slope alone is that from the left
            assert_close(slopes[inside, row], alone.derivative(t)[inside], 1e-11)

    def test_a_row_with_one_time_is_constant(self):
        ts, xs = torch.tensor([[1e9, 0.0], [NAN, 1.0]]), torch.tensor([[5.0, 1.0], [NAN, 2.0]])
        for kind in INTERPOLATING:
            path = kind(ts, xs)
            assert path(0.5).tolist() == [5.0, 1.5]
            assert path.derivative(0.5).tolist() == [0.0, 1.0]
            assert path(1e9).tolist() == [5.0, 2.0]
            assert path.derivative(1e9).tolist() == [0.0, 0.0]

    def test_a_value_at_a_time_that_is_nan_does_not_exist(self):
        ts = torch.tensor([[0.0, 0.0], [1.0, 1.0], [NAN, 2.0]])
        path = LinearPath(ts, torch.tensor([[1.0, 1.0], [2.0, 2.0], [99.0, 3.0]]))
        assert path(1.5).tolist() == [2.0, 2.5]

    def test_kinks_and_t_span(self):
        ts = torch.tensor([[0.0, 1.0], [1.0, 2.5], [NAN, 3.0]])
        path = LinearPath(ts, torch.ones(3, 2))
        assert torch.equal(path.kinks.nan_to_num(-1), ts.nan_to_num(-1))
        assert [t.tolist() for t in path.t_span] == [[0.0, 1.0], [1.0, 3.0]]

    def test_the_ends_are_part_of_the_graph(self):
        ts = torch.tensor([[0.0, 1.0], [1.0, 2.5], [NAN, 3.0]], requires_grad=True)
        LinearPath(ts, torch.ones(3, 2)).t_span[1].sum().backward()
        assert ts.grad.tolist() == [[0, 0], [1, 0], [0, 1]]


class TestShapes:
    @pytest.mark.parametrize("kind", [*INTERPOLATING, StepPath])
    @pytest.mark.parametrize("by_row", [False, True])
    def test_times_broadcast_against_x_and_a_vector_is_a_list_of_times(self, kind, by_row):
        ts = ascending(6, 4) if by_row else ascending(6)
        path = kind(ts, randn(6, 4, 3))
        t = randn(5, 4, seed=3)
        for evaluate in (path, path.derivative):
            table = torch.stack([torch.stack([evaluate(float(x)) for x in row]) for row in t])  # (5, 4, 4, 3)
            assert evaluate(t[0, 0]).shape == (4, 3)
            assert torch.equal(evaluate(t[:, 0]), table[:, 0])
            own = table.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (5, 4, 3): each row at its own time
            assert torch.equal(evaluate(t[0].unsqueeze(1)), own[0])
            assert torch.equal(evaluate(t.unsqueeze(2)), own)

    def test_each_entry_may_have_its_own_time(self):
        path, t = NaturalCubicSplinePath(ascending(6), randn(6, 4, 3)), randn(4, 3, seed=3)
        expected = torch.stack([torch.stack([path(t[i, j])[i, j] for j in range(3)]) for i in range(4)])
        assert_close(path(t), expected)

    def test_one_control_for_all_rows(self):
        """With times (batch, 1) a scalar control is (batch, 1), and one of three channels (batch, 3)."""
        ts, xs, t = ascending(6), randn(6, 3), randn(4, 1)
        assert_close(LinearPath(ts, xs)(t), LinearPath(ts, xs)(t[:, 0]))
        assert_close(LinearPath(ts, xs[:, 0])(t), LinearPath(ts, xs)(t[:, 0])[:, :1])

    @pytest.mark.parametrize("shape", [(0,), (3, 0)])
    def test_nothing_gives_nothing(self, shape):
        assert NaturalCubicSplinePath(ascending(4), randn(4, *shape))(torch.zeros(5)).shape == (5, *shape)
        assert LinearPath(ascending(4), randn(4, 2))(torch.zeros(0)).shape == (0, 2)


class TestOutside:
    def test_the_slope_at_both_ends_is_that_inside(self):
        path = LinearPath(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 2.0, 0.0]))
        assert path.derivative(torch.tensor([-0.1, 0.0, 1.0, 3.0, 3.1])).tolist() == [0, 2, -1, -1, 0]

    @pytest.mark.parametrize("outside", ["hold", "raise"])
    def test_rounding_does_not_lead_off_the_path(self, outside):
        """A solver's last time may lie one rounding behind t1."""
        ts = torch.tensor([0.1, 0.7, 1.3], dtype=F64)
        path = LinearPath(ts, torch.tensor([0.0, 1.0, 3.0], dtype=F64), outside=outside)
        late, early = torch.nextafter(ts[-1], torch.tensor(9.0)), torch.nextafter(ts[0], torch.tensor(-9.0))
        assert path.derivative(late) == pytest.approx(2 / 0.6)
        assert path.derivative(early) == pytest.approx(1 / 0.6)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("by_row", [False, True])
    def test_an_error_on_request(self, kind, by_row):
        ts = torch.arange(3.0).unsqueeze(1).expand(3, 2) if by_row else torch.arange(3.0)
        path = kind(ts, torch.ones(3, 2, 1), outside="raise")
        path(2.0)
        with pytest.raises(ValueError, match=r"t must lie on the path, which runs from 0 to [24], got 5"):
            path(torch.tensor([1.0, 5.0]))
        with pytest.raises(ValueError, match="got -1"):
            path.derivative(-1.0)


class TestRectilinear:
    def test_time_and_values_move_in_turn(self):
        ts, xs = ascending(4), randn(4, 2)
        path = RectilinearPath(ts, xs)
        i = [0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 2, 2, 3]
        assert_close(path(torch.arange(7.0)), torch.cat([ts[i[0]].unsqueeze(1), xs[i[1]]], 1))
        assert path.kinks.tolist() == list(range(7))
        halfway = path(2.5)
        assert halfway[0] == (ts[1] + ts[2]) / 2
        assert torch.equal(halfway[1:], xs[1])

    def test_a_longer_series_begins_with_the_same_path(self):
        ts, xs = ascending(8), randn(8, 2)
        s = torch.linspace(0, 6, 31)
        assert torch.equal(RectilinearPath(ts, xs)(s), RectilinearPath(ts[:4], xs[:4])(s))

    def test_a_missing_value_is_the_one_before(self):
        path = RectilinearPath(torch.arange(3.0), torch.tensor([[1.0], [NAN], [3.0]]))
        assert path(torch.arange(5.0))[:, 1].tolist() == [1, 1, 1, 1, 3]

    def test_a_row_that_ends_stays(self):
        ts = torch.tensor([[0.0, 0.0], [1.0, 1.0], [NAN, 2.0]])
        path = RectilinearPath(ts, ts.unsqueeze(2) + 5)
        assert path(4.0).tolist() == [[1, 6], [2, 7]]


def test_backward_differences_look_no_further_than_the_next_value():
    ts, xs = ascending(8), randn(8, 2)
    t = torch.linspace(ts[0], ts[4], 31, dtype=F64)
    assert_close(CubicHermitePath(ts, xs)(t), CubicHermitePath(ts[:5], xs[:5])(t))


class TestGradients:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("outside", ["hold", "extrapolate"])
    @pytest.mark.parametrize("case", ["shared", "rows", "missing", "complex"])
    def test_to_values_and_all_times(self, kind, outside, case):
        """Values and slopes of the path agree with central differences in xs, ts and t."""
        ts = ascending(5, 2) if case == "rows" else ascending(5)
        xs = randn(5, 2, 2, dtype=torch.complex128 if case == "complex" else F64)
        if case == "rows":
            ts[4, 0] = NAN
        if case in ("rows", "missing"):
            xs[1:3, 0, 1] = xs[3:, 1, 0] = NAN
        t = torch.tensor([-2.31, -0.83, 0.37, 3.11], dtype=F64)
        inputs = [x.requires_grad_() for x in (ts, xs, t)]

        def evaluate(ts, xs, t):
            path = kind(ts, xs, outside=outside)
            return path(t), path.derivative(t)

        assert gradcheck(evaluate, inputs)

    def test_to_given_slopes(self):
        inputs = [x.requires_grad_() for x in (ascending(5), randn(5, 2), randn(5, 2, seed=1))]
        assert gradcheck(lambda *data: CubicHermitePath(*data)(torch.linspace(-2, 3, 7, dtype=F64)), inputs)

    @pytest.mark.parametrize("kind", INTERPOLATING)
    def test_the_derivative_is_that_of_the_value(self, kind):
        path, t = kind(ascending(6), randn(6, 2)), torch.tensor([-0.83, 0.37, 1.1], dtype=F64)
        slopes = jacrev(path)(t).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        assert_close(path.derivative(t), slopes, 1e-11)

    @pytest.mark.parametrize("kind", KINDS)
    def test_function_transforms(self, kind):
        ts, xs, t = ascending(6), randn(6, 3, 2), torch.tensor([-0.83, 0.37, 1.1], dtype=F64)
        path = kind(ts, xs)
        assert_close(vmap(path)(t), path(t))
        assert_close(vmap(lambda x: kind(ts, x)(t), in_dims=1, out_dims=1)(xs), path(t))
        reverse = jacrev(lambda x: kind(ts, x)(t))(xs)
        assert_close(jacfwd(lambda x: kind(ts, x)(t))(xs), reverse)
        assert_close(vmap(jacrev(path))(t), jacrev(path)(t).diagonal(dim1=0, dim2=-1).movedim(-1, 0))


def forced(t, y, path):
    """Nonlinear in y and in the control."""
    u = path(t)
    return torch.sin(u) - 0.4 * y * u[..., :1] + 0.1 * path.derivative(t) * y


class Forced(torch.nn.Module):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, t, y):
        return forced(t, y, self.path)


WAYS = {
    "args": lambda path: {"fun": forced, "args": (path,)},
    "a closure": lambda path: {"fun": lambda t, y: forced(t, y, path)},
    "a module": lambda path: {"fun": Forced(path)},
}


class TestSolves:
    @pytest.mark.parametrize("gradient", GRADIENTS)
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("kind", [CubicHermitePath, NaturalCubicSplinePath])
    def test_gradients_agree_with_central_differences(self, gradient, batching, kind):
        """To values and to times, which are also those between which the solves run: one for each smooth piece.

        A gap keeps them off the knots, where the adjoint, going back, would see the piece behind.
        """
        gap = 1e-10
        ts = (0.3 * (ascending(4, 2) if batching == "per_sample" else ascending(4))).requires_grad_()
        xs, weights = randn(4, 2, 2).requires_grad_(), randn(2, 2, seed=7)
        options = {
            "batching": batching,
            "gradient": gradient,
            "step_size": 0.015 if gradient == "adjoint" else 0.06,
            "args": (),
        }

        def loss(ts, xs):
            y, options["args"] = torch.ones(2, 2, dtype=F64), (kind(ts, xs),)
            for i in range(3):
                y = solve_ivp(forced, (ts[i] + gap, ts[i + 1] - gap), y, **options).ys[-1]
            return (y * weights).sum()

        found = torch.autograd.grad(loss(ts, xs), [ts, xs])
        eps = 1e-5
        for x, gradient_of_x in zip((ts, xs), found, strict=True):
            direction = randn(*x.shape, seed=11)
            with torch.no_grad():
                up, down = (loss(*(z + h * direction if z is x else z for z in (ts, xs))) for h in (eps, -eps))
            expected = ((up - down) / (2 * eps)).item()
            assert (gradient_of_x * direction).sum().item() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("gradient", GRADIENTS)
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_gradients_reach_the_data_however_the_field_gets_the_path(self, gradient, batching):
        ts, xs = ascending(5).requires_grad_(), randn(5, 2, 2).requires_grad_()
        y0, found = torch.ones(2, 2, dtype=F64), []
        for way in WAYS.values():
            sol = solve_ivp(
                t_span=(-1, 1), y0=y0, gradient=gradient, batching=batching, **way(NaturalCubicSplinePath(ts, xs))
            )
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(sol.ys[-1].sum(), [ts, xs])]))
        assert found[0].abs().min() > 0
        assert_close(found[1], found[0])
        assert_close(found[2], found[0])

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
    def test_data_that_a_field_uses_beside_their_path(self, gradient):
        """Captured are then the data themselves, and the gradient through both ways is one."""
        ts, xs = torch.arange(3, dtype=F64), randn(3).requires_grad_()
        path = LinearPath(ts, xs)
        sol = solve_ivp(
            lambda t, y: path(t) + xs[0] + 0 * y, (0, 2), torch.zeros(1, dtype=F64), gradient=gradient, **TIGHT
        )
        (found,) = torch.autograd.grad(sol.ys[-1].sum(), [xs])
        assert_close(found, torch.tensor([2.5, 1.0, 0.5], dtype=F64), 1e-6)

    def test_gradients_stop_at_the_polynomials(self):
        """What a solve captures is no leaf: polynomials are made once, and differentiated once."""
        path = NaturalCubicSplinePath(ascending(5).requires_grad_(), randn(5).requires_grad_())
        captured, computed = captured_tensors(path)
        assert computed
        assert [tuple(x.shape) for x in captured] == [(4, 4), (5,)]
        assert not any(x.is_leaf for x in captured)

    def test_a_forced_linear_system(self):
        """y' = A y + B u(t), for u piecewise linear, against the exponential of the matrix of (y, u, u')."""
        a, b = randn(3, 3), randn(3, 2, seed=1)
        ts, us = ascending(6), randn(6, 2, seed=2)
        path, y0 = LinearPath(ts, us), randn(3, seed=3)
        sol = solve_ivp(lambda t, y: a @ y + b @ path(t), path.t_span, y0, t_eval=ts, **TIGHT)
        y = y0.numpy()
        whole = np.zeros((7, 7))
        whole[:3, :3], whole[:3, 3:5], whole[3:5, 5:] = a, b, np.eye(2)
        for i in range(5):
            h = (ts[i + 1] - ts[i]).item()
            y = (expm(h * whole) @ np.concatenate([y, us[i], (us[i + 1] - us[i]) / h]))[:3]
            assert_close(sol.ys[i + 1], y, 1e-8)

    def test_the_same_by_scipy(self):
        """Driven by a spline, in rows with times of their own."""
        a, ts, us = randn(2, 2), 0.5 * ascending(6, 2), randn(6, 2, 2)
        path, y0 = NaturalCubicSplinePath(ts, us), randn(2, 2, seed=3)
        sol = solve_ivp(lambda t, y: y @ a.T + path(t), path.t_span, y0, batching="per_sample", rtol=1e-10, atol=1e-11)
        for row in range(2):
            spline = scipy.interpolate.CubicSpline(ts[:, row].numpy(), us[:, row].numpy(), bc_type="natural")
            expected = scipy.integrate.solve_ivp(
                lambda t, y, spline=spline: a.numpy() @ y + spline(t),
                (ts[0, row], ts[-1, row]), y0[row].numpy(), rtol=1e-11, atol=1e-12, method="DOP853",
            )  # fmt: skip
            assert_close(sol.ys[-1, row], expected.y[:, -1], 1e-7)

    def test_dz_is_dx(self):
        """A controlled equation with f = 1 gives back the increments of the data, ragged rows included."""
        ts, xs = torch.linspace(0, 1, 6, dtype=F64), randn(6, 3, 2)
        xs[4:, 1] = NAN
        path = CubicHermitePath(ts, xs)
        sol = solve_ivp(lambda t, z: path.derivative(t) + 0 * z, path.t_span, xs[0], batching="per_sample", **TIGHT)
        last = xs[-1].clone()
        last[1] = xs[3, 1]
        assert_close(sol.ys[-1], last, 1e-8)

    @pytest.mark.parametrize("gradient", thalweg.gradients.GRADIENTS)
    @pytest.mark.parametrize("kind", INTERPOLATING)
    def test_from_knot_to_knot_both_answers_and_gradients_are_exact(self, kind, gradient):
        """dy/dt = dX/dt is y = X - X(t0), with the gradients of that, where values are missing too."""
        ts, xs, weights = ascending(5), randn(5, 3, 2), randn(4, 3, 2, seed=1)
        xs[1, 0, 0] = xs[4, 1, 1] = NAN
        xs[0, 2] = NAN
        times = torch.cat([ts[:1], 0.4 * ts[1:2] + 0.6 * ts[2:3], ts[3:]])

        def both(ys_of):
            data = xs.clone().requires_grad_()
            ys = ys_of(kind(ts, data))
            return ys.detach(), *torch.autograd.grad((ys * weights).sum(), data)

        def solved(path):
            y0 = torch.zeros(3, 2, dtype=F64)
            options = {"jump_ts": path.kinks, "gradient": gradient, **TIGHT}
            return solve_ivp(lambda t, y: path.derivative(t), (ts[0], ts[-1]), y0, t_eval=times, **options).ys

        for found, expected in zip(both(solved), both(lambda path: path(times) - path(ts[0])), strict=True):
            assert_close(found, expected, 1e-9)

    @pytest.mark.parametrize("gradient", thalweg.gradients.GRADIENTS)
    def test_so_they_are_where_each_row_has_knots_of_its_own(self, gradient):
        """By fewer steps than all rows have knots."""
        ts = ascending(6, 4) * torch.tensor([1.0, 0.7, 1.3, 0.9], dtype=F64)
        ts[4:, 1] = ts[5:, 3] = NAN
        xs, weights = randn(6, 4, 2), randn(2, 4, 2, seed=1)
        xs[2, 0, 1] = NAN

        def both(ys_of):
            data = xs.clone().requires_grad_()
            ys = ys_of(LinearPath(ts, data))
            return ys.detach(), *torch.autograd.grad((ys * weights).sum(), data)

        def times_of(path):
            t0, t1 = path.t_span
            return torch.stack([torch.lerp(t0, t1, 0.4), t1])

        def solved(path):
            y0, options = torch.zeros(4, 2, dtype=F64), {"gradient": gradient, "batching": "per_sample"}
            sol = solve_ivp(
                lambda t, y: path.derivative(t), path.t_span, y0, t_eval=times_of(path), jump_ts=path.kinks, **options
            )
            assert (sol.stats.n_steps < 20).all()
            return sol.ys

        def exact(path):
            return torch.stack([path(t.unsqueeze(1)) for t in times_of(path)]) - path(path.t_span[0].unsqueeze(1))

        for found, expected in zip(both(solved), both(exact), strict=True):
            assert_close(found, expected, 1e-9)


class TestModule:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_parameter_is_trained(self, kind):
        """Its polynomials follow it, by every step of an optimiser."""
        ts, xs = torch.arange(4.0), torch.nn.Parameter(torch.ones(4, 1))
        path = kind(ts, xs)
        assert path.xs is xs
        assert list(path.state_dict()) == ["xs"]
        optimiser = torch.optim.SGD(path.parameters(), 0.1)
        for _ in range(2):
            optimiser.zero_grad()
            path(1.0).sum().backward()
            optimiser.step()
        assert torch.equal(path(1.7), kind(ts, xs.detach())(1.7))
        assert (xs < 1).any()

    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_a_parameter_gets_the_same_gradient_as_data(self, gradient):
        ts, found = ascending(5), []
        for xs in (torch.nn.Parameter(randn(5, 2)), randn(5, 2).requires_grad_()):
            sol = solve_ivp(forced, (-1, 1), torch.ones(2, dtype=F64), args=(LinearPath(ts, xs),), gradient=gradient)
            found += torch.autograd.grad(sol.ys[-1].sum(), [xs])
        assert_close(*found)

    def test_it_moves_with_its_module(self):
        model = Forced(NaturalCubicSplinePath(ascending(5), randn(5, 2)))
        assert not model.state_dict()
        expected = model.path(0.3)
        assert copy.deepcopy(model).float().path(0.3).dtype == torch.float32
        assert_close(copy.deepcopy(model).float().path(0.3), expected, 1e-5)

    def test_on_any_device(self, device):
        ts, xs = ascending(5), randn(5, 3, 2)
        for kind in KINDS:
            path = kind(ts.to(device), xs.to(device))
            assert_close(path(torch.zeros(3, 1)).cpu(), kind(ts, xs)(torch.zeros(3, 1)))
            assert_close(kind(ts, xs).to(device)(0.2).cpu(), kind(ts, xs)(0.2))
            assert path.derivative(0.2).device == path.kinks.device == xs.to(device).device

    def test_it_is_shown(self):
        assert repr(LinearPath([0, 1], torch.ones(2, 3))) == "LinearPath(knots=2, shape=(3,), outside='hold')"

    def test_the_library_has_it(self):
        assert thalweg.paths.LinearPath is LinearPath
        assert "paths" in dir(thalweg)


def times(*values):
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearPath(times(0.0, 2.0, 1.0, 0.0), torch.ones(4)), r"ts\[2\] = 1 follows ts\[1\] = 2; sort"),
        (lambda: LinearPath(times(0.0, 1.0, 1.0), torch.ones(3)), r"ts\[2\] = 1 follows ts\[1\] = 1"),
        (lambda: LinearPath(times([0.0, 0.0], [1.0, -1.0]), torch.ones(2, 2)), r"ts\[1, 1\] = -1 follows ts\[0, 1\]"),
        (lambda: LinearPath(torch.tensor([1e9, 1e9 + 1], dtype=F64), torch.ones(2)), "strictly in torch.float32"),
        (lambda: LinearPath(times(0.0, float("inf")), torch.ones(2)), r"finite, but ts\[1\] = inf"),
        (lambda: LinearPath(times(NAN, 1.0), torch.ones(2)), r"begin with a time, but ts\[0\] is NaN"),
        (lambda: LinearPath(times(0.0, NAN, 1.0), torch.ones(3)), r"ts\[1\] is NaN and a time follows"),
        (lambda: LinearPath(times(0.0), torch.ones(1)), r"at least two times, got \(1,\)"),
        (lambda: LinearPath(torch.ones(2, 2, 2), torch.ones(2, 2, 2)), r"\(T,\) or \(T, batch\)"),
        (lambda: LinearPath(times(0.0, 1.0), torch.ones(3)), r"begin with the dimensions of ts, \(2,\), got"),
        (lambda: LinearPath(times(0.0, 1.0), torch.ones(3, 2)), r"xs.transpose\(0, 1\)"),
        (lambda: LinearPath(torch.ones(3, 2), torch.ones(2, 3, 5)), r"xs.transpose\(0, 1\)"),
        (lambda: LinearPath(times(0.0, 1.0), torch.ones(2, dtype=int)), r"int64, .*use xs.float\(\)"),
        (lambda: LinearPath(times(0.0, 1j), torch.ones(2)), "ts must be real"),
        (lambda: LinearPath("when", torch.ones(2)), "ts must be a tensor or numbers, got str"),
        (lambda: LinearPath(times(0.0, 1.0), times([1.0, NAN], [2.0, NAN])), r"xs\[:, 1\] is NaN at all"),
        (lambda: LinearPath(times(0.0, 1.0), torch.ones(2), outside="error"), "one of 'hold', 'extrapolate', 'raise'"),
        (lambda: StepPath(times(0.0, 1.0), torch.ones(2), continuous="both"), "continuous must be one of"),
        (
            lambda: CubicHermitePath(times(0.0, 1.0), torch.ones(2), torch.ones(3)),
            r"slopes must be shaped .* got \(3,\)",
        ),
        (
            lambda: RectilinearPath(times(0.0, 1.0), torch.ones(2)),
            r"channels, got shape \(2,\); use xs.unsqueeze\(-1\)",
        ),
        (lambda: RectilinearPath(times(0.0, 1.0), times([NAN], [1.0])), "first time, but one is NaN; put a default"),
        (lambda: LinearPath(times(0.0, 1.0), torch.ones(2, 3))(torch.ones(2, 2)), r"against x, of shape \(3,\); got"),
    ],
)
def test_errors_say_what_came_and_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
