"""The water that is drawn is the field, or the mean of the boats nearby."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from thalweg.figures.water import draw_water, exact_plane, exact_water, mean_plane, mean_water, top_speed


def decay(t, z):
    return -z


def test_the_water_of_exponential_decay_has_its_slope_everywhere():
    water = exact_water(decay, np.linspace(0.0, 1.0, 5), (-2.0, 2.0))
    np.testing.assert_allclose(water.v, -water.y[:, None] * np.ones(5))
    np.testing.assert_allclose(water.u, 1.0)
    np.testing.assert_allclose(water.speed, np.abs(water.v))
    assert (water.cover == 1).all()


def test_water_that_depends_on_time_has_each_time_in_its_own_column():
    water = exact_water(lambda t, z: np.full_like(z, t), np.linspace(0.0, 1.0, 5), (-1.0, 1.0))
    np.testing.assert_allclose(water.v, np.broadcast_to(water.x, water.v.shape))


def test_in_reversed_time_currents_run_backwards_over_ascending_times():
    water = exact_water(lambda t, z: t - z, np.linspace(1.0, 0.0, 5), (-2.0, 2.0))
    assert (np.diff(water.x) > 0).all()
    np.testing.assert_allclose(water.u, -1.0)
    np.testing.assert_allclose(water.v / water.u, water.x - water.y[:, None])  # the slope dz/dt is what it was


def test_the_mean_water_of_boats_on_one_field_is_that_field():
    rng = np.random.default_rng(0)
    t = np.linspace(0.0, 1.0, 4)
    z = np.sort(rng.uniform(-2.0, 2.0, (4, 500)), axis=1)
    water = mean_water(t, z, -z, (-2.0, 2.0))
    inside = np.abs(water.y) < 1.7  # at the edge boats are on one side alone
    np.testing.assert_allclose(water.v[inside], -water.y[inside, None] * np.ones(4), atol=0.06)


def test_where_no_boat_is_near_there_is_no_water():
    water = mean_water(np.array([0.0, 1.0]), np.zeros((2, 50)), np.ones((2, 50)), (-10.0, 10.0))
    assert (water.cover[np.abs(water.y) > 2.3] == 0).all()
    assert (water.cover[np.abs(water.y) < 1.0] == 1).all()


def test_opposite_boats_at_one_place_cancel_in_the_mean():
    water = mean_water(np.array([0.0, 1.0]), np.zeros((2, 2)), np.array([[1.0, -1.0]] * 2), (-1.0, 1.0))
    np.testing.assert_allclose(water.speed, 0.0, atol=1e-12)


@pytest.mark.parametrize("shape", [(11, 11), (7, 13)])
def test_the_plane_of_a_rotation_turns_the_right_way(shape):
    water = exact_plane(lambda z: np.stack([-z[:, 1], z[:, 0]], axis=1), (-1.0, 1.0), (-2.0, 2.0), shape)
    np.testing.assert_allclose(water.u, np.broadcast_to(-water.y[:, None], shape))
    np.testing.assert_allclose(water.v, np.broadcast_to(water.x, shape))
    np.testing.assert_allclose(water.speed, np.hypot(water.x, water.y[:, None]))


def test_the_mean_plane_of_a_rotation_turns_the_right_way():
    z = np.random.default_rng(0).uniform(-1.0, 1.0, (600, 2)) * [1.0, 10.0]
    water = mean_plane(z, np.stack([-z[:, 1], z[:, 0]], axis=1), (-1.0, 1.0), (-10.0, 10.0), (21, 21))
    inner = slice(4, -4)
    expected = np.broadcast_to(-water.y[inner, None], (13, 13))
    np.testing.assert_allclose(water.u[inner, inner], expected, atol=1.0)  # of speeds up to 10
    np.testing.assert_allclose(water.v[inner, inner], np.broadcast_to(water.x[inner], (13, 13)), atol=0.1)


def test_faster_water_is_darker():
    ax = Figure().subplots()
    draw_water(ax, exact_water(decay, np.linspace(0.0, 1.0, 5), (0.0, 2.0)))
    lightness = ax.images[0].get_array()[:, 0, :3].sum(-1)
    assert (np.diff(lightness) <= 0).all()
    assert lightness[-1] < lightness[0]
    assert ax.images[0].get_extent() == [0.0, 1.0, 0.0, 2.0]


def test_the_deepest_colour_is_for_the_speed_that_nearly_all_water_keeps_to():
    water = exact_water(lambda t, z: 3.0 + 0 * z, np.linspace(0.0, 1.0, 5), (0.0, 2.0))
    assert top_speed([water]) == 3.0
    still = exact_water(lambda t, z: 0 * z, np.linspace(0.0, 1.0, 5), (0.0, 2.0))
    assert top_speed([still]) == 1.0
