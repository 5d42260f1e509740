"""Every implicit Runge–Kutta and IMEX method is what it says: its orders in float64, and its stability."""

import numpy as np
import pytest

import order_conditions
from thalweg.methods.dirk import IMPLICIT_EULER, IMPLICIT_MIDPOINT, KVAERNO3, KVAERNO5, SDIRK2, TRAPEZOID, TRBDF2
from thalweg.methods.firk import GL4, GL6, RADAU3, RADAU5
from thalweg.methods.imex import KENCARP4, Imex
from thalweg.methods.tableau import DiagonalTableau, FullTableau

EXACT = 1e-13
L_STABLE = {
    "implicit_euler": IMPLICIT_EULER,
    "trbdf2": TRBDF2,
    "sdirk2": SDIRK2,
    "kvaerno3": KVAERNO3,
    "kvaerno5": KVAERNO5,
    "radau3": RADAU3,
    "radau5": RADAU5,
    "kencarp4": KENCARP4.implicit,
}
UNDAMPED = {"implicit_midpoint": IMPLICIT_MIDPOINT, "trapezoid": TRAPEZOID, "gl4": GL4, "gl6": GL6}
ALL = L_STABLE | UNDAMPED
THETAS = [0.13, 0.5, 0.77, 1.0]

each = pytest.mark.parametrize("tableau", ALL.values(), ids=ALL)


def matrix(tableau):
    a = np.zeros((tableau.stages, tableau.stages))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    return a


def weights(tableau, theta):
    coefficients = np.array(tableau.interpolant)
    return coefficients @ theta ** np.arange(1, coefficients.shape[1] + 1)


def amplification(tableau, z, b=None):
    """R(z): what a step makes of y' = lambda y, z = h lambda."""
    b = np.array(tableau.b) if b is None else b
    ones = np.ones(tableau.stages)
    return 1 + z * (b @ np.linalg.solve(np.eye(tableau.stages) - z * matrix(tableau), ones))


def assert_order(a, b, order):
    assert order_conditions.defect(a, b, order) < EXACT
    assert order_conditions.defect(a, b, order + 1) > 1e-5


@each
def test_weights_meet_the_conditions_of_their_order_and_not_of_the_next(tableau):
    assert_order(matrix(tableau), np.array(tableau.b), tableau.order)


@pytest.mark.parametrize("name", ["trbdf2", "sdirk2", "kvaerno3", "kvaerno5", "kencarp4"])
def test_embedded_weights_meet_the_conditions_of_their_order_and_not_of_the_next(name):
    tableau = ALL[name]
    assert_order(matrix(tableau), np.array(tableau.b) - np.array(tableau.b_error), tableau.embedded_order)


def test_the_embedded_method_of_radau5_takes_the_slope_at_the_start_as_a_stage():
    a = np.zeros((4, 4))
    a[1:, 1:] = matrix(RADAU5)
    b = np.array([0.0, *RADAU5.b]) - np.array([RADAU5.slope_error, *RADAU5.b_error])
    assert_order(a, b, RADAU5.embedded_order)


def test_the_weight_of_that_slope_is_the_inverse_of_the_real_eigenvalue():
    eigenvalues = np.linalg.eigvals(np.linalg.inv(matrix(RADAU5)))
    real = eigenvalues[abs(eigenvalues.imag) < 1e-12].real
    np.testing.assert_allclose(-RADAU5.slope_error, 1 / real, rtol=1e-13)


@each
@pytest.mark.parametrize("theta", THETAS)
def test_interpolants_meet_the_conditions_of_their_order_everywhere(tableau, theta):
    defect = order_conditions.defect(matrix(tableau), weights(tableau, theta), tableau.interpolant_order, theta)
    assert defect < EXACT


@each
def test_interpolants_end_where_the_step_ends(tableau):
    np.testing.assert_allclose(weights(tableau, 1.0), tableau.b, atol=EXACT)


