"""Everything with everything: methods, batching, gradients, directions, dtypes, structures and output times.

However a problem is asked, its answer and its gradients are those of one joint solve in float64 at a tolerance of
1e-12, to within `FACTOR` times the tolerance asked for, relative to 1 + |x|; for rkc `STABILISED` times. Hostile fields
end within max_steps as the documentation says.

z: (B, 4), the state as one tensor; a structure says how a person's state holds the same numbers.
"""

import math
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thalweg import SolveError, Status, solve_ivp
from thalweg.methods import get_method, methods

F64 = torch.float64
FACTOR = 100
STABILISED = 300
"""In place of it for rkc, whose error is spread over its stages and seen in part: as in the tests of answers."""
ROWS = 3
SPANS = {"forward": (0.2, 1.4), "backward": (1.1, -0.3)}
OF_ONE_FIELD = [m for m in methods() if m.pair is None and m.name != "fehlberg2"]
"""Without fehlberg2, whose estimate sees a 512th of its error."""
METHODS = [m.name for m in OF_ONE_FIELD if m.adaptive or m.order >= 3]
ADAPTIVE = [m.name for m in OF_ONE_FIELD if m.adaptive and m.order > 1]
TAKES_COMPLEX = ("explicit", "adams")  # the others refuse it, and say so
EXPLICIT = [m.name for m in OF_ONE_FIELD if m.kind == "explicit"]

every = settings(deadline=None, derandomize=True, max_examples=70)


def values(*shape):
    """Numbers between -1 and 1, the same at each call."""
    return torch.sin(3.7 * torch.arange(1, 1 + math.prod(shape), dtype=F64)).reshape(shape)


def slope(t, z, w):
    """Smooth, nonlinear, dependent on time; rows do not talk to each other. t: () or (B, 1)."""
    return torch.tanh(z @ w) + 0.5 * torch.cos(2 * t) * z


# Structures: z as the person has it, and back


def _nested(z):
    return {"q": (z[:, :2], [z[:, 2]]), "p": z[:, 3:, None]}


def _flat(tree):
    q, [third] = tree["q"]
    return torch.cat([q, third[:, None], tree["p"][:, :, 0]], 1)


STRUCTURES = {
    "tensor": (lambda z: z, lambda y: y),
    "dict": (lambda z: {"a": z[:, :1], "b": z[:, 1:]}, lambda y: torch.cat([y["a"], y["b"]], 1)),
    "tuple": (lambda z: (z[:, :3], z[:, 3]), lambda y: torch.cat([y[0], y[1][:, None]], 1)),
    "nested": (_nested, _flat),
    "complex": (
        lambda z: torch.view_as_complex(z.reshape(-1, 2, 2).contiguous()),
        lambda y: torch.view_as_real(y.resolve_conj()).reshape(-1, 4),
    ),
    "0-d": (lambda z: [z[0, i] for i in range(4)], lambda y: torch.stack(list(y))[None]),
}


def output_times(form, span):
    """What is given as t_eval."""
    t0, t1 = span
    inside = [t0 + share * (t1 - t0) for share in (0.1, 0.45, 0.8)]
    return {
        "none": None,
        "list": inside,
        "duplicates": [t0, inside[0], inside[0], inside[2], t1, t1],
        "ends": [t0, t1],
        "by row": torch.tensor(inside, dtype=F64)[:, None] + 0.05 * (t1 - t0) * torch.arange(ROWS, dtype=F64),
    }[form]


def leaves(span, rows):
    """What gradients go to: z0, the parameters and both ends of time."""
    start = [values(ROWS, 4)[:rows] + 0.1, 0.6 * values(4, 4), *(torch.tensor(t, dtype=F64) for t in span)]
    return [leaf.requires_grad_() for leaf in start]


def gradients(zs, inputs):
    """Of a sum of all outputs, each with a weight of its own; as one vector."""
    found = torch.autograd.grad((zs * values(*zs.shape)).sum(), inputs, allow_unused=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten() for x, g in zip(inputs, found, strict=True)])


def moving(inputs, form):
    """Without the times, unless the output is at t1 itself: between steps they move outputs by interpolants' slopes.

    Those are of lower order than states, and so no matter of the tolerance.
    """
    return inputs if form == "none" else inputs[:2]


