"""The figures of a fitted estimator show where it carries its rows."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from thalweg import NeuralODEClassifier, NeuralODERegressor
from thalweg.figures import draw_estimator

QUICK = {"state_dim": 1, "width": 4, "max_epochs": 1, "random_state": 0}


def rows():
    """A column of numbers and one of words, labels and a target."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=24), "town": rng.choice(["Aix", "Bar"], 24)})
    return frame, np.where(frame["size"] > 0, "large", "small"), 2 * frame["size"].to_numpy()


@pytest.mark.parametrize("kind", [NeuralODEClassifier, NeuralODERegressor])
def test_paths_are_the_trajectories_of_the_rows(kind):
    X, labels, target = rows()
    y = labels if kind is NeuralODEClassifier else target
    estimator = kind(**QUICK).fit(X, y)
    ax = draw_estimator(estimator, X, y, boats=len(X))["figure1-flow"].axes[0]
    drawn = np.array([line.get_ydata()[[0, -1]] for line in ax.lines if line.get_label() == "_path"])
    expected = estimator.trajectory(X)[[0, -1], :, 0].double().numpy()
    np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(expected[0]), atol=1e-6)
    np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(expected[1]), atol=1e-3)


def colours(figures):
    return [line.get_color() for line in figures["figure1-flow"].axes[0].lines if line.get_label() == "_path"]


@pytest.mark.parametrize("kind", [bool, object])
def test_a_target_that_fit_takes_is_drawn(kind):
    X, _, target = rows()
    y = (target > 0).astype(kind) if kind is bool else target.astype(kind)
    regressor = NeuralODERegressor(**QUICK).fit(X, y)
    assert colours(draw_estimator(regressor, X, y)) == colours(draw_estimator(regressor, X, y.astype(float)))


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_labels_in_a_column_are_drawn_as_fit_takes_them():
    X, labels, _ = rows()
    classifier = NeuralODEClassifier(**QUICK).fit(X, labels)
    assert colours(draw_estimator(classifier, X, labels[:, None])) == colours(draw_estimator(classifier, X, labels))


def test_classes_have_their_names_and_others_are_refused():
    X, labels, _ = rows()
    classifier = NeuralODEClassifier(**QUICK).fit(X, labels)
    figure = draw_estimator(classifier, X, labels)["figure1-flow"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["large", "small"]
    with pytest.raises(ValueError, match="y holds 'tiny', which is none of the estimator's classes"):
        draw_estimator(classifier, X, np.where(labels == "small", "tiny", labels))


def test_what_is_not_fitted_or_no_estimator_of_flows_is_said_so():
    X, labels, target = rows()
    with pytest.raises(NotFittedError):
        draw_estimator(NeuralODEClassifier(), X, labels)
    with pytest.raises(ValueError, match=r"estimator must be a NeuralODEClassifier.*got LinearRegression"):
        draw_estimator(LinearRegression(), X, target)