@each
def test_a_stable_on_the_imaginary_axis_and_without_poles_on_the_left(tableau):
    for y in np.logspace(-3, 6, 200):
        assert abs(amplification(tableau, 1j * y)) < 1 + 1e-9
    eigenvalues = np.linalg.eigvals(matrix(tableau))  # poles of R are their inverses
    assert (eigenvalues.real > -EXACT).all()


@pytest.mark.parametrize("tableau", L_STABLE.values(), ids=L_STABLE)
def test_l_stable(tableau):
    assert abs(amplification(tableau, -1e6)) < 1e-4


@pytest.mark.parametrize("tableau", UNDAMPED.values(), ids=UNDAMPED)
def test_the_others_keep_the_size_of_stiff_components(tableau):
    assert abs(abs(amplification(tableau, -1e6)) - 1) < 1e-4
    assert abs(abs(amplification(tableau, 3j)) - 1) < 1e-13  # as they keep that of oscillations


@pytest.mark.parametrize("tableau", L_STABLE.values(), ids=L_STABLE)
@pytest.mark.parametrize("theta", THETAS)
def test_interpolants_of_l_stable_methods_stay_bounded_where_the_field_is_stiff(tableau, theta):
    assert abs(amplification(tableau, -1e6, weights(tableau, theta))) < 3.2


def test_which_stages_are_explicit_or_end_the_step():
    diagonal = {name: t for name, t in ALL.items() if isinstance(t, DiagonalTableau)}
    assert {name for name, t in diagonal.items() if t.fsal} == {
        "trapezoid",
        "trbdf2",
        "kvaerno3",
        "kvaerno5",
        "kencarp4",
    }
    assert {name for name, t in ALL.items() if t.stiffly_accurate} == {*L_STABLE, "trapezoid"}


def coupled_weights(tree, matrices):
    """Phi_i of every way to colour the edges of a tree."""
    found = [np.ones(len(matrices[0]))]
    for child in tree:
        found = [w * (a @ v) for w in found for a in matrices for v in coupled_weights(child, matrices)]
    return found


def coupled_defect(imex, b, order, theta=1.0):
    """The largest violation of the conditions of an additive method: those of all coloured trees."""
    matrices = [np.zeros((6, 6)), matrix(imex.implicit)]
    for i, row in enumerate(imex.explicit.a):
        matrices[0][i, :i] = row
    return max(
        abs(b @ phi - theta**n / order_conditions.density(tree))
        for n in range(1, order + 1)
        for tree in order_conditions.trees(n)
        for phi in coupled_weights(tree, matrices)
    )


def test_kencarp4_meets_the_coupled_conditions_of_its_orders():
    b = np.array(KENCARP4.implicit.b)
    embedded = b - np.array(KENCARP4.implicit.b_error)
    assert coupled_defect(KENCARP4, b, 4) < EXACT
    assert coupled_defect(KENCARP4, b, 5) > 1e-4
    assert coupled_defect(KENCARP4, embedded, 3) < EXACT
    assert coupled_defect(KENCARP4, embedded, 4) > 1e-4


@pytest.mark.parametrize("theta", THETAS)
def test_the_interpolant_of_kencarp4_meets_the_coupled_conditions(theta):
    assert coupled_defect(KENCARP4, weights(KENCARP4.implicit, theta), 3, theta) < EXACT


def test_an_imex_pair_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the same order"):
        Imex(KENCARP4.explicit, KVAERNO3)


@pytest.mark.parametrize(
    ("kind", "a", "message"),
    [
        (DiagonalTableau, ((0.5,), (0.5,)), "row i of a must hold i . 1 coefficients"),
        (DiagonalTableau, ((0.5,), (0.5, 0.4)), "the diagonal of a must be one positive number"),
        (DiagonalTableau, ((0.0,), (0.5, 0.0)), "the diagonal of a must be one positive number"),
        (FullTableau, ((0.5,), (0.5, 0.5)), "row i of a must hold a coefficient of each stage"),
    ],
)
def test_a_crooked_tableau_is_refused(kind, a, message):
    with pytest.raises(ValueError, match=message):
        kind(1, a, (0.5, 0.5), ((1.0,), (0.0,)), 1)
