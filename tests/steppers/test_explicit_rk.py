"""The two ways through a step agree, and neither hands out what it will overwrite."""

import pytest
import torch

from problems import forced
from thalweg import solve_ivp
from thalweg.core.field import Field
from thalweg.core.state import layout_of
from thalweg.methods import methods
from thalweg.methods.tableau import Tableau
from thalweg.steppers.explicit_rk import ExplicitRK


@pytest.mark.parametrize("method", [m for m in methods() if isinstance(m.data, Tableau)], ids=lambda m: m.name)
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_buffered_and_recorded_steps_agree(method, by_row, dtype):
    y0 = torch.randn(5, 2, dtype=dtype)
    layout, y = layout_of(y0, by_row=by_row)
    field = Field(forced, (), layout, y)
    t = torch.rand(5, dtype=torch.float64) if by_row else 0.3
    h = 0.1 + 0.1 * torch.rand(5, dtype=torch.float64) if by_row else 0.2
    steppers = [ExplicitRK(method.data, y, by_row=by_row) for _ in range(2)]
    carry = steppers[0].init(field(field.times(t, 0.0, torch.zeros(1, dtype=torch.float64))[0], y))
    recorded = steppers[0].step(field, t, h, y, carry)
    with torch.no_grad():
        steppers[1].step(field, t, h, torch.full_like(y, torch.nan), None if carry is None else (carry[0] * torch.nan,))
        buffered = steppers[1].step(field, t, h, y, carry)  # over a buffer full of NaN
        extended = steppers[1].extend(field, t, h, y, buffered)
    recorded = steppers[0].extend(field, t, h, y, recorded)
    bound = 1e-14 * max([1.0, *(abs(x) for row in method.data.a for x in row)])  # of sums that cancel
    torch.testing.assert_close(buffered.y, recorded.y, rtol=1e-14, atol=bound)
    for one, other in zip(extended.stages, recorded.stages, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=bound)
    assert extended.nfev == recorded.nfev
    for one, other in ((buffered.error, recorded.error), (buffered.error_coarse, recorded.error_coarse)):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=bound / 10)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_a_field_may_keep_its_inputs_and_reuse_its_output(batching):
    """What a field was given stays as it was, and one tensor handed out again and again does no harm."""
    y0, kept, out = torch.ones(3, 2, dtype=torch.float64), [], torch.empty(3, 2, dtype=torch.float64)

    def field(t, y):
        kept.append((y, y.clone()))
        return torch.mul(y, -3.0, out=out)

    rough = {"rtol": 1e-7, "atol": 1e-9, "first_step": 1.0, "batching": batching}  # begins with rejections
    with torch.no_grad():
        got = solve_ivp(field, (0, 1), y0, "dopri5", **rough)
    assert int(torch.as_tensor(got.stats.n_rejected).max()) > 0
    torch.testing.assert_close(got.ys[-1], y0 * torch.exp(torch.tensor(-3.0, dtype=torch.float64)), rtol=1e-6, atol=0)
    assert all(torch.equal(then, copy) for then, copy in kept)
