"""A pytree is packed without a loss, row by row or leaf by leaf, and from one into the other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.core.state import layout_of

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)


@given(st.lists(SHAPES, min_size=1, max_size=4), st.integers(1, 4), st.lists(st.integers(1, 3), max_size=2))
def test_rows_and_leaves_hold_the_same_after_any_leading_dimensions(shapes, rows, lead):
    tree = {str(i): torch.randn(rows, *shape) for i, shape in enumerate(shapes)}
    flat, packed = layout_of(tree, by_row=False)
    rowed = flat.in_rows()
    assert rowed is not None
    assert same(flat.unpack(packed), tree)
    assert same(rowed.unpack(rowed.pack(tree)), tree)
    assert rowed.pack(tree).shape == (rows, packed.numel() // rows)
    several = torch.randn(*lead, packed.numel())
    turned = flat.repacked(several, rowed)
    assert turned.shape == (*lead, rows, packed.numel() // rows)
    assert torch.equal(rowed.repacked(turned, flat), several)
    assert same(rowed.unpack(turned), flat.unpack(several))


@pytest.mark.parametrize("tree", [torch.ones(3, 2), {"a": torch.ones(3), "b": torch.ones(2)}, [torch.tensor(1.0)]])
def test_what_has_no_rows_in_common_is_not_packed_by_them(tree):
    assert layout_of(tree, by_row=False)[0].in_rows() is None
