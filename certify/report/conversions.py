"""What the radii of a smoothing report say in other norms, by inclusion of balls; always labelled as converted."""

from __future__ import annotations

from certify.report.figures import upper_figure
from certify.results import Report, SmoothingReport
from certify.stats import inclusion_factor
from certify.stats.inclusion import RECIPROCALS


def describe_conversions(report: Report) -> str:
    """Return by what a radius is to be divided in other norms; nothing for Lipschitz reports, which are run in them.

    The divisor is rounded up, so that no radius comes out too large.
    """
    if not isinstance(report, SmoothingReport):
        return ""
    own, size = report.settings.norm, report.model.input.size
    parts = [f"in {norm} radius / {_divisor(inclusion_factor(own, norm, size))}" for norm in RECIPROCALS if norm != own]
    return f"from {own} by inclusion: {', '.join(parts)}"


def _divisor(factor: float) -> str:
    return "1" if factor == 1.0 else upper_figure(factor)
