"""The extension module: which instructions it runs with, and what it refuses."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

native = pytest.importorskip("thalweg.core._native", reason="the native engine was not built")


def chosen(name: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "THALWEG_ISA"}
    if name is not None:
        environment["THALWEG_ISA"] = name
    path = os.path.dirname(native.__file__)
    program = f"import sys; sys.path.insert(0, {path!r}); import _native; print(_native.isa())"
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


def test_the_widest_instructions_are_chosen_unless_the_environment_says_otherwise():
    assert native.isas()[0] == "baseline"
    assert chosen(None).stdout.strip() == native.isas()[-1]
    for name in native.isas():
        assert chosen(name).stdout.strip() == name


def test_instructions_that_the_machine_lacks_are_refused():
    refused = chosen("abacus")
    assert refused.returncode != 0
    assert "'abacus' is no set of instructions of this machine; it has baseline" in refused.stderr


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 3, 8, 37])
def test_every_length_is_computed_and_nothing_beyond_it(isa, dtype, n):
    x = torch.rand(n, dtype=getattr(torch, dtype), generator=torch.Generator().manual_seed(n))
    out = torch.full((n + 1,), torch.nan, dtype=x.dtype)
    native.unary("sqrt", isa, dtype, x.data_ptr(), out.data_ptr(), n)
    assert np.array_equal(out[:n].numpy(), np.sqrt(x.numpy()))
    assert out[n].isnan()


def test_an_unknown_function_or_dtype_is_refused():
    with pytest.raises(ValueError, match="'sinh' is no elementary function"):
        native.unary("sinh", "baseline", "float32", 0, 0, 0)
    with pytest.raises(ValueError, match="dtype is 'float16'"):
        native.unary("sqrt", "baseline", "float16", 0, 0, 0)
