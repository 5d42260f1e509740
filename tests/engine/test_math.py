"""The engine's elementary functions, for each set of instructions that this machine has.

An error is counted in units in the last place of the exact value. The exact values are those of the C library in a
wider type; mpmath's where it has none.
"""

import itertools

import mpmath
import numpy as np
import pytest
import torch

from thalweg import solve_ivp

native = pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

WIDER = {"float32": np.float64, "float64": np.longdouble}
ULPS = 4

pytestmark = [
    pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="long double is no wider than double here"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def erf(x):
    with mpmath.workdps(30):
        size = [np.longdouble(mpmath.nstr(mpmath.erf(mpmath.mpf(abs(float(v)))), 25)) for v in x]
    return np.copysign(size, x)


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


EXACT = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "erf": erf,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "floor": np.floor,
    "round": np.round,
}

each_isa = pytest.mark.parametrize("isa", native.isas())
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def computed(name, isa, x):
    out = np.full_like(x, np.nan)
    native.unary(name, isa, x.dtype.name, x.ctypes.data, out.ctypes.data, x.size)
    return out


def computed_of_two(name, isa, x, y):
    out = np.full_like(x, np.nan)
    native.binary(name, isa, x.dtype.name, x.ctypes.data, y.ctypes.data, out.ctypes.data, x.size)
    return out


def ulps(y, exact):
    """Errors of y; infinite where one of the two alone is infinite or NaN, or their signs differ."""
    info = np.finfo(y.dtype)
    rounded = exact.astype(y.dtype)
    magnitude = np.maximum(np.abs(exact), np.longdouble(info.tiny))
    place = np.exp2(np.floor(np.log2(magnitude)).astype(np.longdouble) - info.nmant)
    error = np.abs(y.astype(np.longdouble) - exact) / place
    same = (y == rounded) & (np.signbit(y) == np.signbit(rounded)) | (np.isnan(y) & np.isnan(rounded))
    return np.where(
        np.isfinite(y) & np.isfinite(rounded) & (np.signbit(y) == np.signbit(exact)), error, np.where(same, 0, np.inf)
    )


def numbers(dtype, n=4000):
    """All exponents, the usual sizes, near 1, near multiples of π/2, and where something begins or ends."""
    rng, info = np.random.default_rng(5), np.finfo(dtype)
    unsigned = np.dtype(dtype.replace("float", "uint"))
    any_bits = rng.integers(0, np.iinfo(unsigned).max, n, dtype=unsigned).view(dtype)
    usual = rng.standard_normal(n) * np.exp(rng.uniform(-6, 6, n))
    most = np.log(info.max)
    exponents = rng.uniform(-1.1 * most, 1.1 * most, n)
    near_one = 1 + rng.standard_normal(n) * np.exp2(rng.uniform(-info.nmant - 2, 0, n))
    angles = (np.arange(n) * (np.longdouble(np.pi) / 2 + np.longdouble(6.123233995736766e-17))).astype(dtype)
    ends = [0, 1, np.inf, np.nan, info.tiny, info.tiny / 2, info.smallest_subnormal, info.max, most, np.log(info.tiny)]
    ends += [0.5, 1.5, 2.5, 9.0, 20.0, 3000.0, 1e5, 2.0**22 + 1.5, 2.0**51 + 1.5, 2.0**52, 1e30]
    values = [part.astype(dtype) for part in (any_bits, usual, exponents, near_one, angles, np.array(ends))]
    x = np.concatenate(values)
    return np.concatenate([x, -x, np.nextafter(x, np.dtype(dtype).type(0))])


@each_isa
@each_dtype
@pytest.mark.parametrize("name", EXACT)
def test_a_function_is_within_four_units_everywhere(name, isa, dtype):
    x = numbers(dtype, 400 if name == "erf" else 4000)
    error = ulps(computed(name, isa, x), EXACT[name](x.astype(WIDER[dtype])).astype(np.longdouble))
    worst = np.argmax(error)
    assert error[worst] <= (0 if name in ("abs", "floor", "round") else ULPS), (
        f"{name}({x[worst]!r}) is {error[worst]:.2f} units away"
    )


