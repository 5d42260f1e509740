"""Adams methods, symplectic splittings and the stabilised method are what they say."""

import numpy as np
import pytest

import order_conditions
from thalweg.methods.adams import adams_bashforth, adams_moulton
from thalweg.methods.rkc import rkc, stages_for
from thalweg.methods.symplectic import LEAPFROG, YOSHIDA4, Splitting

EXACT = 1e-13


@pytest.mark.parametrize("family", [adams_bashforth, adams_moulton])
@pytest.mark.parametrize("order", range(1, 13))
def test_adams_methods_are_exact_for_polynomials_of_their_order(family, order):
    method = family(order)
    nodes = np.array(method.nodes, dtype=float)
    for theta in (0.3, 1.0):
        b = np.array(method.interpolant) @ theta ** np.arange(1, order + 1)
        for q in range(1, order + 1):
            moments = b * nodes ** (q - 1)
            assert abs(moments.sum() - theta**q / q) < EXACT * (1 + abs(moments).max())
    np.testing.assert_allclose(b, method.b, rtol=1e-10)


def test_adams_methods_have_the_known_weights_and_error_constants():
    np.testing.assert_allclose(adams_bashforth(4).b, np.array([55, -59, 37, -9]) / 24)
    np.testing.assert_allclose(adams_moulton(4).b, np.array([9, 19, -5, 1]) / 24)
    explicit = [adams_bashforth(k).error_constant for k in (1, 2, 3, 4)]
    implicit = [adams_moulton(k).error_constant for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(explicit, [1 / 2, 5 / 12, 3 / 8, 251 / 720])
    np.testing.assert_allclose(implicit, [-1 / 2, -1 / 12, -1 / 24, -19 / 720])


def test_an_adams_method_of_order_0_is_refused():
    with pytest.raises(ValueError, match="order must be at least 1"):
        adams_bashforth(0)


def partitioned_defect(splitting, order):
    """The conditions of q' = v(p), p' = f(q): the vertices of a tree are kicks and drifts in turn.

    Kick i sees the drifts before it, and drift j the kicks before it.
    """
    kick, drift = np.array(splitting.kick), np.array(splitting.drift)
    seen_by = {
        "kick": np.tril(np.ones((len(kick), len(drift))), -1) * drift,
        "drift": np.tril(np.ones((len(drift), len(kick)))) * kick,
    }
    other = {"kick": "drift", "drift": "kick"}

    def stage_weights(tree, kind):
        found = [seen_by[kind] @ stage_weights(child, other[kind]) for child in tree]
        return np.prod([np.ones(len(seen_by[kind])), *found], axis=0)

    return max(
        abs(b @ stage_weights(tree, kind) - 1 / order_conditions.density(tree))
        for n in range(1, order + 1)
        for tree in order_conditions.trees(n)
        for kind, b in (("kick", kick), ("drift", drift))
    )


@pytest.mark.parametrize("splitting", [LEAPFROG, YOSHIDA4], ids=["leapfrog", "yoshida4"])
def test_splittings_meet_the_conditions_of_their_order_and_are_symmetric(splitting):
    assert partitioned_defect(splitting, splitting.order) < EXACT
    assert partitioned_defect(splitting, splitting.order + 1) > 1e-3
    assert splitting.symmetric


@pytest.mark.parametrize("splitting", [LEAPFROG, YOSHIDA4], ids=["leapfrog", "yoshida4"])
def test_splittings_go_back_the_way_they_came_and_keep_the_energy_of_a_pendulum(splitting):
    def step(h, q, p):
        for kick, drift in zip(splitting.kick, [*splitting.drift, 0.0], strict=True):
            p -= h * kick * np.sin(q)
            q += h * drift * p
        return q, p

    def energy(q, p):
        return p**2 / 2 - np.cos(q)

    states = [(1.0, 0.5)]
    for _ in range(5000):
        states.append(step(0.1, *states[-1]))
    energies = [energy(*state) for state in states]
    assert np.ptp(energies[4000:]) < 1.1 * np.ptp(energies[:1000])
    back = states[-1]
    for _ in range(5000):
        back = step(-0.1, *back)
    np.testing.assert_allclose(back, states[0], atol=1e-10)


def test_a_splitting_begins_and_ends_with_a_kick():
    with pytest.raises(ValueError, match="kicks must be one more than drifts, got 1 and 1"):
        Splitting(1, (1.0,), (1.0,))


def as_runge_kutta(method):
    """Stage j's state is y + h sum_i a_ji f_i; the last row is b."""
    s = method.stages
    a = np.zeros((s + 1, s + 1))
    for j in range(1, s + 1):
        a[j] = method.mu[j] * a[j - 1] + (method.nu[j] * a[j - 2] if j > 1 else 0)
        a[j, j - 1] += method.mu_dot[j]
        a[j, 0] += method.gamma_dot[j]
    return a


@pytest.mark.parametrize("stages", [2, 3, 5, 10, 50])
def test_rkc_is_of_order_2_with_its_nodes_and_estimate(stages):
    method = rkc(stages)
    a = as_runge_kutta(method)
    np.testing.assert_allclose(a.sum(1), method.c, atol=1e-12)
    assert order_conditions.defect(a[:-1, :-1], a[-1, :-1], 2) < EXACT
    assert order_conditions.defect(a[:-1, :-1], a[-1, :-1], 3) > 1e-2
    # y - g_s = -h sum b f, and stage s is the slope at the end: the estimate is of order 3 in h
    error = -0.8 * a[-1]
    error[[0, -1]] += 0.4
    assert abs(error.sum()) < EXACT
    assert abs(error @ a.sum(1)) < EXACT


@pytest.mark.parametrize("stages", [2, 3, 5, 10, 50])
def test_rkc_is_stable_to_its_reach(stages):
    method = rkc(stages)
    a = as_runge_kutta(method)
    for z in np.linspace(-method.reach, 0, 500):
        growth = 1 + z * (a[-1, :-1] @ np.linalg.solve(np.eye(stages) - z * a[:-1, :-1], np.ones(stages)))
        assert abs(growth) < 1 + 1e-9
    assert method.reach > 0.65 * (stages**2 - 1)


@pytest.mark.parametrize("h_rho", [0.0, 0.1, 1.0, 10.0, 100.0, 1e3, 1e5])
def test_enough_stages_are_taken(h_rho):
    assert rkc(stages_for(h_rho)).reach > h_rho


def test_rkc_has_two_stages_at_least():
    with pytest.raises(ValueError, match="stages must be at least 2, got 1"):
        rkc(1)
