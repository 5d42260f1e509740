"""From which side a state of many dimensions is looked at.

z: (…, D) states; y: (N,) class codes or targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

Array = NDArray[np.float64]
Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class View:
    """An orthogonal projection of the state.

    Attributes
    ----------
    directions : (D, k) array
        Orthonormal columns, k of 1 or 2.
    labels : tuple of str
        What each column is, for an axis.
    """

    directions: Array
    labels: tuple[str, ...]

    def __call__(self, z: Array) -> Array:
        """States (…, D) as (…, k)."""
        return z @ self.directions

    def line(self, z: Array) -> Array:
        """States (…, D) as places (…) along the first direction."""
        return z @ self.directions[:, 0]


def choose_view(z1: Array, y: NDArray[np.generic], task: Task) -> View:
    """The line, and where the state has room the plane, that shows best what the flow has done by t1.

    The first direction is the one along which the answers are told apart at t1: Fisher's discriminant of the classes,
    or the slope of the target. The second is the next discriminant where there is one, else the direction in which the
    boats vary most besides. A state of one dimension is drawn as it is.

    Parameters
    ----------
    z1 : (N, D) array
        The states at t1.
    y : (N,) array
        Class codes or targets.
    task : {"classification", "regression"}

    Examples
    --------
    >>> import numpy as np
    >>> z1 = np.array([[-1.0, 5.0], [-1.1, -5.0], [1.0, 5.0], [1.1, -5.0]])
    >>> view = choose_view(z1, np.array([0, 0, 1, 1]), "classification")
    >>> bool(abs(view.directions[0, 0]) > 0.99)
    True
    """
    if z1.shape[1] == 1:
        return View(np.ones((1, 1)), ("state z",))
    if task == "classification":
        telling, names = _discriminants(z1, y), ["discriminant 1", "discriminant 2"]
    else:
        telling, names = _slope(z1, y), ["the target's slope"]
    names = names[: telling.shape[1]]
    names += ["principal axis 1", "principal axis 2"][: 2 - len(names)]
    directions = _orthonormal(np.column_stack([telling, _spread(z1)]), 2)
    return View(directions, tuple(f"z along {name}" for name in names))


def _discriminants(z: Array, y: NDArray[np.generic]) -> Array:
    """Fisher's directions (D, ·): along them the scatter between classes is largest beside that within."""
    classes = [z[y == code] for code in np.unique(y)]
    within = sum(((part - part.mean(0)).T @ (part - part.mean(0)) for part in classes), np.zeros((z.shape[1],) * 2))
    means = np.stack([np.sqrt(len(part)) * (part.mean(0) - z.mean(0)) for part in classes])
    # a little of the total scatter in every direction: classes may be points, and states may lie in a plane
    within += (1e-3 * np.trace(within + means.T @ means) / z.shape[1] + 1e-30) * np.eye(z.shape[1])
    whiten = np.linalg.inv(np.linalg.cholesky(within))
    _, ratio, directions = np.linalg.svd(means @ whiten.T, full_matrices=False)
    kept = ratio[: len(classes) - 1] > 1e-6
    return _signed((directions[: len(classes) - 1][kept] @ whiten).T)


def _slope(z: Array, y: NDArray[np.generic]) -> Array:
    """The direction (D, 1) in which a linear reading of the state says that the target grows; (D, 0) if none does."""
    largest = np.abs(y - y.mean()).max()
    if largest == 0:
        return np.zeros((z.shape[1], 0))
    slope: Array = Ridge(alpha=1e-3 * len(z)).fit(z, (y - y.mean()) / largest).coef_[:, None]  # whatever the unit of y
    return slope if np.abs(slope).max() > 1e-12 else slope[:, :0]


def _spread(z: Array) -> Array:
    """A whole basis (D, D), directions of most spread first."""
    return _signed(np.linalg.svd(z - z.mean(0), full_matrices=True)[2].T)


def _signed(columns: Array) -> Array:
    """The columns (D, k) with the largest entry of each positive: their sign means nothing, but shall stay the same."""
    return columns * np.sign(columns[np.abs(columns).argmax(0), np.arange(columns.shape[1])])


def _orthonormal(columns: Array, count: int) -> Array:
    """The first `count` independent columns, made orthogonal and of length one."""
    basis = np.zeros((len(columns), 0))
    for column in columns.T:
        rest = column / (np.linalg.norm(column) or 1.0)
        for _ in range(2):  # once more, for what rounding left
            rest = rest - basis @ (basis.T @ rest)
        if np.linalg.norm(rest) > 1e-6:
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
        if basis.shape[1] == count:
            break
    return basis