@cache
def reference(direction, form, rows):
    """All outputs (T, B, 4), and the gradients: rows with times of their own are solved one by one."""
    inputs = leaves(SPANS[direction], rows)
    z0, w, t0, t1 = inputs
    times = output_times(form, SPANS[direction])

    def solve(z0, times):
        options = {"args": (w,), "rtol": 1e-12, "atol": 1e-12, "gradient": "direct"}
        return solve_ivp(slope, (t0, t1), z0, "vern9", times, **options).ys

    if form == "by row":
        zs = torch.cat([solve(z0[row : row + 1], times[:, row]) for row in range(rows)], 1)
    else:
        zs = solve(z0, times)
    return zs.detach(), gradients(zs, moving(inputs, form))


@st.composite
def problems(draw):
    """A way to ask."""
    method = draw(st.sampled_from(METHODS))
    real = [name for name in STRUCTURES if name != "complex"]
    structure = draw(st.sampled_from(list(STRUCTURES) if get_method(method).kind in TAKES_COMPLEX else real))
    batching = "joint" if structure == "0-d" else draw(st.sampled_from(["joint", "per_sample"]))
    gradient = draw(
        st.sampled_from(["none", "direct", "checkpointed", *(["adjoint", "forward"] if method in EXPLICIT else [])])
    )
    forms = ["none", "list", "duplicates", "ends", *(["by row"] if batching == "per_sample" else [])]
    return (
        method,
        structure,
        batching,
        gradient,
        draw(st.sampled_from(list(SPANS))),
        draw(st.sampled_from([torch.float32, F64])),
        draw(st.sampled_from(forms)),
    )


def precision(method, dtype):
    """The tolerance to ask for, and how."""
    found = get_method(method)
    tolerance = 1e-4 if found.order <= 2 or dtype == torch.float32 else 1e-6
    options = {"rtol": tolerance, "atol": tolerance}
    return tolerance, options if found.adaptive else {**options, "step_size": 0.02}


@every
@given(problems())
def test_no_way_to_ask_disagrees_with_the_reference(problem):
    method, structure, batching, gradient, direction, dtype, form = problem
    rows = 1 if structure == "0-d" else ROWS
    exact, exact_gradients = reference(direction, form, rows)
    inputs = leaves(SPANS[direction], rows)
    z0, w, t0, t1 = inputs
    to_tree, from_tree = STRUCTURES[structure]
    tolerance, options = precision(method, dtype)

    def fun(t, y, w):
        t = t.real if t.is_complex() else t
        return to_tree(slope(t.reshape(-1, 1) if t.ndim else t, from_tree(y), w))

    with torch.set_grad_enabled(gradient != "none"):
        sol = solve_ivp(
            fun,
            (t0, t1),
            to_tree(z0.to(dtype)),
            method,
            output_times(form, SPANS[direction]),
            args=(w.to(dtype),),
            batching=batching,
            **options,
            **({} if gradient == "none" else {"gradient": gradient}),
        )
        count = len(exact)
        zs = torch.stack(
            [from_tree(torch.utils._pytree.tree_map(lambda leaf, i=i: leaf[i], sol.ys)) for i in range(count)]
        )
        assert zs.dtype == dtype
        assert sol.ts.shape[0] == count
        assert bool(torch.as_tensor(sol.success).all())
    allowed = (STABILISED if get_method(method).kind == "stabilised" else FACTOR) * tolerance
    torch.testing.assert_close(zs.detach().to(F64), exact, rtol=allowed, atol=allowed)
    if gradient != "none":
        found = gradients(zs.to(F64), moving(inputs, form))
        torch.testing.assert_close(found, exact_gradients, rtol=allowed, atol=allowed)


# Fields that no solver can follow


def nan_late(t, y):
    return torch.where(t > 0.5, math.nan, 1.0) * (1 + 0 * y)


def nan_in_between(t, y):
    return torch.where((t > 0.4) & (t < 0.6), math.nan, 1.0) * (1 + 0 * y)


def jumps(t, y):
    return torch.where(torch.sin(40 * t) > 0, 1.0, -1.0) * (1 + 0 * y)


