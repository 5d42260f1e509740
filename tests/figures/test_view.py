"""A state of many dimensions is seen from where the answers are told apart."""

import numpy as np
import pytest

from thalweg.figures.view import choose_view


def cloud(rows=200, dims=6):
    return np.random.default_rng(0).standard_normal((rows, dims))


def test_the_first_direction_tells_classes_apart_though_another_spreads_wider():
    z, y = cloud(), np.arange(200) % 2
    z[:, 2] = 0.1 * z[:, 2] + y
    z[:, 4] *= 50.0
    view = choose_view(z, y, "classification")
    low, high = (view.line(z[y == code]) for code in (0, 1))
    assert max(low.min(), high.min()) > min(low.max(), high.max())  # no overlap
    assert view.labels == ("z along discriminant 1", "z along principal axis 1")
    assert abs(view.directions[4, 1]) > 0.99


def test_three_classes_have_two_discriminants():
    z, y = 0.1 * cloud(), np.arange(200) % 3
    z[:, :2] += np.array([[0, 0], [5, 0], [0, 5]])[y]
    view = choose_view(z, y, "classification")
    assert view.labels == ("z along discriminant 1", "z along discriminant 2")
    assert (np.linalg.norm(view.directions[:2], axis=0) > 0.99).all()


@pytest.mark.parametrize("unit", [1.0, 1e-13, 1e-200, 1e150])
def test_a_target_grows_along_its_direction_whatever_its_unit(unit):
    z = cloud()
    view = choose_view(z, -3.0 * unit * z[:, 1], "regression")
    np.testing.assert_allclose(view.directions[:, 0], [0, -1, 0, 0, 0, 0], atol=0.05)
    assert view.labels[0] == "z along the target's slope"


@pytest.mark.parametrize("y", [np.zeros(5, int), np.arange(5)])
@pytest.mark.parametrize("z", [np.zeros((5, 3)), cloud(5, 8), np.outer(np.arange(5.0), np.ones(4))])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_directions_are_orthonormal_whatever_comes(z, y, task):
    view = choose_view(z, y, task)
    np.testing.assert_allclose(view.directions.T @ view.directions, np.eye(2), atol=1e-9)
    assert len(view.labels) == 2


def test_a_state_of_one_dimension_is_drawn_as_it_is():
    z = cloud(10, 1)
    view = choose_view(z, np.arange(10) % 2, "classification")
    np.testing.assert_array_equal(view(z), z)
    assert view.labels == ("state z",)
