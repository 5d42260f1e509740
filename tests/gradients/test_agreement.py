"""All gradient methods agree: on every family of steppers, batching, direction of time and form of output.

Exact ones, which differentiate what was computed, give what `direct` gives, to 1e-10 in float64. Continuous ones, which
solve another equation, are within ten times the tolerance of the gradient of the solution itself (ten times the
distance of `direct` from it, where a method errs by more than its tolerance), and ten times nearer where the tolerance
is a hundredth; with fixed steps, nearer to `direct` by the order of the method. What is refused is refused before
anything is solved, and the guide's table says so: `python tests/gradients/test_agreement.py` writes it.
"""

import itertools
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch

from gradient_checks import twin
from pairs import solve
from thalweg import Event, solve_ivp
from thalweg.gradients import GRADIENTS

F64 = torch.float64
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "gradients.md"
CONTINUOUS = {"adjoint", "interpolating", "gauss"} & GRADIENTS.keys()


@dataclass(frozen=True, eq=False)
class Family:
    """Steppers of one kind, by one of their methods."""

    words: str
    method: str
    options: dict = field(default_factory=dict)


FAMILIES = [
    Family("explicit Runge–Kutta", "dopri5"),
    Family("the same with extra stages for outputs", "vern7"),
    Family("the same in fixed steps", "rk4", {"step_size": 0.05}),
    Family("diagonally implicit", "kvaerno5"),
    Family("fully implicit", "radau5"),
    Family("Rosenbrock", "rodas5p"),
    Family("`auto`", "auto"),
    Family("stabilised, `rkc`", "rkc"),
    Family("Adams of variable order", "adams"),
    Family("Adams in fixed steps", "adams_moulton4", {"step_size": 0.05}),
    Family("IMEX, a pair f + g", "kencarp4"),
    Family("symplectic, a pair (v, f)", "yoshida4", {"step_size": 0.05}),
    Family("SciPy's", "scipy:DOP853"),
]
FORMS = ("both ends", "t_eval", "events", "dense output")
BATCHINGS = ("joint", "per_sample")
SPANS = {"forward": (0.2, 1.0), "backward": (1.0, 0.2)}


def inside(direction):
    """Times within, at which no step of a fixed size ends."""
    t0, t1 = SPANS[direction]
    return t0 + (t1 - t0) * torch.tensor([0.23, 0.51, 0.77], dtype=F64)


def randn(*shape, seed):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def loss_and_sources(gradient, family, batching, direction, form, **options):
    """A number that depends on the outputs, and what it depends on."""
    weight, y0 = (0.5 * randn(3, 3, seed=1)).requires_grad_(), randn(4, 3, seed=2).requires_grad_()
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    t0, t1 = (torch.tensor(t, dtype=F64, requires_grad=True) for t in SPANS[direction])

    def fun(t, y, k):
        return torch.tanh(y @ weight) + k * torch.cos(3 * t + y)

    given = {"args": (k,), "batching": batching, "gradient": gradient, "max_steps": 100_000}
    given.update(family.options, **options)
    given["t_eval"] = inside(direction) if form == "t_eval" else None
    if form == "events":
        middle = sum(SPANS[direction]) / 2

        def passes(t, y, k):
            return t.flatten() - middle + 0.1 * k if t.ndim else t - middle + 0.1 * k

        given["events"] = Event(passes, terminal=True)
    given["dense_output"] = form == "dense output"
    one = solve_ivp if ":" in family.method else solve
    sol = one(fun, (t0, t1), y0, family.method, **given)
    states = sol.ys
    if form == "dense output":
        states = sol(inside(direction))
        states = states[0] if isinstance(states, tuple) else states
    return (states.sin() * randn(*states.shape[1:], seed=3)).sum(), [weight, y0, k, t0, t1]


def gradients(*case, **options):
    """Of all sources, side by side."""
    loss, sources = loss_and_sources(*case, **options)
    found = torch.autograd.grad(loss, sources, allow_unused=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten() for g, x in zip(found, sources, strict=True)])


@cache
def direct(family, batching, direction, form, gradient="direct", **options):
    """What the others are compared with."""
    return gradients(twin(gradient), family, batching, direction, form, **options)


def refusal(*case):
    """Why the front door refuses a combination; None where it does not."""
    try:
        loss_and_sources(*case, rtol=0.1, atol=0.1)
    except ValueError as error:
        return str(error)
    return None


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


ASKED = [
    ("joint", "forward", "t_eval"),
    ("joint", "forward", "dense output"),
    ("joint", "backward", "both ends"),
    ("joint", "backward", "events"),
    ("per_sample", "forward", "both ends"),
    ("per_sample", "forward", "events"),
    ("per_sample", "backward", "t_eval"),
]
"""Each form of output in both batchings or both directions: with every gradient and family, that is enough."""

