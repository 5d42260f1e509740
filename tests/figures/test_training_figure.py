"""The figure of a training shows its records."""

import numpy as np
import pytest

from thalweg.figures import training_figure
from thalweg.figures.training import draw_training

RECORDS = [
    {"epoch": 3, "loss": 1.0, "val_loss": 1.5, "score": 0.5, "val_score": 0.4, "nfev": 14.0, "nfev_backward": 13.0},
    {"epoch": 4, "loss": 0.04, "val_loss": 0.5, "score": 0.9, "val_score": 0.8, "nfev": 20.0, "nfev_backward": 25.0},
]


def test_each_panel_shows_its_numbers_by_epoch():
    axes = draw_training(RECORDS).axes
    drawn = {
        (ax.get_title(loc="left"), line.get_label()): line.get_xydata().tolist() for ax in axes for line in ax.lines
    }
    assert drawn == {
        ("loss", "training"): [[3, 1.0], [4, 0.04]],
        ("loss", "held out"): [[3, 1.5], [4, 0.5]],
        ("score", "training"): [[3, 0.5], [4, 0.9]],
        ("score", "held out"): [[3, 0.4], [4, 0.8]],
        ("field evaluations", "forward"): [[3, 14.0], [4, 20.0]],
        ("field evaluations", "backward"): [[3, 13.0], [4, 25.0]],
    }


def test_what_is_missing_or_not_finite_is_left_out():
    records = [{"loss": 1.0, "val_loss": None, "score": np.nan}, {"loss": 0.5, "nfev": 0.0}]
    (ax,) = draw_training(records).axes
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[1, 1.0], [2, 0.5]]


def test_a_line_looks_the_same_in_all_panels_whatever_stands_beside_it():
    """A score of nothing is one, too; a field that is not there costs nothing."""
    records = [{"loss": 2.0, "val_loss": 2.5, "score": 0.0, "val_score": 0.1, "nfev": 0.0}, {"val_score": 0.2}]
    loss, score = draw_training(records).axes
    looks = [{line.get_label(): (line.get_color(), line.get_linestyle()) for line in ax.lines} for ax in (loss, score)]
    assert looks[0] == looks[1]
    assert set(looks[0]) == {"training", "held out"}
    (alone,) = draw_training([{"val_loss": 1.0}]).axes[0].lines
    assert alone.get_color() == looks[0]["held out"][0]


def test_the_score_is_called_by_its_name():
    assert [ax.get_title(loc="left") for ax in draw_training(RECORDS, "accuracy").axes][:2] == ["loss", "accuracy"]
    far = [{"loss": 1e5, "score": -1e5}, {"loss": 1.0, "score": 0.1}]
    assert draw_training(far, "R²").axes[1].get_title(loc="left") == "R², from −1 up"


def test_a_loss_is_on_a_logarithmic_scale_where_it_falls_far():
    assert draw_training(RECORDS).axes[0].get_yscale() == "log"
    assert draw_training([{"loss": 1.0}, {"loss": 0.5}]).axes[0].get_yscale() == "linear"
    assert draw_training([{"loss": 1.0}, {"loss": 0.0}]).axes[0].get_yscale() == "linear"


def test_a_first_score_far_below_all_others_takes_no_room_from_them():
    _, ax = draw_training([{"loss": 1e5, "score": -1e5}, {"loss": 1.0, "score": 0.1}, {"loss": 0.5, "score": 0.9}]).axes
    assert ax.get_ylim()[0] == -1.0
    assert 0.9 < ax.get_ylim()[1] < 1.1
    assert ax.get_title(loc="left") == "score, from −1 up"
    _, ax = draw_training([{"loss": 1e5, "score": -1e5}, {"loss": 9.0, "score": -8.0}]).axes
    assert ax.get_ylim()[0] < -1e5  # where there is nothing else to see


def test_one_epoch_is_a_point_above_its_number():
    figure = draw_training(RECORDS[:1])
    figure.canvas.draw()
    assert [x for x in figure.axes[0].get_xticks() if x != int(x)] == []


def test_files_that_are_there_are_kept(tmp_path):
    first, second = (training_figure(RECORDS[:1], tmp_path) for _ in range(2))
    assert [path.name for path in first] == ["training.png", "training.svg"]
    assert [path.name for path in second] == ["training-2.png", "training-2.svg"]


@pytest.mark.parametrize("records", [[], [{"epoch": 1}], [{"loss": None, "nfev": float("nan")}]])
def test_nothing_to_draw_is_one_clear_error(records, tmp_path):
    with pytest.raises(ValueError, match="records must hold at least one epoch"):
        training_figure(records, tmp_path / "new")
    assert not (tmp_path / "new").exists()
