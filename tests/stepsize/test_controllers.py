"""Controllers: what they do of any error, after any history."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import PID
from thalweg.stepsize.controllers import Gustafsson

F64 = torch.float64
CONTROLLERS = {"i": PID(), "pi": PID(0.4, 0.3, 0.0), "pid": PID(0.2, 0.3, 0.1), "d": PID(0.0, 0.1, 0.5)}
CONTROLLERS["gustafsson"] = Gustafsson()
errors = st.floats(0, 1e12) | st.sampled_from([0.0, 1.0, math.nextafter(1.0, 2.0), math.inf, math.nan])


@pytest.mark.parametrize("name", CONTROLLERS)
@settings(deadline=None, derandomize=True)
@given(history=st.lists(errors, min_size=1, max_size=6), order=st.integers(1, 9), h=st.sampled_from([0.25, -3.0]))
def test_whatever_came_before(name, history, order, h):
    """A rejected step shrinks, none changes beyond the bounds, and a row of a batch is decided as alone."""
    control = CONTROLLERS[name]
    state, rows = control.init(h), torch.tensor([h, 1.0], dtype=F64)
    row_state = control.init(rows)
    for error in history:
        decision = control.adapt(error, h, state, order)
        row_decision = control.adapt(torch.tensor([error, 0.5], dtype=F64), rows, row_state, order)
        assert decision.accept == (error <= 1)
        factor = decision.h / h
        most = control.factor_max if decision.accept else control.safety
        assert control.factor_min * (1 - 1e-12) <= factor <= most * (1 + 1e-12)
        if not math.isfinite(error):
            assert factor == pytest.approx(control.factor_min)
        assert row_decision.accept[0].item() == decision.accept
        assert row_decision.h[0].item() == pytest.approx(decision.h, rel=1e-12)
        state, row_state, h, rows = decision.state, row_decision.state, decision.h, row_decision.h
