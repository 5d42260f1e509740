"""The engine's memory is full of NaN when it gets it, so that a number that nobody wrote is seen."""

import pytest

from thalweg.engine.native import _native


@pytest.fixture(autouse=True)
def _poisoned():
    if _native is None:
        yield
        return
    _native.poison(True)
    yield
    _native.poison(False)
