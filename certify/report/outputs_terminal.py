"""A smoothed regression or segmentation on a terminal: plain text, or with colours where the terminal takes them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from certify.report.figures import estimate_figure, lower_figure, radius_label, upper_figure
from certify.report.neutralise import strip_controls
from certify.report.terminal.frame import draw_panes
from certify.report.terminal.header import HASH_DIGITS, label_rows
from certify.report.wording import describe_failure, describe_falsifier, describe_space
from certify.results import OutputInterval, OutputsReport, Regression, RegressionExample, SegmentationExample

MOST_EXAMPLES, MOST_OUTPUTS = 10, 6


def render_outputs(report: OutputsReport, *, width: int | None = None, color: bool = False) -> str:
    """Return the report as text of at most ``width`` columns, with colours when ``color``."""
    return draw_panes(_panes(report), width=width, color=color)


def _panes(report: OutputsReport) -> Iterator[tuple[str, RenderableType | None]]:
    statement, data = report.statement, report.data
    yield "", _title(report)
    yield "", label_rows(list(_identity(report)))
    yield "Statement", Text(strip_controls(statement.text))
    facts = [
        ("object", statement.object),
        ("arithmetic", statement.arithmetic),
        ("domain", statement.domain),
        ("fails", describe_failure(statement.failure_probability)),
        ("joint", statement.joint),
    ]
    yield "", label_rows(facts)
    yield "Certified", Text(_summary(report))
    shown = report.examples[:MOST_EXAMPLES]
    yield f"Examples ({len(shown)} of {data.count} shown)", label_rows([(row.id, describe_row(row)) for row in shown])
    noise = f"{report.tables.noise_law}: {report.tables.noise}"
    yield "Draws", label_rows([("n", f"{report.settings.n:,} for every example, and a pilot"), ("noise", noise)])
    yield "Falsifier", Text(describe_falsifier(report.falsifier), style="yellow")
    yield "", Text(f"\ndigest {strip_controls(report.digest) or 'none'}", style="dim")


def _title(report: OutputsReport) -> Text:
    task = "regression" if isinstance(report.settings.task, Regression) else "segmentation"
    what = f"smoothed {task}, {report.settings.norm}, probabilistic (alpha {report.settings.alpha!r} per example)"
    return Text.assemble((f"certify {strip_controls(report.tool.version)}", "bold"), "  ", what)


def _identity(report: OutputsReport) -> Iterator[tuple[str, str]]:
    model, data, settings = report.model, report.data, report.settings
    yield "model", f"sha256 {model.sha256[:HASH_DIGITS]}  {model.source}, {model.parameters:,} parameters"
    yield "input", describe_space(model.input)
    yield "output", "x".join(map(str, report.output_shape))
    yield "data", f"sha256 {data.sha256[:HASH_DIGITS]}  {data.count:,} examples: {data.selection}; no labels"
    drawn = f"n {settings.n:,}, n0 {settings.n0}, alpha {settings.alpha!r}, {settings.dtype}, seed {settings.seed}"
    yield "settings", f"sigma {settings.sigma:g}, {_task(report)}, {drawn}"


def _task(report: OutputsReport) -> str:
    task = report.settings.task
    if isinstance(task, Regression):
        return f"quantile {task.quantile!r} at radius {radius_label(task.radius)}"
    return f"threshold {getattr(task, 'threshold', None)!r}"


def _summary(report: OutputsReport) -> str:
    found = report.summary
    share = f"{found.certified:,} of {found.outputs:,}"
    if isinstance(report.settings.task, Regression):
        width = "none" if found.mean_width is None else upper_figure(found.mean_width)
        return f"{share} outputs have an interval with two ends, mean width {width}"
    return f"{share} pixels keep their class"


def describe_row(row: RegressionExample | SegmentationExample) -> str:
    """Return what is certified of one example, in one line."""
    if isinstance(row, SegmentationExample):
        kept = sum(one is not None for one in row.predicted)
        return f"{kept:,} of {len(row.predicted):,} pixels at radius {lower_figure(row.radius)}"
    shown = [_interval(one) for one in row.outputs[:MOST_OUTPUTS]]
    more = len(row.outputs) - len(shown)
    return "; ".join([*shown, *([f"{more} more"] if more else [])])


def _interval(one: OutputInterval) -> str:
    """Return an interval with its ends rounded outward, and the estimate between them."""
    lower = "-inf" if one.lower is None else lower_figure(one.lower)
    upper = "inf" if one.upper is None else upper_figure(one.upper)
    middle = "none" if one.estimate is None else estimate_figure(one.estimate)
    invalid = f", {one.invalid} draws not a number" if one.invalid else ""
    return f"[{lower}, {upper}] (estimate {middle}{invalid})"
