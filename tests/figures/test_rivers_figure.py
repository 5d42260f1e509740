"""The figure of several rivers."""

import math

import numpy as np
import pytest
import torch

from thalweg.figures import rivers_figure
from thalweg.nn import LinearField

FIELDS = {"in": lambda t, z: -z, "out": lambda t, z: z}


def lines(ax, label):
    return [line.get_xydata() for line in ax.lines if line.get_label() == label]


def test_each_field_carries_the_same_boats_and_says_how_far_they_land_from_their_targets():
    start, targets = [-1.0, 0.5, 2.0], torch.tensor([[-1.0], [0.0], [3.0]])
    figure = rivers_figure(FIELDS, (0.0, 1.0), start, targets, rtol=1e-8, atol=1e-10)
    for ax, (name, rate) in zip(figure.axes, {"in": -1.0, "out": 1.0}.items(), strict=True):
        landed = np.array(start) * math.exp(rate)
        paths, misses, marks = (lines(ax, label) for label in ("_path", "_miss", "_target"))
        np.testing.assert_allclose(
            [(*path[0], *path[-1]) for path in paths],
            [(0, a, 1, b) for a, b in zip(start, landed, strict=True)],
            atol=1e-7,
        )
        wanted = targets.numpy()[:, 0]
        np.testing.assert_allclose(misses, [[(1, a), (1, b)] for a, b in zip(landed, wanted, strict=True)], atol=1e-7)
        np.testing.assert_allclose([mark[0, 1] for mark in marks], wanted)
        assert ax.get_title(loc="left") == f"{name}: off by {np.abs(landed - wanted).mean():.2g}"


def test_panels_share_their_range_and_the_colours_of_their_water():
    figure = rivers_figure({"slow": lambda t, z: 0 * z + 0.1, "fast": lambda t, z: 0 * z + 1.0}, (0.0, 1.0), [0.0])
    slow, fast = figure.axes
    assert slow.get_ylim() == fast.get_ylim()
    lightness = [np.asarray(ax.images[0].get_array())[..., :3].mean() for ax in (slow, fast)]
    assert lightness[0] > lightness[1] + 0.1
    assert [ax.get_title(loc="left") for ax in (slow, fast)] == ["slow", "fast"]


def test_fields_may_be_modules_of_another_dtype():
    figure = rivers_figure({"single": LinearField(1), "double": LinearField(1).double()}, (1.0, 0.0), [1.0])
    assert [lines(ax, "_path")[0][0, 0] for ax in figure.axes] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fields": {}}, "fields must hold at least one field"),
        ({"z0_values": []}, "z0_values must hold at least one number"),
        ({"targets": []}, "targets must hold a number for each boat, 1, got 0"),
        ({"fields": torch.sin}, "fields must be a mapping of titles to fields"),
        ({"z0_values": None}, "must be told by numbers, got None"),
        ({"t_span": (1.0, 1.0)}, "t_span must have two different times"),
    ],
)
def test_a_bad_argument_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        rivers_figure(**{"fields": FIELDS, "t_span": (0.0, 1.0), "z0_values": [1.0], **arguments})
