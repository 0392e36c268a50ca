"""How panes stand on a terminal: titles, indentation, width, colours."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from certify.report.neutralise import plain_line

DEFAULT_WIDTH = 100
NARROWEST = 40


def draw_panes(
    panes: Iterable[tuple[str, RenderableType | None]], *, width: int | None = None, color: bool = False
) -> str:
    """Return panes (title, body) as text of at most ``width`` columns; a body of None is left out."""
    stream = StringIO()
    console = Console(
        file=stream,
        width=max(width or DEFAULT_WIDTH, NARROWEST),
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for title, body in panes:
        if body is not None:
            console.print(_pane(title, body) if title else body)
    return "".join(plain_line(line.rstrip()) + "\n" for line in stream.getvalue().splitlines())


def _pane(title: str, body: RenderableType) -> Group:
    return Group(Text(), Text(title, style="bold"), Padding(body, (0, 0, 0, 2)))
