"""Fields to learn: dz/dt = f(t, z).

Time enters in one of three ways. `none`: the field does not depend on it. `concat`: it is a further input of each
layer. `gated`: each layer's output is multiplied by a gate and moved by a bias that both depend on it.

t: 0-d, or (batch, 1, …, 1) with as many dimensions as z.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Activation = str | Callable[[Tensor], Tensor]
TimeMode = Literal["none", "concat", "gated"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "elu": nn.functional.elu,
    "softplus": nn.functional.softplus,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
}


class MLPField(nn.Module):
    """A multilayer perceptron as a field on vectors.

    Parameters
    ----------
    features : int
        The dimension of the state.
    width : int
        The number of units of each hidden layer.
    depth : int
        The number of hidden layers; 0 gives one linear layer.
    activation : str or callable
        One of tanh, relu, silu, gelu, elu, softplus, sigmoid, sin, or a function of a tensor. Smooth ones suit
        solvers of high order.
    time : {"none", "concat", "gated"}
        How time enters.

    Examples
    --------
    >>> import torch
    >>> from thalweg.nn import MLPField
    >>> field = MLPField(4, width=16, depth=1)
    >>> field(torch.tensor(0.5), torch.zeros(3, 4)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        features: int,
        *,
        width: int = 64,
        depth: int = 2,
        activation: Activation = "tanh",
        time: TimeMode = "concat",
    ) -> None:
        super().__init__()
        _check_counts(features=features, width=width)
        if not (isinstance(depth, int) and depth >= 0):
            raise ValueError(f"depth must be an integer of 0 or more, got {depth!r}")
        sizes = [features, *[width] * depth, features]
        self.features = features
        self.activation = _activation(activation)
        self.layers = nn.ModuleList(_TimedLinear(n_in, n_out, time) for n_in, n_out in pairwise(sizes))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """dz/dt, for z (..., features)."""
        _check_state(t, z, self.features)
        for layer in self.layers[:-1]:
            z = self.activation(layer(t, z))
        return self.layers[-1](t, z)


class LinearField(nn.Module):
    """A linear field, dz/dt = A z (+ b).

    Parameters
    ----------
    features : int
        The dimension of the state.
    bias : bool
        Whether there is a b.
    time : {"none", "concat", "gated"}
        How time enters.

    Examples
    --------
    >>> import torch
    >>> from thalweg.nn import LinearField
    >>> LinearField(2)(torch.tensor(0.0), torch.zeros(1, 2))
    tensor([[0., 0.]], grad_fn=...)
    """

    def __init__(self, features: int, *, bias: bool = False, time: TimeMode = "none") -> None:
        super().__init__()
        _check_counts(features=features)
        self.features = features
        self.layer = _TimedLinear(features, features, time, bias=bias)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """dz/dt, for z (..., features)."""
        _check_state(t, z, self.features)
        return self.layer(t, z)


class ConvField(nn.Module):
    """A convolutional field on images, which keeps their size.

    Parameters
    ----------
    channels : int
        The channels of the state.
    width : int, optional
        The channels of hidden layers; as many as the state's by default.
    depth : int
        The number of hidden layers.
    kernel_size : int
        Odd.
    activation : str or callable
        As for `MLPField`.
    time : {"none", "concat", "gated"}
        How time enters.

    Notes
    -----
    Hidden layers are normalised by groups within each sample, so that no sample depends on its neighbours.

    Examples
    --------
    >>> import torch
    >>> from thalweg.nn import ConvField
    >>> ConvField(8)(torch.tensor(0.0), torch.zeros(2, 8, 7, 7)).shape
    torch.Size([2, 8, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int | None = None,
        depth: int = 1,
        kernel_size: int = 3,
        activation: Activation = "relu",
        time: TimeMode = "concat",
    ) -> None:
        super().__init__()
        width = channels if width is None else width
        _check_counts(channels=channels, width=width, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the state keeps its size, got {kernel_size}")
        if not (isinstance(depth, int) and depth >= 0):
            raise ValueError(f"depth must be an integer of 0 or more, got {depth!r}")
        sizes = [channels, *[width] * depth, channels]
        self.channels = channels
        self.activation = _activation(activation)
        self.layers = nn.ModuleList(_TimedConv(n_in, n_out, kernel_size, time) for n_in, n_out in pairwise(sizes))
        self.norms = nn.ModuleList(nn.GroupNorm(_groups(n), n) for n in sizes[1:-1])

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """dz/dt, for z (batch, channels, height, width)."""
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ValueError(
                f"this field takes states of shape (batch, {self.channels}, height, width), got {tuple(z.shape)}"
            )
        for layer, norm in zip(self.layers, self.norms, strict=False):
            z = self.activation(norm(layer(t, z)))
        return self.layers[-1](t, z)


class _TimedLinear(nn.Module):
    """A linear layer that time may enter."""

    def __init__(self, n_in: int, n_out: int, time: TimeMode, *, bias: bool = True) -> None:
        super().__init__()
        self.time = _time_mode(time)
        self.linear = nn.Linear(n_in + (time == "concat"), n_out, bias=bias)
        if time == "gated":
            self.gate = nn.Linear(1, n_out)
            self.shift = nn.Linear(1, n_out, bias=False)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        if self.time == "none":
            return self.linear(z)
        column = t.expand(*z.shape[:-1], 1)
        if self.time == "concat":
            return self.linear(torch.cat([z, column], dim=-1))
        return self.linear(z) * torch.sigmoid(self.gate(column)) + self.shift(column)


class _TimedConv(nn.Module):
    """A convolution that time may enter, as a further channel or through gates."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int, time: TimeMode) -> None:
        super().__init__()
        self.time = _time_mode(time)
        self.conv = nn.Conv2d(n_in + (time == "concat"), n_out, kernel_size, padding=kernel_size // 2)
        if time == "gated":
            self.gate = nn.Linear(1, n_out)
            self.shift = nn.Linear(1, n_out, bias=False)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        if self.time == "none":
            return self.conv(z)
        if self.time == "concat":
            return self.conv(torch.cat([z, t.expand(z.shape[0], 1, *z.shape[2:])], dim=1))
        column = t.reshape(-1, 1)
        gate, shift = (x[:, :, None, None] for x in (torch.sigmoid(self.gate(column)), self.shift(column)))
        return self.conv(z) * gate + shift


def _activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    if callable(activation):
        return activation
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, or a function, got {activation!r}")
    return _ACTIVATIONS[activation]


def _time_mode(time: str) -> str:
    if time not in ("none", "concat", "gated"):
        raise ValueError(f"time must be 'none', 'concat' or 'gated', got {time!r}")
    return time


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")


def _check_state(t: Tensor, z: Tensor, features: int) -> None:
    """Refuse a state of another size, and one alone that was taken for a batch: it has a time for each number then."""
    if not z.ndim or z.shape[-1] != features or (z.ndim == 1 and t.ndim and len(t) > 1):
        alone = "; a state on its own is a batch of one, z[None]" if z.ndim < 2 else ""
        raise ValueError(f"this field takes states of shape (..., {features}), got {tuple(z.shape)}{alone}")


def _groups(channels: int) -> int:
    """The most groups, up to 32, that divide the channels."""
    return max(n for n in range(1, min(32, channels) + 1) if channels % n == 0)
