"""Certify the robustness of trained neural networks.

The public names, each of which loads its stage when it is first used (importing torch costs seconds, and reading a
report needs none of it):

- `save`, `load`: a trained module becomes a self-describing file, a file becomes a `Model`.
- `lipschitz`: proved Lipschitz bounds and deterministic certified radii.
- `smooth`: randomized-smoothing certificates.
- `measure_curvature`: readings of curvature and sensitivity on a batch, diagnostics beside certificates.
- `gate`, `verify`, `read_report`: judge a report, and derive it again from its record; `parse_gates`: the gates of the
  tables of a configuration; `read_document`: a report of any kind, a comparison or an imported log too.
- `recertify`: radii from the counts of a report at a smaller alpha, or all at once.
- `compare`: two reports on the same examples, paired: what was lost and won.
- `merge`: the parts of one run, put together; `read_log`: a certification log of the field, imported and audited.
- `render`: a report in any format, or several, `certify.render(report, "html")`; `schema`: what its JSON follows.
- `layers`: layers that are 1-Lipschitz by construction, losses and penalties for training.
- `curvature`: its measures, each on a callable and a batch.
- `norms`: proved brackets of the norm of one linear map, `certify.norms.enclose(weight)`.
"""

from importlib import import_module

from certify._version import __version__

TYPE_CHECKING = False  # `typing` takes longer to load than this file, and a command starts with it
if TYPE_CHECKING:
    from certify import curvature, layers, norms
    from certify.loading import Model, load, save
    from certify.policy import Gate, parse_gates
    from certify.policy import evaluate_gates as gate
    from certify.report import compare_reports as compare
    from certify.report import merge_reports as merge
    from certify.report import read_document, read_log, read_report, recertify, render
    from certify.report import report_schema as schema
    from certify.report import verify_report as verify
    from certify.results import (
        ComparisonReport,
        CurvatureReport,
        CurvatureSettings,
        LipschitzReport,
        LipschitzSettings,
        LogSettings,
        Regression,
        Segmentation,
        SmoothingReport,
        SmoothingSettings,
        TopK,
    )
    from certify.runs import lipschitz, smooth
    from certify.runs.readings import measure_curvature

_HOMES = {
    "ComparisonReport": ("certify.results", "ComparisonReport"),
    "CurvatureReport": ("certify.results", "CurvatureReport"),
    "CurvatureSettings": ("certify.results", "CurvatureSettings"),
    "Gate": ("certify.policy", "Gate"),
    "LipschitzReport": ("certify.results", "LipschitzReport"),
    "LipschitzSettings": ("certify.results", "LipschitzSettings"),
    "LogSettings": ("certify.results", "LogSettings"),
    "Model": ("certify.loading", "Model"),
    "SmoothingReport": ("certify.results", "SmoothingReport"),
    "SmoothingSettings": ("certify.results", "SmoothingSettings"),
    "compare": ("certify.report", "compare_reports"),
    "curvature": ("certify.curvature", None),
    "Regression": ("certify.results", "Regression"),
    "Segmentation": ("certify.results", "Segmentation"),
    "TopK": ("certify.results", "TopK"),
    "gate": ("certify.policy", "evaluate_gates"),
    "layers": ("certify.layers", None),
    "lipschitz": ("certify.runs", "lipschitz"),
    "load": ("certify.loading", "load"),
    "measure_curvature": ("certify.runs.readings", "measure_curvature"),
    "merge": ("certify.report", "merge_reports"),
    "norms": ("certify.norms", None),
    "parse_gates": ("certify.policy", "parse_gates"),
    "read_document": ("certify.report", "read_document"),
    "read_log": ("certify.report", "read_log"),
    "read_report": ("certify.report", "read_report"),
    "recertify": ("certify.report", "recertify"),
    "render": ("certify.report", "render"),
    "schema": ("certify.report", "report_schema"),
    "save": ("certify.loading", "save"),
    "smooth": ("certify.runs", "smooth"),
    "verify": ("certify.report", "verify_report"),
}

__all__ = [
    "ComparisonReport",
    "CurvatureReport",
    "CurvatureSettings",
    "Gate",
    "LipschitzReport",
    "LipschitzSettings",
    "LogSettings",
    "Model",
    "Regression",
    "Segmentation",
    "SmoothingReport",
    "SmoothingSettings",
    "TopK",
    "__version__",
    "compare",
    "curvature",
    "gate",
    "layers",
    "lipschitz",
    "load",
    "measure_curvature",
    "merge",
    "norms",
    "parse_gates",
    "read_document",
    "read_log",
    "read_report",
    "recertify",
    "render",
    "save",
    "schema",
    "smooth",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'certify' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    home = import_module(module)
    return home if attribute is None else getattr(home, attribute)
