"""What the radii of a smoothing report say in other norms, by inclusion of balls; always labelled as converted."""

from __future__ import annotations

from msgspec import UNSET

from certify.report.figures import estimate_figure, upper_figure
from certify.results import AnyNorm, Report, SmoothingReport
from certify.rounding import div_up
from certify.stats import inclusion_factor
from certify.stats.inclusion import RECIPROCALS


def describe_conversions(report: Report) -> str:
    """Return by what a radius is to be divided in other norms; nothing for Lipschitz reports, which are run in them.

    The divisor is rounded up, so that no radius comes out too large.
    """
    if not isinstance(report, SmoothingReport):
        return ""
    own, size, scales = report.settings.norm, report.model.input.size, report.settings.scales
    plain: AnyNorm = "l2" if own == "weighted-l2" else own
    share = 1.0 if scales is UNSET else scales.smallest
    parts = [
        f"in {norm} radius / {upper_figure(div_up(inclusion_factor(plain, norm, size), share))}"
        for norm in RECIPROCALS
        if norm != own
    ]
    return f"from {own} by inclusion: {', '.join(parts)}{_volume(report)}"


def _volume(report: SmoothingReport) -> str:
    """Return how large the certified ellipsoids are: an estimate to compare two choices of scales by."""
    scales = report.settings.scales
    if scales is UNSET:
        return ""
    return f"; estimate: the volume is that of an l2 ball of radius x {estimate_figure(scales.geometric_mean)}"