@each_isa
@each_dtype
def test_a_power_is_within_four_units_and_follows_c_at_the_ends(isa, dtype):
    rng, most = np.random.default_rng(6), float(np.log(np.finfo(dtype).max))
    base = np.exp(rng.uniform(-most, most, 20000))
    near_one = 1 + rng.standard_normal(20000) * np.exp2(rng.uniform(-np.finfo(dtype).nmant, -1, 20000))
    x = np.concatenate([base, near_one, rng.integers(-20, 20, 5000)]).astype(dtype)
    y = np.concatenate([rng.uniform(-1.1, 1.1, 40000) * most / np.log(np.abs(x[:40000])), rng.integers(-20, 20, 5000)])
    ends = [
        0,
        1,
        2,
        3,
        0.5,
        1.5,
        1e10,
        1e10 + 1,
        np.inf,
        np.nan,
        np.finfo(dtype).max,
        np.finfo(dtype).smallest_subnormal,
    ]
    pairs = np.array(list(itertools.product([*ends, *np.negative(ends)], repeat=2)), dtype=dtype)
    x, y = np.concatenate([x, pairs[:, 0]]), np.concatenate([y.astype(dtype), pairs[:, 1]])
    error = ulps(
        computed_of_two("pow", isa, x, y),
        np.power(x.astype(WIDER[dtype]), y.astype(WIDER[dtype])).astype(np.longdouble),
    )
    worst = np.argmax(error)
    assert error[worst] <= ULPS, f"{x[worst]!r} ** {y[worst]!r} is {error[worst]:.2f} units away"


def inverse_of_erf(x):
    """By bisection of what mpmath has: its own inverse is less exact near 1."""
    if abs(x) >= 1:
        return mpmath.inf * x if abs(x) == 1 else mpmath.nan
    y, rest = abs(mpmath.erfinv(x)), 1 - abs(x)
    for _ in range(3):
        y += (mpmath.erfc(y) - rest) * mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(y * y)
    return mpmath.sign(x) * y


SPECIAL = {
    "erfc": (mpmath.erfc, (-7, 27)),
    "erfinv": (inverse_of_erf, (-1, 1)),
    "lgamma": (lambda x: mpmath.log(abs(mpmath.gamma(x))), (-20, 60)),
    "digamma": (mpmath.digamma, (-20, 60)),
    "trigamma": (lambda x: mpmath.psi(1, x), (-20, 60)),
}


@each_isa
@each_dtype
@pytest.mark.parametrize("name", SPECIAL)
def test_a_special_function_is_within_four_units(name, isa, dtype):
    """Of 1 where a digamma is less, near its zeros."""
    (function, (low, high)), rng = SPECIAL[name], np.random.default_rng(7)
    near = [a + s * 10.0 ** rng.uniform(-12, -1, 20) for a in (0, 1, 2) for s in (-1, 1)]
    x = np.concatenate([rng.uniform(low, high, 150), *near]).astype(dtype)
    x = x[(x != np.round(x)) & (np.abs(x) < high)]
    with mpmath.workdps(40):
        exact = np.array([np.longdouble(mpmath.nstr(function(mpmath.mpf(float(v))), 30)) for v in x])
    y = computed(name, isa, x)
    error = ulps(y, exact)
    if name == "digamma":
        error = np.minimum(error, np.abs(y.astype(np.longdouble) - exact) / np.finfo(dtype).eps)
    worst = np.argmax(error)
    assert error[worst] <= ULPS, f"{name}({x[worst]!r}) is {error[worst]:.2f} units away"


@each_isa
@each_dtype
def test_special_functions_at_the_ends(isa, dtype):
    ends = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, -2, 40, -40], dtype=dtype)
    inf, nan = np.inf, np.nan
    expected = {
        "erfc": [1, 1, None, None, 0, 2, nan, None, None, 2],
        "erfinv": [0, -0.0, inf, -inf, nan, nan, nan, nan, nan, nan],
        "lgamma": [inf, inf, 0, inf, inf, inf, nan, inf, None, inf],
        "digamma": [-inf, inf, None, nan, inf, nan, nan, nan, None, nan],
        "trigamma": [inf, inf, None, inf, 0, None, nan, inf, None, inf],
    }
    for name, values in expected.items():
        for x, y, value in zip(ends, computed(name, isa, ends), values, strict=True):
            if value is not None:
                np.testing.assert_equal(y, np.dtype(dtype).type(value), err_msg=f"{name}({x})")


