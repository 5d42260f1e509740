"""Watches a field at work on tensors without data, and writes down what it does.

Every operation of PyTorch that the field calls comes by here, below autograd. What it does with parameters, constants
and shared arguments alone goes into the prologue; what it does with the state, the time and arguments that each
sample has of its own becomes instructions.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ..gradients.capture import nodes_of
from .builder import MIXED, Builder, KeepsTensor, Untraceable
from .prologue import Slot

_CUTS: dict[Any, str] = {
    Tensor.detach_: "detach_",
    Tensor.data.__get__: "data",  # type: ignore[attr-defined]
    Tensor.backward: "backward",
}
"""What keeps a gradient from the state, as PyTorch names it to `__torch_function__`."""

_DETACH = {Tensor.detach, torch.detach}
"""What does so for what it gives, which may serve where there is no gradient anyway."""

_HOOKS = {Tensor.register_hook, Tensor.register_post_accumulate_grad_hook}
"""What hangs a person's function on the way back of a tensor."""

_READS: dict[Any, str] = {
    getattr(Tensor, name): name
    for name in ("tolist", "numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "__repr__", "__format__")
}
"""What takes the numbers of a tensor out of PyTorch by ways that no operation tells of."""

_TEXTS = {Tensor.__repr__, Tensor.__format__}
"""What makes text of a tensor: whoever prints one means to see it at each evaluation."""

_NUMBERS: dict[Any, type[float | complex]] = {Tensor.__float__: float, Tensor.__complex__: complex}
"""What makes a number of a tensor, and PyTorch a warning where a gradient is asked for, as it is while watching."""

_FLAG: Any = Tensor.requires_grad.__get__  # type: ignore[attr-defined]


class Traced(Tensor):
    """A tensor without data: its codes where it may differ between samples, else its slot in the prologue."""

    codes: Tensor | None
    slot: int | None
    cut: str = ""
    """What keeps the gradient from it, if anything does: it may be compared, and serve to find places."""

    @staticmethod
    def of(like: Tensor, dtype: torch.dtype, *, codes: Tensor | None = None, slot: int | None = None) -> Traced:
        """One of the size and strides of another tensor."""
        traced = Tensor._make_wrapper_subclass(
            Traced, like.shape, strides=like.stride(), storage_offset=like.storage_offset(), dtype=dtype
        )
        traced.codes, traced.slot = codes, slot
        return traced

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What the field calls, before autograd sees it."""
        if func in _TEXTS:
            return f"Traced(shape={tuple(args[0].shape)}, dtype={args[0].dtype})"
        if func in _NUMBERS:
            return _NUMBERS[func](args[0].item())
        if func in _CUTS and any(isinstance(x, Traced) and x.codes is not None for x in args):
            raise Untraceable(f"the field cuts its own gradient ({_CUTS[func]})")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        if func in _DETACH and found.codes is not None:
            found.cut = "detach"
        return found

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Only what happens when the tracer looks away comes here."""
        raise Untraceable(f"the field calls {func} where it cannot be watched")


def _is_written(argument: Any) -> bool:
    """Whether an operation writes into what is given as this argument of its schema."""
    return argument.alias_info is not None and argument.alias_info.is_write


class _Reads(TorchFunctionMode):
    """Sees what a field learns of tensors by other ways than operations."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One call of a function or method of PyTorch; a refusal holds, also where the field catches the error."""
        try:
            return self._called(func, args, kwargs or {})
        except Untraceable as error:
            self.tracer.refusal = error
            raise

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _HOOKS:
            raise Untraceable("the field hangs a hook on a tensor")
        if func in _DETACH and torch._C._functorch.is_functorch_wrapped_tensor(args[0]):
            raise Untraceable("the field cuts its own gradient (detach within a transform)")
        if func == _FLAG and not isinstance(args[0], Traced):
            self.tracer.flagged[id(args[0])] = args[0]
        if func in _TEXTS and isinstance(args[0], Traced):  # no error: a log or a debugger would show that
            self.tracer.refusal = Untraceable("the field makes text of a tensor (print, str or format)")
        if func not in _READS or isinstance(args[0], Traced):
            return func(*args, **kwargs)
        self.tracer.known(args[0], f"reads numbers of a tensor ({_READS[func]})")
        with _disable_current_modes():
            return func(*args, **kwargs)


class Tracer(TorchDispatchMode):
    """Turns calls of PyTorch into a prologue and instructions.

    Parameters
    ----------
    builder : Builder
    """

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        self.builder = builder
        self.prologue = builder.prologue
        self.dtype = builder.dtype
        self.baked: dict[int, Tensor] = {}  # whose numbers are part of the program
        self.flagged: dict[int, Tensor] = {}  # where it matters whether they need a gradient
        self.refusal: Untraceable | None = None
        self._made: list[weakref.ref[Traced]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the field is called."""
        with _Reads(self), self:
            yield
        if self.refusal is not None:
            raise self.refusal

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch asks; to skip it, it would first import its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation."""
        from . import operators

        kwargs = kwargs or {}
        name = operators.name_of(func)
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags and not operators.is_sure(func, name, args, kwargs):
            raise Untraceable(f"the field draws random numbers ({name})")
        if name == "lift_fresh":  # a tensor that the field has made of numbers, which it may write into
            func, name = torch.ops.aten.clone.default, "clone"
        if torch.Tag.inplace_view in func.tags and name[:-1] in operators.MOVES:
            return self._turned(func, name, args, kwargs)
        if name == "_local_scalar_dense":
            return self.known(args[0], "reads a number out of a tensor (item, bool, float or int)").item()
        batched = any(isinstance(x, Traced) and x.codes is not None for x in tensors)
        if batched or operators.is_spread(self, name, args, kwargs):
            return operators.lower(self, func, name, args, kwargs)
        return self._before_the_solve(func, name, args, kwargs)

    def _turned(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A movement in place, as `vmap` makes of vectors' products: the tensor becomes what has been moved of it."""
        target = args[0]
        if not isinstance(target, Traced):
            raise Untraceable(f"the field writes into a tensor that it holds ({name})")
        with self:
            moved = getattr(torch.ops.aten, name[:-1])(*args, **kwargs)
        target.codes, target.slot, target.cut = moved.codes, moved.slot, moved.cut
        meta = torch._C._meta_in_tls_dispatch_include()
        torch._C._set_meta_in_tls_dispatch_include(True)  # it has no data, and its shape alone is to follow
        try:
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(meta)
        return target

    def _before_the_solve(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation on what is shared: the prologue's."""
        given = given_to(func, args, kwargs)
        written = [given[spec.name] for spec in func._schema.arguments if _is_written(spec)]
        if func._schema.is_mutable and not all(self._own(x) for x in written):
            raise Untraceable(f"the field writes into a tensor that it holds ({name})")
        self._all_known(_deciding_size(func, name, args), f"makes a tensor whose size depends on numbers ({name})")
        if not torch.is_grad_enabled():
            self._flag((args, kwargs))
        result = self.prologue.call(
            func, *pytree.tree_map(self._slotted, args), **pytree.tree_map(self._slotted, kwargs)
        )
        if func._schema.is_mutable and written and func._schema.returns:
            return written[0]
        if not all(isinstance(x, Slot) or x is None for x in pytree.tree_leaves(result)):
            self._all_known((args, kwargs), f"reads numbers of a tensor ({name})")
        return pytree.tree_map(self._of_slot, result)

    def _all_known(self, tree: Any, why: str) -> None:
        """Make the values of all tensors in a tree part of the program."""
        for x in pytree.tree_leaves(tree):
            if isinstance(x, Tensor):
                self.known(x, why)

    def _flag(self, tree: Any) -> None:
        """It matters whether what is there needs a gradient: whoever computes without one must be asked again."""
        for x in pytree.tree_leaves(tree):
            if isinstance(x, Tensor):
                for root in self.prologue.roots(self.slot(x)) or ():
                    self.flagged[id(root)] = root

    def _own(self, x: Any) -> bool:
        """Whether a tensor was made by the field in this very call."""
        if not (isinstance(x, Traced) and x.slot is not None):
            return False
        held = [self.prologue.values[slot] for slot in (*self.prologue.captured, *self.prologue.arguments)]
        with torch._C.DisableTorchFunction():  # it is not the field that looks
            start, *others = (y.untyped_storage().data_ptr() for y in (self.prologue.values[x.slot], *held))
        return start not in others

    def _slotted(self, x: Any) -> Any:
        """An argument as the prologue takes it."""
        return Slot(self.slot(x)) if isinstance(x, Tensor) else x

    def _of_slot(self, x: Any) -> Any:
        """A result of the prologue as the field sees it."""
        return self.shared(x.number) if isinstance(x, Slot) else x

    def slot(self, x: Tensor) -> int:
        """The slot of a tensor that is the same for all samples."""
        if isinstance(x, Traced):
            assert x.slot is not None
            return x.slot
        return self.prologue.capture(x)

    def shared(self, slot: int) -> Traced:
        """A slot as the field sees it."""
        value = self.prologue.values[slot]
        return self._noted(Traced.of(value, value.dtype, slot=slot))

    def traced(self, codes: Tensor, dtype: torch.dtype | None = None) -> Traced:
        """Codes as the field sees them."""
        return self._noted(Traced.of(codes, dtype or self.dtype, codes=codes))

    def unsaid(self, shape: Sequence[int], why: str) -> Traced:
        """Whole numbers that no program can say; only a field that makes use of them is refused, and told why."""
        return self.traced(torch.from_numpy(self.builder.unsaid(shape, why)), torch.int64)

    def _noted(self, made: Traced) -> Traced:
        self._made.append(weakref.ref(made))
        return made

    def refuse_kept(self) -> None:
        """Refuse a field that has put a tensor away: it would find it there when nobody watches."""
        if any(made() is not None for made in self._made):
            gc.collect()  # what only holds itself is gone; PyTorch's transforms leave some that nothing in Python holds
            kept = [x for x in [made() for made in self._made] if x is not None]
            if any(holder is not kept for holder in gc.get_referrers(*kept)):
                raise KeepsTensor

    def refuse_own_functions(self, out: Tensor) -> None:
        """Refuse what a person's own derivative led to: below autograd there is but what it computes."""
        for node in nodes_of([out.grad_fn]):
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                raise Untraceable(f"the field has a derivative of its own ({type(node).__name__})")

    def codes(self, x: Any) -> Tensor:
        """The codes of a tensor, shared or not, or of a number."""
        if isinstance(x, Traced) and x.codes is not None:
            return x.codes
        if isinstance(x, Tensor):
            return torch.from_numpy(self.builder.slot_codes(self.slot(x)))
        if isinstance(x, complex):
            raise Untraceable("the field computes with complex numbers")
        return torch.tensor(self.builder.constant(x), device="cpu")

    def known(self, x: Tensor, why: str) -> Tensor:
        """The values of a tensor, which must not depend on anything but what the field captured.

        They become part of the program: it holds as long as the tensors that they come from have the same.
        """
        if isinstance(x, Traced) and x.codes is not None:
            return self._known_codes(x, why)
        slot = self.slot(x)
        roots = self.prologue.roots(slot)
        if roots is None:
            raise Untraceable(f"the field {why} that depends on its arguments")
        for root in roots:
            self.baked[id(root)] = root
        return self.prologue.values[slot]

    def _known_codes(self, x: Traced, why: str) -> Tensor:
        """The values of what has a row for each sample, where these are taken from what is shared alone."""
        assert x.codes is not None
        slot = self.builder.picked(x.codes.numpy())
        if slot is None:
            raise Untraceable(f"the field {why} that depends on the state, the time or its arguments")
        return self.known(self.shared(slot), why).to(x.dtype).reshape(x.shape)


def _deciding_size(func: Any, name: str, args: tuple[Any, ...]) -> Any:
    """Those of an operation's arguments on whose numbers the size of the tensor depends that it makes."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return ()
    if name == "masked_select":
        return args[1]
    if name == "index":
        return [x for x in args[1] if isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8)]
    return args


def given_to(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an operation by their names."""
    return {**dict(zip((spec.name for spec in func._schema.arguments), args, strict=False)), **kwargs}


def is_batched(x: Any) -> bool:
    """Whether it is a tensor that may differ between samples."""
    return isinstance(x, Traced) and x.codes is not None


def is_mixed(x: Any) -> bool:
    """Whether several samples have made a tensor."""
    return is_batched(x) and bool((x.codes == MIXED).any())


def any_batched(xs: Sequence[Any]) -> bool:
    """Whether one of them may differ between samples."""
    return any(is_batched(x) for x in xs)
