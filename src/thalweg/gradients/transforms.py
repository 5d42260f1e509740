"""What of PyTorch's function transforms a solve can be part of, and that nothing may write it down.

`torch.func.grad`, `vjp`, `jacrev`, `jvp`, `jacfwd`, `hessian` and `torch.autograd.forward_ad` go through every
operation of the solver, as `direct` does. `torch.func.vmap` hides the values by which steps are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def refuse_vmap(tensors: Iterable[object]) -> None:
    """Refuse tensors that are a batch in disguise.

    Raises
    ------
    ValueError
        When one was made so by `torch.func.vmap`.
    """
    if any(isinstance(x, Tensor) and _batched(x) for x in tensors):
        raise ValueError(
            "solve_ivp cannot choose steps under torch.func.vmap, which hides the values of y0, t_span, args or what "
            "the field holds; solve the whole batch at once with batching='per_sample', which gives each sample the "
            "steps that it has alone, with an ensemble's vmap inside of the field"
        )


_WRITES = torch._C._TorchDispatchModeKey.PROXY
"""The mode in which PyTorch writes operations down."""


def refuse_writing() -> None:
    """Refuse a solve whose operations are written down, to be done to other numbers.

    Raises
    ------
    ValueError
        When `torch.jit.trace`, `torch.export`, `torch.func.linearize` or `make_fx` is at work.
    """
    traced, exported = torch._C._is_tracing(), torch.compiler.is_compiling()
    if traced or exported or torch._C._get_dispatch_mode(_WRITES) is not None:
        writer = "jit.trace" if traced else "export" if exported else "func.linearize or make_fx"
        raise ValueError(
            f"solve_ivp cannot be written down by torch.{writer}: its steps, and whether "
            "it fails, go by the numbers in y0; take the field alone (a thalweg.nn.ResNet is Euler's method with steps "
            "of 1), or torch.compile, which leaves solves as they are"
        )


def has_tangent(x: Tensor) -> bool:
    """Whether it is a dual number of `torch.autograd.forward_ad`."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None


def refuse_cotangent(cotangent: Tensor, error: RuntimeError) -> None:
    """Say in words why a backward pass failed, where it is that a transform has wrapped its cotangent.

    Raises
    ------
    RuntimeError
        Where it has.
    """
    functorch = torch._C._functorch
    if functorch.is_functorch_wrapped_tensor(cotangent) or functorch.is_legacy_batchedtensor(cotangent):
        raise RuntimeError(
            "torch.func's transforms, vectorize=True and is_grads_batched=True cannot go through the backward pass of "
            "this solve; choose gradient='direct', or take the gradients one by one"
        ) from error


def _batched(x: Tensor) -> bool:
    """Whether the values themselves are a batch, below what other transforms have wrapped them in."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False
