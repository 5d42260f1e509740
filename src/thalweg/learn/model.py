"""The model of the whole job: an encoder puts the boat in, the flow carries it, a decoder reads where it came ashore.

x: (batch, inputs); z: (batch, state_dim); outputs: (batch, outputs).
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from ..nn import Augment, MLPField, NeuralODE, ResNet
from .config import ModelConfig, SolverConfig

_MANY_INPUTS = 32
_CALM = 0.1  # by how much a field's last layer is made smaller at the start: boats then drift before they race


_BUILDING = threading.Lock()  # PyTorch draws first weights from the one random state of all threads


class Hide(nn.Dropout):
    """Dropout that draws from a generator where it has one, and so from nothing that other threads draw from.

    Examples
    --------
    >>> import torch
    >>> from thalweg.learn.model import Hide
    >>> hide = Hide(0.5)
    >>> hide.generator = torch.Generator().manual_seed(0)
    >>> hide(torch.ones(4)).unique()
    tensor([0., 2.])
    """

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The numbers, some of them 0 and the others larger for it while training."""
        if not self.training:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * kept.div_(1 - self.p)


class FlowModel(nn.Module):
    """Encoder, flow, decoder: `decoder(flow(encoder(x)))`.

    Parameters
    ----------
    encoder, flow, decoder : Module
        z0 = encoder(x), z1 = flow(z0) of the same shape, output = decoder(z1). Without a flow, `flow` is the identity.

    Examples
    --------
    >>> import torch
    >>> from thalweg.learn.config import ModelConfig, SolverConfig
    >>> from thalweg.learn.model import build_model
    >>> model = build_model(ModelConfig(), SolverConfig(), n_inputs=4, n_outputs=3, seed=0)
    >>> model(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, encoder: nn.Module, flow: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.flow = flow
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Logits or standardised targets (batch, outputs)."""
        return self.decoder(self.flow(self.encoder(x)))

    @property
    def nfev(self) -> float:
        """Field evaluations a sample in the last forward pass."""
        if isinstance(self.flow, NeuralODE):
            return self.flow.nfev
        return float(self.flow.depth) if isinstance(self.flow, ResNet) else 0.0

    @property
    def nfev_backward(self) -> float:
        """Field evaluations of the last backward pass; backpropagation through residual blocks needs none."""
        return float(self.flow.nfev_backward) if isinstance(self.flow, NeuralODE) else 0.0

    @property
    def n_parameters(self) -> int:
        """How many numbers training may change."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def build_model(model: ModelConfig, solver: SolverConfig, n_inputs: int, n_outputs: int, seed: int) -> FlowModel:
    """Build the model that a configuration describes, with weights that depend on `seed` alone.

    Parameters
    ----------
    model : ModelConfig
        The parts and their sizes.
    solver : SolverConfig
        How the flow is solved, where it is an ODE.
    n_inputs, n_outputs : int
        Numbers of features and of outputs.
    seed : int
        Decides the initial weights; the global random state is neither read nor changed.

    Raises
    ------
    ValueError
        When a size cannot be, such as an identity encoder into a state smaller than its input.

    Examples
    --------
    >>> from thalweg.learn.config import ModelConfig, SolverConfig
    >>> from thalweg.learn.model import build_model
    >>> build_model(ModelConfig(state_dim=3, width=8, depth=1), SolverConfig(), 2, 2, seed=0).n_parameters
    87
    """
    for name, count in (("n_inputs", n_inputs), ("n_outputs", n_outputs)):
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}")
    state_dim = choose_state_dim(n_inputs, model.encoder) if model.state_dim is None else model.state_dim
    with _BUILDING, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        encoder = _encoder(model, n_inputs, state_dim)
        decoder = _decoder(model, state_dim, n_outputs)
        return FlowModel(encoder, _flow(model, solver, state_dim), decoder)


def choose_state_dim(n_inputs: int, encoder: str = "linear") -> int:
    """The dimension of the state where none is given.

    As many as there are inputs, but at least 8, since paths cannot cross and a low plane leaves them no room to pass,
    and at most 64.

    Examples
    --------
    >>> [choose_state_dim(n) for n in (2, 13, 500)]
    [8, 13, 64]
    """
    return max(n_inputs, 8) if encoder == "identity" else min(max(n_inputs, 8), 64)


def choose_dropout(n_inputs: int) -> float:
    """The share of hidden inputs where none is given: a fifth where there are many, none where each may say all.

    Examples
    --------
    >>> [choose_dropout(n) for n in (2, 13, 64)]
    [0.0, 0.0, 0.2]
    """
    return 0.2 if n_inputs >= _MANY_INPUTS else 0.0


def _encoder(model: ModelConfig, n_inputs: int, state_dim: int) -> nn.Module:
    dropout = choose_dropout(n_inputs) if model.dropout is None else model.dropout
    encoder = _bare_encoder(model, n_inputs, state_dim)
    return nn.Sequential(Hide(dropout), encoder) if dropout else encoder


def _bare_encoder(model: ModelConfig, n_inputs: int, state_dim: int) -> nn.Module:
    if model.encoder == "linear":
        return nn.Linear(n_inputs, state_dim)
    if model.encoder == "mlp":
        return nn.Sequential(nn.Linear(n_inputs, model.width), nn.SiLU(), nn.Linear(model.width, state_dim))
    if state_dim < n_inputs:
        raise ValueError(
            f"state_dim must be at least the number of inputs, {n_inputs}, with encoder='identity', got "
            f"{state_dim}; raise it, or choose encoder='linear'"
        )
    return Augment(state_dim - n_inputs)


def _decoder(model: ModelConfig, state_dim: int, n_outputs: int) -> nn.Module:
    if model.decoder == "linear":
        return nn.Linear(state_dim, n_outputs)
    return nn.Sequential(nn.Linear(state_dim, model.width), nn.SiLU(), nn.Linear(model.width, n_outputs))


def _flow(model: ModelConfig, solver: SolverConfig, state_dim: int) -> nn.Module:
    if model.flow == "none":
        return nn.Identity()
    if model.flow == "resnet":
        if model.resnet_shared:
            return ResNet(_field(model, state_dim), model.resnet_depth)
        return ResNet([_field(model, state_dim) for _ in range(model.resnet_depth)])
    return NeuralODE(
        _field(model, state_dim),
        (solver.t0, solver.t1),
        method=solver.method,
        step_size=solver.step_size,
        rtol=solver.rtol,
        atol=solver.atol,
        batching=solver.batching,
        gradient=solver.gradient,
        backend=solver.backend,
        learn_times=solver.learn_times,
        max_steps=solver.max_steps,
    )


def _field(model: ModelConfig, state_dim: int) -> MLPField:
    field = MLPField(state_dim, width=model.width, depth=model.depth, activation=model.activation, time=model.time)
    with torch.no_grad():
        for parameter in field.layers[-1].parameters():
            parameter.mul_(_CALM)
    return field
