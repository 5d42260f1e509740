"""How the rows that an estimator is given become features: arrays and frames of numbers, and frames of all kinds.

X: (N, features); features: (N, inputs).
"""

from __future__ import annotations

import re
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from .columns import Column, frame_features, learn_columns, weighted_median
from .values import LARGEST, Array, centre_and_scale, standardised


class Inputs(Protocol):
    """How rows become features."""

    def check(self, estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
        """The rows, if they are what was asked for."""

    def learn(self, X: Any, weight: Array | None) -> None:
        """Learn means and the like from rows."""

    def features(self, X: Any) -> NDArray[Any]:
        """The features (N, n_inputs) of checked rows."""


class _Numbers:
    """Arrays, and frames of nothing but numbers: standardised.

    A frame that lacks no value in the rows of `fit` may lack some in others, as in the folds of a cross-validation:
    they count as the median. An array must be whole everywhere, as scikit-learn wants it.
    """

    def __init__(self, *, of_frame: bool) -> None:
        self.gaps: bool | Literal["allow-nan"] = "allow-nan" if of_frame else True

    def check(self, estimator: BaseEstimator, X: Any, *, reset: bool) -> NDArray[Any]:
        kinds = [np.float64, np.float32]
        try:
            rows: NDArray[Any] = validate_data(estimator, X, dtype=kinds, ensure_all_finite=self.gaps, reset=reset)
        except ValueError as error:
            raise ValueError(_say_what_holds(X, str(error))) from error
        check_size(rows, "X")
        return rows

    def learn(self, X: NDArray[Any], weight: Array | None) -> None:
        weight = np.ones(len(X)) if weight is None else weight / weight.max()
        self.mean, self.scale = centre_and_scale(X, weight)
        self.medians = np.array([weighted_median(column, weight) for column in X.T])

    def features(self, X: NDArray[Any]) -> NDArray[Any]:
        X = np.where(np.isnan(X), self.medians.astype(X.dtype), X)
        return standardised(X, self.mean, self.scale)


class _Frames:
    """Data frames that hold text, dates or missing values: each column as a `Schema` makes it."""

    def check(self, estimator: BaseEstimator, X: Any, *, reset: bool) -> pd.DataFrame:
        if not isinstance(X, pd.DataFrame):
            names = ", ".join(map(str, estimator.feature_names_in_[:5]))
            raise ValueError(f"X must be a data frame, as it was in fit, with columns {names}, got {type(X).__name__}")
        if not len(X):
            raise ValueError("X must have at least one row, got a data frame of none")
        rows: pd.DataFrame = validate_data(estimator, X, skip_check_array=True, reset=reset)
        return rows

    def learn(self, X: pd.DataFrame, weight: Array | None) -> None:
        self.columns: list[Column] = learn_columns(X, weight=weight)

    def features(self, X: pd.DataFrame) -> NDArray[Any]:
        return frame_features(self.columns, X)


def inputs_for(X: Any) -> Inputs:
    """How rows such as these become features."""
    if not isinstance(X, pd.DataFrame):
        return _Numbers(of_frame=False)
    numbers = all(pd.api.types.is_numeric_dtype(kind) for kind in X.dtypes) and X.notna().all(axis=None)
    return _Numbers(of_frame=True) if numbers else _Frames()


def check_size(numbers: NDArray[Any], name: str) -> None:
    """See that numbers can be squared, as they are to be standardised."""
    largest = float(np.fmax.reduce(np.abs(numbers), axis=None, initial=0))  # of those that are not missing
    if largest > LARGEST:
        raise ValueError(
            f"{name} must hold numbers of at most {LARGEST:g} in size for arithmetic, but one of size {largest:g} "
            "is in it; replace it, or give all in another unit"
        )


def take(X: Any, rows: NDArray[np.intp]) -> Any:
    """Some of the rows."""
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]


def _say_what_holds(X: Any, message: str) -> str:
    """What scikit-learn says of rows that are none, or no numbers; with how they may be, where that can be told."""
    if getattr(X, "ndim", 2) > 2:
        return (
            f"X must have rows of features, got an array of shape {tuple(X.shape)}; images and the like are rows of "
            "their pixels, as X.reshape(len(X), -1) has them"
        )
    text = re.match(r"could not convert string to float: (?:np\.\w+\()?(b?(?:'.*'|\".*\"))", message)
    held = f"the text {text[1]}" if text else "NaN" if "contains NaN" in message else None
    if held is None:
        return message
    if isinstance(X, pd.DataFrame):
        return f"X held nothing but numbers in fit, and now holds {held}; leave it out, or begin anew with such rows"
    return (
        f"X holds {held}: {type(X).__name__} must hold finite numbers alone, and a pandas data frame may hold text and "
        "missing values too; fit to one, such as pd.DataFrame(X) or, of other libraries, X.to_pandas()"
    )