def sticks(t, y):
    """Towards 1.3, and there it changes its sign at every step."""
    return 5 * torch.sign(1.3 - y)


def explodes(t, y):
    return y * y * y


def noise(t, y):
    """No limit as steps shrink."""
    return 1e3 * torch.sin(1e9 * (y + t))


STOPS = {Status.STEP_UNDERFLOW, Status.NONFINITE, Status.MAX_STEPS, Status.NOT_CONVERGED}
HOSTILE = {
    nan_late: {Status.NONFINITE},
    nan_in_between: {Status.SUCCESS, Status.NONFINITE},  # a step may cross it
    jumps: {Status.SUCCESS},
    sticks: {Status.SUCCESS, *STOPS},
    explodes: STOPS,
    noise: {Status.SUCCESS, *STOPS},
}


@settings(every, max_examples=35)
@given(
    st.sampled_from(list(HOSTILE)),
    st.sampled_from(ADAPTIVE),
    st.sampled_from(["joint", "per_sample"]),
    st.sampled_from(["none", "direct", "checkpointed"]),
    st.sampled_from([torch.float32, F64]),
)
def test_hostile_fields_end_as_documented(fun, method, batching, gradient, dtype):
    """With a status that says so, NaN where the solve did not come, and no NaN where it did."""
    y0 = torch.ones(2, 1, dtype=dtype, requires_grad=gradient != "none")
    options = {} if gradient == "none" else {"gradient": gradient}
    options |= {"rtol": 1e-3, "atol": 1e-3, "max_steps": 200, "batching": batching, "on_failure": "return"}
    sol = solve_ivp(fun, (0.0, 1.0), y0, method, [0.25, 1.0], **options)
    statuses = {Status(int(s)) for s in torch.as_tensor(sol.status).flatten()}
    assert statuses <= HOSTILE[fun]
    assert int(torch.as_tensor(sol.stats.n_steps).max()) <= 200
    assert bool((torch.isnan(sol.ys[-1]).flatten() == ~torch.as_tensor(sol.success).expand(2)).all())
    assert sol.message
    if fun in (nan_late, nan_in_between):
        torch.testing.assert_close(sol.ys[0], torch.full_like(sol.ys[0], 1.25), rtol=1e-5, atol=1e-5)
    if sol.ys.requires_grad and bool(torch.as_tensor(sol.success).all()):
        (found,) = torch.autograd.grad(sol.ys.sum(), [y0])
        assert bool(torch.isfinite(found).all())


@every
@given(
    st.sampled_from(METHODS),
    st.sampled_from(["joint", "per_sample"]),
    st.sampled_from(["none", "direct", "checkpointed", "forward"]),
    st.floats(0.0, 0.95),
)
def test_an_error_late_in_a_solve_is_the_fields_own(method, batching, gradient, when):
    """Whatever it raises comes through with a word on where; and what it returns is checked to the end."""

    assume(gradient != "forward" or method in EXPLICIT)

    class Flood(Exception):
        pass

    def raises(t, y):
        if float(t.detach().max()) >= when:
            raise Flood("at last")
        return -y

    def widens(t, y):
        return -y if float(t.detach().max()) < when else torch.cat([-y, -y])

    y0 = torch.ones(2, 1, dtype=F64, requires_grad=gradient != "none")
    options = {} if gradient == "none" else {"gradient": gradient}
    options |= {"batching": batching, **({} if get_method(method).adaptive else {"step_size": 0.05})}
    with pytest.raises(Flood, match="at last") as caught:
        solve_ivp(raises, (0.0, 1.0), y0, method, **options)
    assert any("evaluated it at t" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="fun must return the shape of y"):
        solve_ivp(widens, (0.0, 1.0), y0, method, **options)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_failure_raises_what_it_knows(method, batching):
    """SolveError, with the values before it."""
    with pytest.raises(SolveError) as caught:
        solve_ivp(
            explodes, (0.0, 1.0), torch.ones(2, 1, dtype=F64), method, [0.25, 1.0], batching=batching, max_steps=500
        )
    sol = caught.value.solution
    torch.testing.assert_close(sol.ys[0], torch.full((2, 1), 2**0.5, dtype=F64), rtol=0.2, atol=0.0)
    assert bool(torch.isnan(sol.ys[1]).all())
