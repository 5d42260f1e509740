"""What the guide shows is what happens."""

import doctest
import re
from pathlib import Path

import pytest

LINK = re.compile(r"\]\(([^()#:]+\.(?:md|png|svg))")
PAGES = sorted((Path(__file__).parents[1] / "docs" / "guide").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_each_page_run(page):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_and_pages_that_each_page_names_are_there(page):
    named = LINK.findall(page.read_text("utf-8"))
    assert [path for path in named if not (page.parent / path).is_file()] == []
