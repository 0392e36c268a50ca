"""The view on a terminal: plain text, or with colours where the terminal takes them."""

from __future__ import annotations

from certify.report.terminal.certificates import accuracy_title, draw_accuracy, draw_draws, draw_extremes
from certify.report.terminal.frame import draw_panes
from certify.report.terminal.header import draw_data, draw_identity, draw_settings, draw_statement, draw_title
from certify.report.terminal.network import draw_layers, draw_network
from certify.report.terminal.verdicts import draw_digest, draw_falsifier, draw_gates
from certify.results import Report

PANES = (
    ("", draw_title),
    ("", draw_identity),
    ("", draw_data),
    ("", draw_settings),
    ("Statement", draw_statement),
    ("Layers", draw_layers),
    ("Network", draw_network),
    (accuracy_title, draw_accuracy),
    ("Examples", draw_extremes),
    ("Draws", draw_draws),
    ("Falsifier", draw_falsifier),
    ("Gates", draw_gates),  # last: what a terminal shows when all has scrolled by
    ("", draw_digest),
)


def render_terminal(report: Report, *, width: int | None = None, color: bool = False) -> str:
    """Return the report as text of at most ``width`` columns, with colours when ``color``.

    Each pane shows only what the report holds; what was not done is said ("not run"), never left out. A report has one
    kind, so deterministic and probabilistic certificates never share a column.
    """
    panes = ((title if isinstance(title, str) else title(report), draw(report)) for title, draw in PANES)
    return draw_panes(panes, width=width, color=color)
