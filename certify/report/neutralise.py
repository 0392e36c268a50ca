"""Hostile text made harmless, one function per place where it is shown.

Names of layers, classes, files and gates come from files that anyone may have written. On a terminal an escape
sequence can rewrite what was already printed, a bidirectional mark can reorder a verdict, and a spreadsheet runs a cell
that starts with ``=``. JSON needs none of this: its text is ASCII with everything else escaped.
"""

from __future__ import annotations

import re
import unicodedata

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
COMMAND_START = re.compile(r"\s*(?:::|##\[)")
NOT_XML = re.compile("[^\t\n\r\\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
REPLACEMENT = "\ufffd"
ELLIPSIS = "…"
MARKDOWN_TOKEN = re.compile(r"://|www\.|.")
ZERO_WIDTH = "&#8203;"  # splits a mention or an issue number, which a site links in the rendered text
MARKDOWN_TEXT = {character: f"&#{ord(character)};" for character in "\\`|*_[]~!$"} | {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "@": f"&#64;{ZERO_WIDTH}",
    "#": f"&#35;{ZERO_WIDTH}",
    "://": "&#58;//",
    "www.": "www&#46;",
}


def strip_controls(text: str) -> str:
    r"""Return the text on one line without anything that steers a terminal or reorders it.

    Removed are all characters of the Unicode categories C (controls with ESC and C1, format characters with the
    bidirectional marks, surrogates, private and unassigned ones) and the line and paragraph separators. Tabs and line
    breaks become one space, so that words stay apart.

    Example:
        >>> strip_controls("conv\x1b[31m1\n\u202egnihton")
        'conv[31m1 gnihton'
    """
    if text.isascii() and text.isprintable():
        return text
    spaced = (" " if character in "\t\n\r\v\f\x85\u2028\u2029" else character for character in text)
    return "".join(character for character in spaced if not unicodedata.category(character).startswith("C"))


def plain_line(line: str) -> str:
    """Return a line of output that no CI runner takes for a command of its own.

    GitHub's runner obeys lines that begin, behind spaces, with ``::`` or ``##[``. A long name is folded by a terminal's
    width, so any word of it can come to stand there.

    Example:
        >>> plain_line("  ::error::x"), plain_line("a ::error::x")
        ('  : :error::x', 'a ::error::x')
    """
    start = COMMAND_START.match(line)
    return line if start is None else f"{line[: start.end() - 1]} {line[start.end() - 1 :]}"


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


def xml_text(text: str) -> str:
    r"""Return the text for an XML document, on one line: characters XML 1.0 forbids replaced, then stripped.

    Markup (``<``, ``&``, quotes) is left to the writer of the document, which escapes it.

    Example:
        >>> xml_text("conv\x001\nb") == "conv\ufffd1 b"
        True
    """
    return strip_controls(NOT_XML.sub(REPLACEMENT, text))


def markdown_text(text: str, most: int) -> str:
    r"""Return the text for Markdown, in a cell or a line of its own, in at most ``most`` bytes of UTF-8.

    What Markdown or HTML could obey becomes a character reference, which is never structure: pipes, backticks,
    brackets, emphasis, tags, the scheme of a link. A mention (``@``) or an issue number (``#``) is found by the site in
    the *rendered* text, so an invisible space follows these. A longer text ends in ``…``.

    Example:
        >>> markdown_text("a|b <i> `c`", 100)
        'a&#124;b &lt;i&gt; &#96;c&#96;'
        >>> markdown_text("@team", 100), markdown_text("abcdefgh", 6)
        ('&#64;&#8203;team', 'abc…')
    """
    shown: list[str] = []
    size, ends_within = 0, 0
    for token in MARKDOWN_TOKEN.findall(strip_controls(text[: 2 * most])):
        piece = MARKDOWN_TEXT.get(token, token)
        size += len(piece.encode())
        if size > most:
            return "".join(shown[:ends_within]) + ELLIPSIS
        shown.append(piece)
        ends_within = len(shown) if size <= most - len(ELLIPSIS.encode()) else ends_within
    return "".join(shown)
