"""The head of the terminal view: what certified which model on which data, and what is promised."""

from __future__ import annotations

from msgspec import UNSET
from rich.console import Group
from rich.table import Table
from rich.text import Text

from certify.report.neutralise import strip_controls
from certify.results import InputSpace, LipschitzReport, LipschitzSettings, Report, SmoothingSettings

HASH_DIGITS = 16


def label_rows(rows: list[tuple[str, str]]) -> Table:
    """Return a grid of dim labels and their texts, neutralised."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=9)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(label, Text(strip_controls(text)))
    return grid


def draw_title(report: Report) -> Text:
    """Return the title line: the tool, the kind of certificates, and whether they can fail by chance."""
    if isinstance(report, LipschitzReport):
        kind = f"Lipschitz certificates, {report.settings.norm}, deterministic"
    else:
        kind = f"smoothing certificates, l2, probabilistic (alpha {report.settings.alpha:g} per example)"
    return Text.assemble((f"certify {strip_controls(report.tool.version)}", "bold"), "  ", kind)


def draw_identity(report: Report) -> Table:
    """Return which model the report speaks of."""
    model = report.model
    what = f"{model.source}, {model.parameters:,} parameters, {len(model.classes)} classes"
    return label_rows(
        [("model", f"sha256 {model.sha256[:HASH_DIGITS]}  {what}"), ("input", describe_space(model.input))]
    )


def describe_space(space: InputSpace) -> str:
    """Return an input space in words: shape, name and range.

    Example:
        >>> describe_space(InputSpace((3, 8, 8), (0.0, 1.0), "pixels"))
        '3x8x8, pixels, in [0, 1]'
    """
    shape = "x".join(map(str, space.shape)) or "shape unknown"
    bounds = "range unchecked" if space.range is None else f"in [{space.range[0]:g}, {space.range[1]:g}]"
    return f"{shape}, {space.space}, {bounds}"


def draw_data(report: Report) -> Table | None:
    """Return which examples the report speaks of."""
    if report.data is UNSET:
        return None
    data = report.data
    return label_rows([("data", f"sha256 {data.sha256[:HASH_DIGITS]}  {data.count:,} examples: {data.selection}")])


def draw_settings(report: Report) -> Table:
    """Return the options that can change a result, in one line."""
    settings = report.settings
    words = _lipschitz(settings) if isinstance(settings, LipschitzSettings) else _smoothing(settings)
    return label_rows([("settings", ", ".join(words))])


def _lipschitz(settings: LipschitzSettings) -> list[str]:
    return [f"norm {settings.norm}", f"method {settings.method}", f"arithmetic {settings.arithmetic}"]


def _smoothing(settings: SmoothingSettings) -> list[str]:
    planned = settings.procedure == "planned"
    return [
        f"sigma {settings.sigma:g}",
        f"{settings.noise} noise",
        f"{settings.procedure} n {'up to ' if planned else ''}{settings.n:,}",
        f"n0 {settings.n0}",
        f"alpha {settings.alpha:g}",
        *([f"price {settings.price:g}"] if planned else []),
        f"bound {settings.bound}",
        settings.dtype,
        f"seed {settings.seed}",
    ]


def draw_statement(report: Report) -> Group:
    """Return the promise in words, and its fields."""
    statement = report.statement
    return Group(
        Text(strip_controls(statement.text)),
        label_rows(
            [
                ("object", statement.object),
                ("arithmetic", statement.arithmetic),
                ("domain", statement.domain),
                ("fails", _failure(statement.failure_probability)),
                ("joint", statement.joint),
            ]
        ),
    )


def _failure(probability: float) -> str:
    return f"with probability at most {probability!r} per certificate" if probability else "never: deterministic"
