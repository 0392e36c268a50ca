"""What the views of a smoothed regression or segmentation say in the same words; plain text, not yet neutralised."""

from __future__ import annotations

from collections.abc import Iterator

from certify.report.figures import estimate_figure, lower_figure, radius_label, upper_figure
from certify.report.wording import describe_data, describe_space
from certify.results import OutputInterval, OutputsReport, Regression, RegressionExample, SegmentationExample

MOST_OUTPUTS = 6
UNCHECKED = (
    "the ends of intervals are numbers among draws that the report does not hold: their ranks and their order are "
    "checked, their values bound by the digest alone"
)


def describe_task(report: OutputsReport) -> str:
    """Return what was certified, in which norm, and that it can fail by chance."""
    task = "regression" if isinstance(report.settings.task, Regression) else "segmentation"
    return f"smoothed {task}, {report.settings.norm}, probabilistic (alpha {report.settings.alpha!r} per example)"


def describe_identity(report: OutputsReport, digits: int = 64) -> Iterator[tuple[str, str]]:
    """Yield which network, inputs and settings the report speaks of, with so many digits of each hash."""
    model, data, settings = report.model, report.data, report.settings
    yield "model", f"sha256 {model.sha256[:digits]}  {model.source}, {model.parameters:,} parameters"
    yield "input", describe_space(model.input)
    yield "output", "x".join(map(str, report.output_shape))
    yield "data", f"sha256 {data.sha256[:digits]}  {describe_data(data)}; no labels"
    drawn = f"n {settings.n:,}, n0 {settings.n0}, alpha {settings.alpha!r}, {settings.program}, seed {settings.seed}"
    yield "settings", f"sigma {settings.sigma:g}, {_task(report)}, {drawn}"


def _task(report: OutputsReport) -> str:
    task = report.settings.task
    if isinstance(task, Regression):
        return f"quantile {task.quantile!r} at radius {radius_label(task.radius)}"
    return f"threshold {getattr(task, 'threshold', None)!r}"


def describe_certified(report: OutputsReport) -> str:
    """Return how much of all outputs is certified."""
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


def describe_checking(report: OutputsReport) -> str:
    """Return what a verification of the record leaves unchecked; nothing for a segmentation, which is all counts."""
    return UNCHECKED if isinstance(report.settings.task, Regression) else ""
