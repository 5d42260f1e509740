"""Fields of every make for the engine's tests: compositions of blocks that are bounded and use every instruction.

y: (B, F); t: 0-d, or (B, 1) per sample; scale: (B, F), each sample's own; mix: (F, F), shared; weights: (F,).
"""

import functools
import operator

import torch
from torch import nn
from torch.nn import functional as F


class Bare:
    """What a block may use beside the state."""

    def __init__(self, t, scale, mix, weights):
        self.t, self.scale, self.mix, self.weights = t, scale, mix, weights


BLOCKS = {
    "linear": lambda z, o: z @ o.mix + o.weights,
    "time": lambda z, o: z * torch.cos(2 * o.t) + o.t,
    "own": lambda z, o: z * o.scale,
    "tanh": lambda z, o: torch.tanh(z),
    "sigmoid": lambda z, o: torch.sigmoid(z) - o.scale,
    "sine": lambda z, o: torch.sin(2 * z) + torch.cos(z * o.weights),
    "relu": lambda z, o: F.relu(z) - 0.3,
    "leaky_relu": lambda z, o: F.leaky_relu(z, 0.1),
    "elu": lambda z, o: F.elu(z, 0.7) + F.selu(z - 1),
    "gelu": lambda z, o: F.gelu(z),
    "gelu_tanh": lambda z, o: F.gelu(z, approximate="tanh"),
    "silu": lambda z, o: F.silu(z),
    "softplus": lambda z, o: F.softplus(z, 2.0, 3.0),
    "clamp": lambda z, o: z.clamp(-0.7, 0.9),
    "abs": lambda z, o: z.abs() - torch.sign(o.weights) * o.scale,
    "sign": lambda z, o: z + 0.1 * torch.sign(z),
    "square": lambda z, o: torch.tanh(z) ** 2 + torch.tanh(z).square(),
    "powers": lambda z, o: torch.tanh(z) ** 3 + (1 + z * z) ** 0.7 - 1,
    "pow": lambda z, o: (1 + z * z) ** torch.tanh(o.weights) + (1 + o.weights**2) ** torch.tanh(z),
    "reciprocal": lambda z, o: torch.reciprocal(1 + z * z) - 1 / (1 + o.scale**2),
    "roots": lambda z, o: torch.sqrt(1 + z * z) - torch.rsqrt(1 + z * z),
    "exp": lambda z, o: torch.exp(-z * z) + torch.expm1(torch.sin(z)),
    "log": lambda z, o: torch.log(1 + z * z) - torch.log1p(torch.sigmoid(z)),
    "erf": lambda z, o: torch.erf(z) + torch.erfc(z * o.weights),
    "bases": lambda z, o: torch.exp2(z) - torch.log2(1 + z * z),
    "special": lambda z, o: torch.erfinv(0.9 * torch.tanh(z)) + torch.lgamma(1 + z * z) + torch.digamma(2 + z * z),
    "angles": lambda z, o: torch.atan2(z, o.weights) + torch.atan2(o.scale, z + o.t),
    "whole": lambda z, o: torch.floor(3 * z) / 5 - torch.round(2 * z) / 7,
    "rests": lambda z, o: torch.fmod(z, 0.3 + o.weights**2) + torch.remainder(z, 0.5 + z * z) + (o.t + z) % 0.7,
    "copysign": lambda z, o: torch.copysign(z * o.weights, o.scale) + torch.copysign(o.scale, z),
    "div": lambda z, o: z / (1 + o.weights**2) - o.weights / (1 + z * z),
    "extremes": lambda z, o: torch.minimum(z, o.weights) + torch.maximum(z, o.scale) - torch.maximum(z, z.roll(1, -1)),
    "compare": lambda z, o: (
        z * (z > o.weights) - (z >= o.scale).to(z.dtype) + (z < 0).to(z.dtype) * o.t + (z <= -1).to(z.dtype)
    ),
    "equal": lambda z, o: z * (z != o.weights) + (z == o.scale).to(z.dtype),
    "where": lambda z, o: torch.where(z > o.weights, z, o.t * o.scale),
    "mean": lambda z, o: z - z.mean(-1, keepdim=True),
    "amax": lambda z, o: z - z.amax(-1, keepdim=True) / 2,
    "softmax": lambda z, o: torch.softmax(z, -1) + z,
    "norm": lambda z, o: F.layer_norm(z, z.shape[-1:]),
    "moves": lambda z, o: torch.cat([z.flip(-1)[:, 1:], o.t.reshape(-1, 1).expand(len(z), 1)], -1) + z.roll(1, -1),
    "twice": lambda z, o: torch.tanh(z @ o.mix) @ o.mix.T,
}
"""What a field does one after the other; z is bounded by tanh between them."""

KINKED = frozenset(
    "relu leaky_relu elu softplus clamp abs sign extremes compare equal where amax whole rests copysign".split()  # noqa: SIM905
)
"""Those whose derivatives jump, or that do so themselves."""


class Composed(nn.Module):
    """dy/dt = sum over chains of their blocks, one after the other, and -y/2 where it is damped.

    Parameters
    ----------
    chains : sequence of sequences of str
        Names in `BLOCKS`.
    features : int
    """

    def __init__(self, chains, features, damped=True):
        super().__init__()
        self.chains, self.damped = chains, damped
        self.weights = nn.ParameterList(0.7 * torch.randn(features) for chain in chains for _ in chain)

    def forward(self, t, y, scale, mix):
        """dy/dt."""
        weights, terms = iter(self.weights), [-y / 2] if self.damped else []
        for chain in self.chains:
            z = y
            for name in chain:
                z = torch.tanh(BLOCKS[name](z, Bare(t, scale, mix, next(weights))))
            terms.append(z)
        return functools.reduce(operator.add, terms)