CASES = [
    pytest.param(gradient, family, *case, id="-".join([gradient, family.method, *case]))
    for gradient, family, case in itertools.product(GRADIENTS, FAMILIES, ASKED)
]


@pytest.mark.parametrize(("gradient", "family", "batching", "direction", "form"), CASES)
def test_gradient_methods_agree(gradient, family, batching, direction, form):
    case = (family, batching, direction, form)
    why = ""
    sizes = dict.fromkeys(("rtol", "atol"), 1e-4 if gradient in CONTINUOUS else 1e-2)
    try:
        loose = gradients(gradient, *case, **sizes)
    except ValueError as error:
        why = str(error)
    if why:
        assert re.search(r"choose|solve under|instead", why), f"says what to do instead: {why}"
    elif gradient not in CONTINUOUS:
        assert distance(loose, direct(*case, gradient, **sizes)) < 1e-10  # however coarse
    elif "step_size" in family.options:
        coarse, fine = (
            distance(gradients(gradient, *case, step_size=h), direct(*case, step_size=h)) for h in (0.1, 0.025)
        )
        assert fine < coarse / 8
    else:
        tight = gradients(gradient, *case, rtol=1e-6, atol=1e-6)
        exact = direct(FAMILIES[0], *case[1:], rtol=1e-11, atol=1e-11)
        errors = [distance(found, exact) for found in (loose, tight)]
        for x, error in zip((1e-4, 1e-6), errors, strict=True):
            own = 0.0 if ":" in family.method else distance(direct(*case, rtol=x, atol=x), exact)
            assert error < 10 * max(x, own)
        assert errors[1] < max(errors[0] / 10, 1e-6)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("method", ["rk4", "radau5", "rodas5p"])
def test_fields_that_differentiate_by_parts_of_their_state(method, gradient, batching):
    """Down the slope of Σ w y² / 2: y = y0 exp(-w t). The parts may be cut out where no graph is recorded."""

    def descent(t, y, w):
        parts = [y[..., :1], y[..., 1:]]
        with torch.enable_grad():
            parts = [x if x.requires_grad else x.requires_grad_() for x in parts]
            energy = (w * torch.cat(parts, -1) ** 2).sum() / 2
            return -torch.cat(torch.autograd.grad(energy, parts, create_graph=True), -1)

    y0 = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]], dtype=F64)
    w = torch.tensor([0.5, 1.0, 2.0], dtype=F64, requires_grad=True)
    sizes = {"step_size": 0.1} if method == "rk4" else {"rtol": 1e-6, "atol": 1e-6}
    options = {"args": (w,), "gradient": gradient, "batching": batching, "backend": "eager", **sizes}
    (found,) = torch.autograd.grad(solve_ivp(descent, (0.0, 1.0), y0, method, **options).ys[-1].sum(), w)
    torch.testing.assert_close(found, -(y0 * torch.exp(-w.detach())).sum(0), rtol=0, atol=1e-4)


# The guide's table


def supported(gradient, family):
    """A cell of the table: what is not there of batchings, and of forms of output but the dense one."""
    forms = [form for form in FORMS if form != "dense output"]
    refused = {
        (batching, form)
        for batching, form in itertools.product(BATCHINGS, forms)
        if refusal(gradient, family, batching, "forward", form)
    }
    if len(refused) == len(BATCHINGS) * len(forms):
        return "–"
    missing = [f"`{b}`" for b in BATCHINGS if all((b, form) in refused for form in forms)]
    missing += [form for form in forms if all((b, form) in refused for b in BATCHINGS)]
    explained = {(b, form) for b, form in refused if f"`{b}`" in missing or form in missing}
    assert refused == explained, f"the table has no words for {refused - explained}"
    return "not " + ", ".join(missing) if missing else "yes"


def table():
    lines = ["| | " + " | ".join(f"`{name}`" for name in GRADIENTS) + " |", "| --- |" + " --- |" * len(GRADIENTS)]
    lines += [
        f"| {family.words} | " + " | ".join(supported(name, family) for name in GRADIENTS) + " |" for family in FAMILIES
    ]
    return "\n".join(lines)


def test_the_table_of_the_guide_is_what_the_front_door_does():
    assert table() in PAGE.read_text()


if __name__ == "__main__":
    text = PAGE.read_text()
    first, last = (text.index(mark) for mark in ("<!-- table -->", "<!-- end of table -->"))
    PAGE.write_text(text[: first + len("<!-- table -->\n")] + table() + "\n" + text[last:])
    sys.stdout.write(table() + "\n")
