"""Every explicit method is what it says: its order conditions hold in float64."""

import numpy as np
import pytest
from scipy.integrate import DOP853

import order_conditions
from thalweg.methods import Tableau, get_method, methods
from thalweg.methods.dop853 import DOPRI8
from thalweg.methods.verner import VERN7, VERN8, VERN9

METHODS = methods()
TABLEAUS = {m.name: m.data for m in METHODS if isinstance(m.data, Tableau)} | {
    "dopri8": DOPRI8,
    "vern7": VERN7,
    "vern8": VERN8,
    "vern9": VERN9,
}
EXACT = 1e-13
EPS = np.finfo(float).eps

each = pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
each_adaptive = pytest.mark.parametrize(
    "tableau", [t for t in TABLEAUS.values() if t.adaptive], ids=[n for n, t in TABLEAUS.items() if t.adaptive]
)


def matrix(tableau, dense=False):
    """The stages' coefficients as a square matrix, with those of the extra stages if asked for."""
    rows = [*tableau.a, *tableau.dense_a] if dense else tableau.a
    a = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    return a


def assert_order(a, b, order):
    """The order is that one and no higher; large coefficients bring their rounding with them."""
    assert order_conditions.defect(a, b, order) < EXACT + EPS * abs(a).max() * abs(b).max()
    assert order_conditions.defect(a, b, order + 1) > 1e-7


def test_the_number_of_rooted_trees_is_the_known_one():
    assert [len(order_conditions.trees(n)) for n in range(1, 11)] == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]


@each
def test_weights_meet_the_conditions_of_their_order_and_not_of_the_next(tableau):
    assert_order(matrix(tableau), np.array(tableau.b), tableau.order)


@each_adaptive
def test_embedded_weights_meet_the_conditions_of_their_order_and_not_of_the_next(tableau):
    b = np.array(tableau.b)
    assert_order(matrix(tableau), b - np.array(tableau.b_error), tableau.embedded_order)
    if tableau.b_coarse is not None:
        assert_order(matrix(tableau), b - np.array(tableau.b_coarse), tableau.coarse_order)


@each
@pytest.mark.parametrize("theta", [0.13, 0.5, 0.77, 1.0])
def test_interpolants_meet_the_conditions_of_their_order_everywhere(tableau, theta):
    coefficients = np.array(tableau.interpolant)
    b = coefficients @ theta ** np.arange(1, coefficients.shape[1] + 1)
    defect = order_conditions.defect(matrix(tableau, dense=True), b, tableau.interpolant_order, theta)
    assert defect < EXACT + 4 * EPS * abs(coefficients).max()


@each
def test_interpolants_end_where_the_step_ends(tableau):
    coefficients = np.array(tableau.interpolant)
    ends = [*tableau.b, *[0.0] * tableau.dense_evaluations]
    np.testing.assert_allclose(coefficients.sum(1), ends, atol=EXACT + 4 * EPS * abs(coefficients).max())


@pytest.mark.parametrize("name", ["bosh3", "dopri8", "vern7", "vern8", "vern9"])
def test_interpolants_with_the_slope_at_the_end_are_smooth_across_steps(name):
    tableau = TABLEAUS[name]
    coefficients = np.array(tableau.interpolant)
    powers = np.arange(1, coefficients.shape[1] + 1)
    end = tableau.stages - 1 if tableau.fsal else tableau.stages
    last = np.eye(len(coefficients))[end]
    np.testing.assert_allclose(coefficients[:, 0], np.eye(len(coefficients))[0], atol=EXACT)
    np.testing.assert_allclose(coefficients @ powers, last, atol=EXACT + 40 * EPS * abs(coefficients).max())
    np.testing.assert_allclose((*tableau.c, *tableau.dense_c)[end], 1.0, atol=EXACT)


def test_dopri8_is_the_method_of_scipy():
    def fun(t, y):
        return np.array([y[1], np.cos(3 * t) * (1 + y[0]) - 5 * np.sin(y[0])])

    h, y0, tableau = 0.2, np.array([1.0, 0.3]), DOPRI8
    solver = DOP853(fun, 0.0, y0, 1.0, first_step=h, rtol=1.0, atol=1.0)
    solver.step()
    a, k = matrix(tableau, dense=True), np.zeros((16, 2))
    for i, c in enumerate((*tableau.c, *tableau.dense_c)):
        k[i] = fun(c * h, y0 + h * a[i, :i] @ k[:i])
    np.testing.assert_allclose(y0 + h * np.array(tableau.b) @ k[:13], solver.y, rtol=1e-14)
    for theta in (0.2, 0.5, 0.9):
        b = np.array(tableau.interpolant) @ theta ** np.arange(1, 8)
        np.testing.assert_allclose(y0 + h * b @ k, solver.dense_output()(theta * h), rtol=1e-12)
    np.testing.assert_array_equal(tableau.b_error, DOP853.E5)
    np.testing.assert_array_equal(tableau.b_coarse, DOP853.E3)
    assert tableau.error_order == 8


def test_the_first_stage_of_the_next_step_is_known_for_these_methods():
    assert {name for name, t in TABLEAUS.items() if t.fsal} == {"bosh3", "dopri5", "tsit5", "dopri8"}


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown method 'tsit6'; did you mean 'tsit5'"):
        get_method("tsit6")
    with pytest.raises(ValueError, match="'dopri5' stands for it here, and 'scipy:RK45' is SciPy's own"):
        get_method("RK45")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((), (0.5, 0.5))}, "row i of a must hold i coefficients"),
        ({"interpolant": ((1.0,),)}, "one row a stage"),
        ({"interpolant": ((1.0,), (1.0, 2.0))}, "equal lengths"),
        ({"b_error": (1.0, -1.0)}, "come together"),
        ({"b_error": (1.0,), "embedded_order": 1}, "one weight a stage"),
        ({"dense_a": ((0.5,),)}, "row j of dense_a must hold a coefficient of each of the 2"),
        ({"dense_a": ((0.5, 0.5),)}, "one row a stage .3., got 2"),
        ({"b_coarse": (1.0, -1.0)}, "b_coarse and coarse_order come together"),
        ({"b_coarse": (1.0, -1.0), "coarse_order": 1}, "b_error, which is missing"),
        (
            {"b_error": (1.0, -1.0), "embedded_order": 1, "b_coarse": (1.0,), "coarse_order": 1},
            "b_coarse must have one weight a stage",
        ),
    ],
)
def test_a_crooked_tableau_is_refused(change, message):
    whole = {"order": 1, "a": ((), (0.5,)), "b": (0.5, 0.5), "interpolant": ((1.0,), (0.0,)), "interpolant_order": 1}
    with pytest.raises(ValueError, match=message):
        Tableau(**{**whole, **change})


def test_heun_is_another_name_of_heun2():
    assert get_method("heun") is get_method("heun2")


def test_ssprk3_stays_a_mean_of_euler_steps_between_the_steps():
    """In the form of Shu & Osher, all weights are at least 0: (1 - theta), theta (1 - theta), theta²."""
    tableau = get_method("ssprk3").data
    theta = np.linspace(0, 1, 11)
    values = np.array(tableau.interpolant) @ theta ** np.arange(1, 3)[:, None]
    expected = theta**2 * np.array(tableau.b)[:, None]
    expected[0] += theta * (1 - theta)
    np.testing.assert_allclose(values, expected, atol=1e-15)
