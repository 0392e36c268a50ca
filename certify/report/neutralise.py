"""Hostile text made harmless, one function per place where it is shown.

Names of layers, classes, files and gates come from files that anyone may have written. On a terminal an escape
sequence can rewrite what was already printed, a bidirectional mark can reorder a verdict, and a spreadsheet runs a cell
that starts with ``=``. JSON needs none of this: its text is ASCII with everything else escaped.
"""

from __future__ import annotations

import unicodedata

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def strip_controls(text: str) -> str:
    r"""Return the text on one line without anything that steers a terminal or reorders it.

    Removed are all characters of the Unicode categories C (controls with ESC and C1, format characters with the
    bidirectional marks, surrogates, private and unassigned ones) and the line and paragraph separators. Tabs and line
    breaks become one space, so that words stay apart.

    Example:
        >>> strip_controls("conv\x1b[31m1\n\u202egnihton")
        'conv[31m1 gnihton'
    """
    spaced = (" " if character in "\t\n\r\v\f\x85\u2028\u2029" else character for character in text)
    return "".join(character for character in spaced if not unicodedata.category(character).startswith("C"))


def markup_text(text: str) -> str:
    r"""Return the text for a rich console that interprets markup: stripped, then escaped.

    Example:
        >>> print(markup_text("[red]passed"))
        \[red]passed
    """
    from rich.markup import escape

    return escape(strip_controls(text))


def cell_text(value: str | float) -> str:
    """Return one cell of a tab- or comma-separated table: text that a spreadsheet would run gets a quote in front.

    Numbers stay as they are, negative ones included.

    Example:
        >>> cell_text("=1+1"), cell_text(-1), cell_text("cat")
        ("'=1+1", '-1', 'cat')
    """
    if not isinstance(value, str):
        return str(value)
    risky = value.startswith(FORMULA_STARTS)
    shown = strip_controls(value)
    return f"'{shown}" if risky or shown.startswith(FORMULA_STARTS) else shown
