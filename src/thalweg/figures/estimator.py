"""The figures of a fitted estimator, from what it was fitted with."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .model import draw_flow


def draw_estimator(estimator: Any, X: Any, y: Any, *, boats: int = 40, blocks: int = 6) -> dict[str, Figure]:
    """Draw what a fitted estimator has learnt, with rows as boats.

    Parameters
    ----------
    estimator : NeuralODEClassifier or NeuralODERegressor
        Fitted.
    X : array or data frame (N, features)
        As for its `predict`.
    y : (N,) or (N, outputs)
        Labels, or targets, as for its `fit`; they give the colours.
    boats, blocks : int
        As for `flow_figures`.

    Returns
    -------
    dict of str to matplotlib.figure.Figure
        Those of `flow_figures`, by their names; `save(figure, name)` keeps one.

    Raises
    ------
    ValueError
        When the estimator is none of these, is not fitted or has no flow, or y holds what is none of its classes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from thalweg import NeuralODEClassifier
    >>> from thalweg.figures import draw_estimator
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = NeuralODEClassifier(width=8, max_epochs=2, random_state=0).fit(X, y)
    >>> list(draw_estimator(classifier, X, y, boats=9))
    ['figure1-flow', 'figure2-steps', 'figure3-plane']
    """
    if not hasattr(estimator, "inputs"):
        raise ValueError(
            f"estimator must be a NeuralODEClassifier or a NeuralODERegressor, got {type(estimator).__name__}; models "
            "are drawn by draw_flow"
        )
    x = estimator.inputs(X)
    y = estimator._check_target(x, y)  # which takes what fit takes
    if not hasattr(estimator, "classes_"):
        return draw_flow(estimator.model_, x, y.astype(np.float64), "regression", boats=boats, blocks=blocks)
    codes = _codes(y, estimator.classes_)
    return draw_flow(estimator.model_, x, codes, "classification", estimator.classes_, boats=boats, blocks=blocks)


def _codes(labels: Any, classes: Any) -> Any:
    """Which of the classes each label is."""
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise ValueError(f"y holds {unknown[0].item()!r}, which is none of the estimator's classes, {classes.tolist()}")
    return np.searchsorted(classes, labels)
