"""Names are drawn in any script that a font of the machine has, and those that none has cost one sentence."""

import warnings

import pytest
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

from thalweg.figures import save, style
from thalweg.figures.style import new_figure, styled

ALIEN = "\u4e00"  # a Chinese one, which no font that comes with matplotlib has


@styled
def figure_with(text):
    figure = new_figure(2, 2)
    figure.text(0.1, 0.5, text)
    return figure


def signs_of(font):
    return set(FT2Font(findfont(font)).get_charmap())


def test_a_sign_that_the_first_font_lacks_is_taken_from_another(tmp_path, monkeypatch, caplog):
    lacking = chr(min(signs_of("STIXGeneral") - signs_of("DejaVu Sans")))
    monkeypatch.setattr(style, "_FALLBACKS", ("A Font That Nobody Has", "STIXGeneral"))
    save(figure_with(lacking), tmp_path / "figure")  # any warning would be an error
    assert not caplog.records  # nor does matplotlib look for the font that is not there
    monkeypatch.setattr(style, "_FALLBACKS", ())
    with pytest.warns(UserWarning, match="boxes stand in the figures"):
        save(figure_with(lacking), tmp_path / "boxes")
    drawn, boxes = ((tmp_path / f"{name}.png").read_bytes() for name in ("figure", "boxes"))
    assert drawn != boxes


def test_signs_that_no_font_has_are_one_sentence_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_FALLBACKS", ())
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        save(figure_with(ALIEN + chr(ord(ALIEN) + 1)), tmp_path / "figure")
    (warning,) = heard
    assert "install one that has them" in str(warning.message)
    assert warning.filename == __file__


def test_other_warnings_of_a_drawing_are_left_as_they_are():
    @styled
    def draw():
        warnings.warn("the river is low", RuntimeWarning, stacklevel=1)

    with pytest.warns(RuntimeWarning, match="the river is low"):
        draw()
