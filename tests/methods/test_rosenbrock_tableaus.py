"""Every Rosenbrock method is what it says: the order conditions of its kind, and L-stability.

The conditions (Hairer & Wanner 1996, IV.7) follow from the trees: a vertex with one child takes alpha_ij + gamma_ij,
where J acts on the child, and one with several takes alpha_ij.
"""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import order_conditions
from thalweg.methods.rosenbrock import RODAS5P, ROSENBROCK23, Rosenbrock

EXACT = 1e-13
ALL = {"rosenbrock23": ROSENBROCK23, "rodas5p": RODAS5P}
THETAS = [0.13, 0.5, 0.77, 1.0]

each = pytest.mark.parametrize("method", ALL.values(), ids=ALL)


def lower(rows):
    a = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    return a


def stage_weights(alpha, beta, tree):
    if len(tree) == 1:
        return beta @ stage_weights(alpha, beta, tree[0])
    return np.prod([np.ones(len(alpha)), *(alpha @ stage_weights(alpha, beta, child) for child in tree)], axis=0)


def defect(method, u_weights, order, theta=1.0):
    """The largest violation of the conditions up to that order, by weights of u_i for a step of theta h."""
    alpha = lower(method.alphas)
    beta, b = alpha + lower(method.gammas), np.array(method.stage_weights(u_weights))
    return max(
        abs(b @ stage_weights(alpha, beta, tree) - theta**n / order_conditions.density(tree))
        for n in range(1, order + 1)
        for tree in order_conditions.trees(n)
    )


def weights(method, theta):
    coefficients = np.array(method.interpolant)
    return coefficients @ theta ** np.arange(1, coefficients.shape[1] + 1)


def amplification(method, z, u_weights):
    beta = lower(method.alphas) + lower(method.gammas)
    b, ones = np.array(method.stage_weights(u_weights)), np.ones(method.stages)
    return 1 + z * (b @ np.linalg.solve(np.eye(method.stages) - z * beta, ones))


@each
def test_weights_meet_the_conditions_of_their_order_and_not_of_the_next(method):
    assert defect(method, method.m, method.order) < EXACT
    assert defect(method, method.m, method.order + 1) > 1e-5


@each
def test_embedded_weights_meet_the_conditions_of_their_order_and_not_of_the_next(method):
    embedded = np.array(method.m) - np.array(method.m_error)
    assert defect(method, embedded, method.embedded_order) < EXACT
    assert defect(method, embedded, method.embedded_order + 1) > 1e-5


@each
@pytest.mark.parametrize("theta", THETAS)
def test_interpolants_meet_the_conditions_of_their_order_everywhere(method, theta):
    assert defect(method, weights(method, theta), method.interpolant_order, theta) < EXACT


@each
def test_interpolants_end_where_the_step_ends(method):
    np.testing.assert_allclose(weights(method, 1.0), method.m, atol=1e-12)


@each
def test_l_stable_and_a_stable_on_the_imaginary_axis(method):
    assert abs(amplification(method, -1e6, method.m)) < 1e-4
    for y in np.logspace(-3, 6, 200):
        assert abs(amplification(method, 1j * y, method.m)) < 1 + 1e-9
    assert method.gamma > 0  # the only pole of the amplification is 1 / gamma


@each
@pytest.mark.parametrize("theta", THETAS)
def test_interpolants_stay_bounded_where_the_field_is_stiff(method, theta):
    assert abs(amplification(method, -1e6, weights(method, theta))) < 1


def forced(t, y):
    return np.array([y[1], np.cos(3 * t) * (1 + y[0]) - 5 * np.sin(y[0])])


