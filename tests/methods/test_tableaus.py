"""Every method is what it says: its order conditions hold in float64."""

import numpy as np
import order_conditions
import pytest
from thalweg.methods import Tableau, get_method, methods

METHODS = methods()
EXACT = 1e-13


def matrix(tableau):
    a = np.zeros((tableau.stages, tableau.stages))
    for i, row in enumerate(tableau.a):
        a[i, :i] = row
    return a


def test_the_number_of_rooted_trees_is_the_known_one():
    assert [len(order_conditions.trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_weights_meet_the_conditions_of_their_order_and_not_of_the_next(method):
    a, b = matrix(method.tableau), np.array(method.tableau.b)
    assert order_conditions.defect(a, b, method.order) < EXACT
    assert order_conditions.defect(a, b, method.order + 1) > 1e-5


@pytest.mark.parametrize("method", [m for m in METHODS if m.adaptive], ids=lambda m: m.name)
def test_embedded_weights_meet_the_conditions_of_their_order_and_not_of_the_next(method):
    tableau = method.tableau
    a, b = matrix(tableau), np.array(tableau.b) - np.array(tableau.b_error)
    assert order_conditions.defect(a, b, tableau.embedded_order) < EXACT
    assert order_conditions.defect(a, b, tableau.embedded_order + 1) > 1e-5


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("theta", [0.13, 0.5, 0.77, 1.0])
def test_interpolants_meet_the_conditions_of_their_order_everywhere(method, theta):
    tableau = method.tableau
    powers = theta ** np.arange(1, len(tableau.interpolant[0]) + 1)
    b = np.array(tableau.interpolant) @ powers
    assert order_conditions.defect(matrix(tableau), b, tableau.interpolant_order, theta) < EXACT


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_interpolants_end_where_the_step_ends(method):
    ends = np.array(method.tableau.interpolant).sum(1)
    np.testing.assert_allclose(ends, method.tableau.b, atol=EXACT)


def test_the_first_stage_of_the_next_step_is_known_for_these_methods():
    assert {m.name for m in METHODS if m.tableau.fsal} == {"bosh3", "dopri5", "tsit5"}


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown method 'dopri6'; did you mean 'dopri5'"):
        get_method("dopri6")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((), (0.5, 0.5))}, "row i of a must hold i coefficients"),
        ({"interpolant": ((1.0,),)}, "one row a stage"),
        ({"interpolant": ((1.0,), (1.0, 2.0))}, "equal lengths"),
        ({"b_error": (1.0, -1.0)}, "come together"),
        ({"b_error": (1.0,), "embedded_order": 1}, "one weight a stage"),
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
    tableau = get_method("ssprk3").tableau
    theta = np.linspace(0, 1, 11)
    values = np.array(tableau.interpolant) @ theta ** np.arange(1, 3)[:, None]
    expected = theta**2 * np.array(tableau.b)[:, None]
    expected[0] += theta * (1 - theta)
    np.testing.assert_allclose(values, expected, atol=1e-15)