def pairs(dtype):
    """Quotients of every size, some of which are whole, and what is special."""
    rng, info = np.random.default_rng(8), np.finfo(dtype)
    y = rng.standard_normal(20000) * np.exp2(rng.uniform(-20, 20, 20000))
    x = y * rng.standard_normal(20000) * np.exp2(rng.uniform(-3, 40, 20000))
    some = [0, 0.1, 0.5, 1, 1.5, 3, 7, 1e10, np.inf, np.nan, info.max, info.max / 2, info.tiny, info.smallest_subnormal]
    both = np.array(list(itertools.product([*some, *np.negative(some)], repeat=2)))
    whole = np.stack([rng.integers(-30, 30, 3000) * 0.1, np.full(3000, 0.1)], 1)
    x, y = np.concatenate([np.stack([x, y], 1), both, whole]).astype(dtype).T.copy()
    return x, y


@each_isa
@each_dtype
def test_what_a_division_leaves_is_exact(isa, dtype):
    x, y = pairs(dtype)
    rest = np.fmod(x, y)
    exact = {"fmod": rest, "remainder": np.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)}
    for name, expected in exact.items():
        found = computed_of_two(name, isa, x, y)
        same = (found == expected) & (np.signbit(found) == np.signbit(expected)) | np.isnan(found) & np.isnan(expected)
        worst = np.argmin(same)
        assert same.all(), f"{name}({x[worst]!r}, {y[worst]!r}) is {found[worst]!r}, not {expected[worst]!r}"


@each_isa
@each_dtype
def test_an_angle_is_within_four_units_and_follows_c_at_the_ends(isa, dtype):
    y, x = pairs(dtype)
    exact = np.arctan2(y.astype(WIDER[dtype]), x.astype(WIDER[dtype])).astype(np.longdouble)
    error = ulps(computed_of_two("atan2", isa, y, x), exact)
    worst = np.argmax(error)
    assert error[worst] <= ULPS, f"atan2({y[worst]!r}, {x[worst]!r}) is {error[worst]:.2f} units away"


@each_isa
@each_dtype
def test_the_activations_follow_their_formulas(isa, dtype):
    """Within a few units of what they are a product of: that is all that their formulas give where 1 + erf cancels."""
    x = numbers(dtype)
    x = x[np.abs(x) < 1e4]
    wide = x.astype(np.float64)
    few = wide[:500]
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    expected = {
        "gelu": few * 0.5 * (1 + erf(few * np.sqrt(0.5))),
        "gelu_tanh": wide * 0.5 * (1 + np.tanh(inner)),
        "silu": wide * sigmoid(wide),
    }
    for name, exact in expected.items():
        error = np.abs(computed(name, isa, x)[: exact.size] - exact) / np.maximum(np.abs(wide[: exact.size]), 1e-30)
        assert error.max() <= 8 * np.finfo(dtype).eps, name


@each_dtype
@pytest.mark.parametrize("features", [1, 2, 5])
def test_a_solve_has_each_tanh_to_the_last_bit_wherever_it_lies(dtype, features):
    """Registers that are taken side by side hold what each would alone."""
    x = numbers(dtype)
    x = x[np.isfinite(x)]
    x = x[: len(x) // features * features]
    given = torch.from_numpy(x).reshape(-1, features)
    sol = solve_ivp(
        lambda t, y, x: torch.tanh(x), (0.0, 1.0), torch.zeros_like(given), "midpoint", args=(given,),
        step_size=1.0, batching="per_sample", backend="native",
    )  # fmt: skip
    np.testing.assert_array_equal(sol.ys[-1].flatten().numpy(), computed("tanh", native.isa(), x))
