"""How much rows count: by weights of their own, and by those of their classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .values import Array


def row_weights(sample_weight: Any, rows: int) -> Array | None:
    """The weights of rows, None where all count alike.

    Raises
    ------
    ValueError
        When they are not one for each row, or no weights.

    Examples
    --------
    >>> row_weights([1, 2, 0], 3)
    array([1., 2., 0.])
    """
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.ndim == 0:
        weight = np.full(rows, float(weight))
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight must have shape ({rows},), one for each row, got {weight.shape}")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("sample_weight must be finite and not negative; NaN, infinity or a negative value is in it")
    if not weight.any():
        raise ValueError("sample_weight must not be zero for every row")
    return weight


def with_class_weights(
    class_weight: Any, classes: Sequence[Any], codes: NDArray[Any], weight: Array | None
) -> Array | None:
    """The weights of rows, times those of their classes; the largest is 1, as squares of any dtype can hold it.

    Parameters
    ----------
    class_weight : None, "balanced" or mapping
        `"balanced"`: classes count alike, however many rows each has. A mapping goes from labels to weights, 1 where
        it has none. As scikit-learn has it, a label may be no class where all classes have a weight: a fold of a
        cross-validation may lack one.
    classes : sequence (classes,)
        The labels.
    codes : array of int (N,)
        The place of each row's class among them.
    weight : array (N,), optional
        How often each row counts.

    Raises
    ------
    ValueError
        When it is none of these, names no class, or leaves no row that counts.

    Examples
    --------
    >>> with_class_weights("balanced", ["a", "b"], np.array([0, 0, 0, 1]), None).round(3)
    array([0.333, 0.333, 0.333, 1.   ])
    >>> with_class_weights({"b": 4}, ["a", "b"], np.array([0, 0, 0, 1]), None)
    array([0.25, 0.25, 0.25, 1.  ])
    """
    if class_weight is not None:
        counts = np.bincount(codes, weight, minlength=len(classes))
        weight = (1.0 if weight is None else weight) * _of_classes(class_weight, classes, counts)[codes]
        if not weight.any():
            raise ValueError(f"class_weight must not be zero for every row, got {class_weight!r}")
    return None if weight is None else weight / weight.max()


def _of_classes(class_weight: Any, classes: Sequence[Any], counts: NDArray[Any]) -> Array:
    """The weight of each class (classes,), of which there are so many rows."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        return 1.0 / np.where(counts > 0, counts, 1.0)
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            f"class_weight must be None, 'balanced' or a dict from labels to weights, got {class_weight!r}"
        )
    for label, value in class_weight.items():
        if isinstance(value, bool) or not (isinstance(value, Real) and 0 <= float(value) < math.inf):
            raise ValueError(
                f"class_weight must hold finite numbers that are not negative, got {value!r} for {label!r}"
            )
    strange = [label for label in class_weight if label not in classes]
    if strange and not all(label in class_weight for label in classes):
        raise ValueError(
            f"class_weight names {strange[0]!r}, which is none of the classes {', '.join(map(repr, classes[:12]))}"
            + (", …" if len(classes) > 12 else "")
        )
    return np.array([float(class_weight.get(label, 1.0)) for label in classes])
