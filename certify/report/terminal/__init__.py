"""The view on a terminal: plain text, or with colours where the terminal takes them."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from certify.report.terminal.certificates import draw_accuracy, draw_draws, draw_extremes
from certify.report.terminal.header import draw_data, draw_identity, draw_settings, draw_statement, draw_title
from certify.report.terminal.network import draw_layers, draw_network
from certify.report.terminal.verdicts import draw_digest, draw_falsifier, draw_gates
from certify.results import Report

DEFAULT_WIDTH = 100
NARROWEST = 40

PANES = (
    ("", draw_title),
    ("", draw_identity),
    ("", draw_data),
    ("", draw_settings),
    ("Statement", draw_statement),
    ("Layers", draw_layers),
    ("Network", draw_network),
    ("Certified accuracy", draw_accuracy),
    ("Examples", draw_extremes),
    ("Draws", draw_draws),
    ("Gates", draw_gates),
    ("Falsifier", draw_falsifier),
    ("", draw_digest),
)


def render_terminal(report: Report, *, width: int | None = None, color: bool = False) -> str:
    """Return the report as text of at most ``width`` columns, with colours when ``color``.

    Each pane shows only what the report holds; what was not done is said ("not run"), never left out. A report has one
    kind, so deterministic and probabilistic certificates never share a column.
    """
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
    for title, draw in PANES:
        body = draw(report)
        if body is not None:
            console.print(_pane(title, body) if title else body)
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def _pane(title: str, body: object) -> Group:
    return Group(Text(), Text(title, style="bold"), Padding(body, (0, 0, 0, 2)))  # type: ignore[arg-type]
