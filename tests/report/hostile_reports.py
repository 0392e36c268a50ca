"""One hostile name in every place of a report that holds text: `HOSTILE_REPORTS` is name -> builder.

The name carries an escape sequence, a C1 control, HTML, a formula, a CI command, a line break, a tab, marks that
reorder text, console markup, and what Markdown obeys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from certify.results import Report
from tests.report.sample_reports import (
    LAYERS,
    clean_gate,
    lipschitz_example,
    lipschitz_report,
    network_alone,
    smoothing_abstaining,
)

HOSTILE = "\x1b[2J<script>alert(1)</script>\x9b31m=1+1\n::error::x\u202e\u2066\tname\x07[bold red]|`@a"


def hostile_lipschitz():
    layers = [replace(LAYERS[0], name=HOSTILE, kind=HOSTILE, method=HOSTILE), replace(LAYERS[1], upper=None)]
    rows = [
        replace(lipschitz_example(0, 1.0), id=HOSTILE, method=HOSTILE),
        replace(lipschitz_example(1, 0.0), id="", reason=HOSTILE),
    ]
    report = lipschitz_report(rows, [clean_gate(0.1, name=HOSTILE)], layers=layers, classes=[HOSTILE] * 3)
    return replace(
        report,
        model=replace(report.model, source=HOSTILE, input=replace(report.model.input, space=HOSTILE)),
        data=replace(report.data, selection=HOSTILE),
        network=replace(report.network, method=HOSTILE),
        statement=replace(report.statement, text=HOSTILE, arithmetic=HOSTILE, domain=HOSTILE, joint=HOSTILE),
        falsifier=replace(report.falsifier, tried=HOSTILE),
        tool=replace(report.tool, version=HOSTILE),
        execution=replace(report.execution, model_path=HOSTILE, earlier_runs=(HOSTILE,)),
        digest=HOSTILE,
    )


def hostile_smoothing():
    report = smoothing_abstaining()
    tables = replace(report.tables, noise=HOSTILE, noise_law=HOSTILE)
    rows = tuple(replace(example, reason=HOSTILE, id=HOSTILE) for example in report.examples)
    return replace(report, tables=tables, examples=rows)


def hostile_bound():
    report = network_alone()
    return replace(report, network=replace(report.network, upper=None, proved=False, reason=HOSTILE))


HOSTILE_REPORTS: Mapping[str, Callable[[], Report]] = {
    "lipschitz": hostile_lipschitz,
    "smoothing": hostile_smoothing,
    "bound": hostile_bound,
}
