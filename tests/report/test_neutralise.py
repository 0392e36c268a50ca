import unicodedata

import pytest
from rich.text import Text

from certify.report.neutralise import cell_text, markup_text, strip_controls

HOSTILE = "a\x1b[31mb\x9b2Jc\u202edd\u2066e\u200bf\r\ng\x00h\x7fi\u2028j"


def test_nothing_that_steers_a_terminal_is_left():
    kept = strip_controls("".join(map(chr, range(0x110000))))
    assert not [character for character in kept if unicodedata.category(character)[0] == "C"]
    assert not {"\n", "\r", "\u2028", "\u2029"} & set(kept)


def test_words_stay_apart_and_harmless_text_stays_as_it_is():
    assert strip_controls(HOSTILE) == "a[31mb2Jcddef  ghi j"
    assert strip_controls("größe, 船 é ✓") == "größe, 船 é ✓"


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", "a[bold]", r"\[b]", HOSTILE, "[link=file:///etc]x[/link]"])
def test_escaped_markup_shows_as_it_was_written(text):
    assert Text.from_markup(markup_text(text)).plain == strip_controls(text)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\x1b=", "\u202e="])
def test_no_text_cell_starts_a_formula(start):
    assert cell_text(f"{start}1+1").startswith("'")
    assert "\t" not in cell_text(f"{start}a\tb")


def test_numbers_stay_numbers():
    assert [cell_text(value) for value in (-1, 0.5, -0.25)] == ["-1", "0.5", "-0.25"]
