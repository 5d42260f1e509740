"""Which entries of a Jacobian may differ from zero, and which of its rows and columns are found together.

Columns that share no row can be added up and told apart again, so a Jacobian costs as many products with vectors as its
columns need colours, if columns that share a row have different ones (Curtis, Powell & Reid 1974). Rows likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Sparsity:
    """Where a Jacobian may differ from zero, with the colours of its rows and columns.

    `solve_ivp` takes the pattern itself as `jac_sparsity`; made once, this serves many solves.

    Parameters
    ----------
    pattern : Tensor, array or sparse matrix (N, N)
        Entry (i, j) is true, or is not zero, where entry i of the slope depends on entry j of the state.

    Attributes
    ----------
    pattern : Tensor (N, N)
        The same, of bools.
    rows, columns : Tensor (N,)
        The colour of each row and of each column, from 0 on: rows of one colour share no column, and columns of one
        colour no row.

    References
    ----------
    Curtis, Powell & Reid, "On the estimation of sparse Jacobian matrices", IMA J. Applied Mathematics 13 (1974).

    Examples
    --------
    Diffusion along a line of a hundred places costs three products, and not a hundred:

    >>> import torch, thalweg
    >>> band = thalweg.Sparsity.banded(100, lower=1, upper=1)
    >>> int(band.columns.max()) + 1
    3
    >>> def diffusion(t, y):
    ...     return torch.nn.functional.pad(y.diff(), (0, 1)) - torch.nn.functional.pad(y.diff(), (1, 0))
    >>> y0 = torch.linspace(0, 1, 100, dtype=torch.float64).sin()
    >>> thalweg.solve_ivp(diffusion, (0.0, 50.0), y0, "rodas5p", jac_sparsity=band).success
    True
    """

    def __init__(self, pattern: Any) -> None:
        whole = pattern.toarray() if hasattr(pattern, "toarray") else pattern
        if isinstance(whole, torch.Tensor) and whole.layout is not torch.strided:
            whole = whole.to_dense()
        try:
            self.pattern = (torch.as_tensor(whole, device="cpu") != 0).detach()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                "jac_sparsity must be a tensor, an array or a sparse matrix of shape (N, N), or ('banded', lower, "
                f"upper), got {type(pattern).__name__}"
            ) from None
        if self.pattern.ndim != 2 or self.pattern.shape[0] != self.pattern.shape[1]:
            raise ValueError(
                "jac_sparsity must have shape (N, N), N the length of the state or of a row of it, got "
                f"{tuple(self.pattern.shape)}"
            )
        self.rows, self.columns = _coloured(self.pattern.t()), _coloured(self.pattern)

    @classmethod
    def banded(cls, size: int, lower: int, upper: int) -> Sparsity:
        """The pattern with `lower` diagonals below the main one and `upper` above it."""
        for name, count in (("lower", lower), ("upper", upper)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"{name} of a banded jac_sparsity must be a number of diagonals, got {count!r}")
        return cls(torch.ones(size, size, dtype=torch.bool, device="cpu").triu(-lower).tril(upper))

    @classmethod
    def of(cls, value: Any, size: int) -> Sparsity:
        """From what `solve_ivp` takes, for a Jacobian of that size."""
        if isinstance(value, Sequence) and len(value) == 3 and value[0] == "banded":
            return cls.banded(size, *value[1:])
        found = value if isinstance(value, Sparsity) else cls(value)
        if len(found.pattern) != size:
            raise ValueError(
                f"jac_sparsity must have shape {(size, size)}, a row for each entry of the slope and a column for each "
                f"of the state, got {tuple(found.pattern.shape)}"
            )
        return found


class Seeds:
    """The vectors by which a Jacobian with that pattern is found, on the state's device and of its dtype.

    Attributes
    ----------
    rows, columns : Tensor (C, N)
        Row g holds ones at the rows, or columns, of colour g.
    """

    def __init__(self, sparsity: Sparsity, like: Tensor) -> None:
        self.sparsity = sparsity
        self._pattern = sparsity.pattern.to(like.device)
        self._row, self._column = sparsity.rows.to(like.device), sparsity.columns.to(like.device)
        self.rows, self.columns = (_indicators(colour).to(like.dtype) for colour in (self._row, self._column))

    def from_rows(self, sums: Tensor) -> Tensor:
        """J (…, N, N), from the sums (C, …, N) of its rows of each colour."""
        return torch.where(self._pattern, sums[self._row].movedim(0, -2), 0.0)

    def from_columns(self, sums: Tensor, sizes: Tensor | None = None) -> Tensor:
        """J, from the sums (C, …, N) of its columns of each colour, each times its size (…, N)."""
        spread = sums[self._column].movedim(0, -1)
        return torch.where(self._pattern, spread if sizes is None else spread / sizes.unsqueeze(-2), 0.0)


def _indicators(colour: Tensor) -> Tensor:
    count = int(colour.max()) + 1 if colour.numel() else 0
    return torch.eye(count, device=colour.device)[colour].t() if count else torch.zeros(0, 0, device=colour.device)


def _coloured(pattern: Tensor) -> Tensor:
    """A colour for each column, the first that no column has with which it shares a row."""
    from scipy import sparse

    matrix = sparse.csr_array(pattern.numpy().astype(np.float32))
    shared = (matrix.T @ matrix).tocsr()
    colours = [-1] * pattern.shape[1]
    for column in range(len(colours)):
        taken = {colours[other] for other in shared.indices[shared.indptr[column] : shared.indptr[column + 1]]}
        colours[column] = next(colour for colour in range(len(colours)) if colour not in taken)
    return torch.tensor(colours, dtype=torch.int64, device="cpu")
