"""What the views of readings say in the same words; plain text, not yet neutralised."""

from __future__ import annotations

from msgspec import UNSET

from certify.report.figures import error_figure, estimate_figure, lower_figure, upper_figure
from certify.results import CurvatureReport, CurvatureSettings, ReadingRow

KINDS_NOTE = (
    "Kinds are never added up. An estimate stands with its standard error (±) or its residual; what is measured at "
    "listed inputs is a lower bound of what is possible; only rows that say proved certify anything."
)


def describe_title(report: CurvatureReport) -> str:
    """Return the one line over readings; verdicts on them come first."""
    verdicts = [gate.verdict for gate in report.gates]
    what = f"Curvature on {report.summary.examples:,} examples"
    counts = [f"{verdicts.count(word)} {word}" for word in ("failed", "undecided", "passed") if word in verdicts]
    return f"{what}: {', '.join(counts)}" if counts else what


def describe_curvature(report: CurvatureReport) -> str:
    """Return what kind of claim readings make: none."""
    count = len(report.beside)
    beside = f"; beside {'a report' if count == 1 else f'{count} reports'} of certificates" if count else ""
    return f"diagnostics of one batch, no certificate{beside}"


def describe_curvature_settings(settings: CurvatureSettings) -> str:
    """Return the options that can change a result, in one line.

    Example:
        >>> describe_curvature_settings(CurvatureSettings())
        'sigma 0.01 on the weights, 30 Lanczos steps, 33 probes, 16 pairs of noise, seed 0'
    """
    return (
        f"sigma {settings.sigma!r} on the weights, {settings.steps} Lanczos steps, {settings.probes} probes, "
        f"{settings.pairs} pairs of noise, seed {settings.seed}"
    )


def describe_number(row: ReadingRow) -> str:
    """Return the number of a row: proved ends outward, all else to nearest with its error; why where there is none."""
    if row.of is not UNSET:
        share = row.value if row.lower is None else row.lower
        return f"{'' if row.lower is None else 'at least '}{round((share or 0.0) * row.of)}/{row.of}"
    if row.lower is not None and row.upper is not None:
        return f"[{lower_figure(row.lower)}, {upper_figure(row.upper)}]"
    if row.upper is not None:
        return f"at most {upper_figure(row.upper)}"
    if row.lower is not None:
        return f"at least {lower_figure(row.lower)}"
    if row.value is None:
        return row.note if isinstance(row.note, str) else "not known"
    return f"{estimate_figure(row.value)}{_error(row)}"


def _error(row: ReadingRow) -> str:
    if row.error is None:
        return ""
    error = error_figure(row.error)
    return f" ± {error}" if row.error_of == "standard error" else f" (residual {error})"


def describe_chance(row: ReadingRow) -> str:
    """Return how often a number may be false; a dash where nothing is promised.

    Example:
        >>> from certify.results import ReadingRow
        >>> row = ReadingRow(object="", quantity="", kind="estimate", value=1.0, lower=None, upper=None, error=None,
        ...     domain="", failure_probability=None)
        >>> describe_chance(row), describe_number(row)
        ('–', '1')
    """
    if row.failure_probability is None:
        return "–"
    return repr(row.failure_probability) if row.failure_probability else "never"