def step(method, t, h, y):
    """One step, as the class describes it."""
    jacobian = np.array([[0.0, 1.0], [np.cos(3 * t) - 5 * np.cos(y[0]), 0.0]])
    f_t = np.array([0.0, -3 * np.sin(3 * t) * (1 + y[0])])
    u = np.zeros((method.stages, 2))
    for i in range(method.stages):
        state = y + np.array(method.a[i]) @ u[:i]
        right = forced(t + method.alpha[i] * h, state) + np.array(method.c[i]) @ u[:i] / h
        u[i] = np.linalg.solve(np.eye(2) / (method.gamma * h) - jacobian, right + method.gamma_sums[i] * h * f_t)
    return y + np.array(method.m) @ u, u


@each
def test_the_observed_order_of_the_form_with_u_on_a_field_that_depends_on_time(method):
    def end(n):
        y = np.array([1.0, 0.3])
        for i in range(n):
            y, _ = step(method, i * 2 / n, 2 / n, y)
        return y

    exact = solve_ivp(forced, (0, 2), [1.0, 0.3], "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    steps = np.array([50, 100, 200])
    errors = [np.linalg.norm(end(n) - exact) for n in steps]
    assert abs(-np.polyfit(np.log(steps), np.log(errors), 1)[0] - method.order) < 0.2


def test_rosenbrock23_is_ode23s():
    """The formulas of Shampine & Reichelt 1997, section 3.1."""
    t, h, y = 0.3, 0.05, np.array([1.0, 0.3])
    d, e = 1 / (2 + np.sqrt(2)), 6 + np.sqrt(2)
    jacobian = np.array([[0.0, 1.0], [np.cos(3 * t) - 5 * np.cos(y[0]), 0.0]])
    f_t = np.array([0.0, -3 * np.sin(3 * t) * (1 + y[0])])
    solve = np.linalg.inv(np.eye(2) - h * d * jacobian)
    f0 = forced(t, y)
    k1 = solve @ (f0 + h * d * f_t)
    f1 = forced(t + h / 2, y + h / 2 * k1)
    k2 = solve @ (f1 - k1) + k1
    f2 = forced(t + h, y + h * k2)
    k3 = solve @ (f2 - e * (k2 - f1) - 2 * (k1 - f0) + h * d * f_t)
    y_new, u = step(ROSENBROCK23, t, h, y)
    np.testing.assert_allclose(y_new, y + h * k2, rtol=1e-14)
    np.testing.assert_allclose(np.array(ROSENBROCK23.m_error) @ u, -h / 6 * (k1 - 2 * k2 + k3), rtol=1e-8)
    middle = y + h * (0.25 * k1 + 0.5 * (0.5 - 2 * d) * k2) / (1 - 2 * d)
    np.testing.assert_allclose(y + weights(ROSENBROCK23, 0.5) @ u, middle, rtol=1e-14)


def test_rodas5p_has_the_nodes_and_time_weights_of_its_paper():
    nodes = [0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1, 1, 1]
    sums = [0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069]
    np.testing.assert_allclose(RODAS5P.alpha, nodes, atol=EXACT)
    np.testing.assert_allclose(RODAS5P.gamma_sums, [*sums, 0, 0, 0], atol=EXACT)


def test_only_rosenbrock23_hands_the_value_of_its_last_stage_on():
    assert ROSENBROCK23.fsal
    assert not RODAS5P.fsal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((), (0.5, 0.5))}, "row i of a must hold i coefficients"),
        ({"c": ((),)}, "row i of c must hold i coefficients"),
        ({"interpolant": ((1.0,),)}, "one row a stage"),
        ({"m_error": (1.0,)}, "one weight a stage"),
        ({"gamma": 0.0}, "gamma must be positive"),
    ],
)
def test_a_crooked_method_is_refused(change, message):
    whole = {
        "order": 1,
        "gamma": 0.5,
        "a": ((), (0.5,)),
        "c": ((), (0.5,)),
        "m": (0.5, 0.5),
        "interpolant": ((1.0,), (0.0,)),
        "interpolant_order": 1,
        "m_error": (1.0, -1.0),
        "embedded_order": 1,
    }
    with pytest.raises(ValueError, match=message):
        Rosenbrock(**{**whole, **change})
