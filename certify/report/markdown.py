"""A report for a pull-request comment and for the summary of a CI step: verdicts first, in at most 60,000 bytes.

A comment on GitHub takes 65,536 characters and a step summary 1 MiB; one text fits both. Each text has a byte limit and
each table a budget; what does not fit is left out with its number, and the limits below add up to less than the whole.
Upper bounds are rounded up, lower bounds and radii down, observed shares to nearest. A report has one kind, so
deterministic and probabilistic certificates never share a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from msgspec import UNSET

from certify.report.figures import estimate_figure, lower_figure, radius_label, upper_figure
from certify.report.neutralise import markdown_text
from certify.report.promise_words import describe_statement, earlier_words
from certify.report.wording import (
    FLOORS,
    LIMITS_NOTE,
    SHARE_DIGITS,
    count_abstentions,
    describe_asked,
    describe_clean,
    describe_counts,
    describe_data,
    describe_falsifier,
    describe_kind,
    describe_settings,
    describe_space,
    describe_stop,
    describe_whole_curve,
    name_label,
    share_of,
    until_zero,
)
from certify.results import (
    CertifiedAccuracy,
    GateRow,
    LayerRow,
    LipschitzExample,
    LipschitzReport,
    NetworkBound,
    Report,
    SmoothingExample,
    SmoothingReport,
    Verdict,
)
from certify.rounding import ceiling_text, floor_text

LARGEST = 60_000
NAME, SENTENCE, PARAGRAPH = 160, 600, 2000  # bytes of one text
GATES, CURVE, REASONS, LAYERS, EXAMPLES = 12_000, 4_000, 5_000, 12_000, 10_000  # bytes of one table
MARKS: Mapping[Verdict, str] = MappingProxyType({"failed": "❌", "undecided": "⚠️", "passed": "✅"})


def render_markdown(report: Report, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the report as GitHub-flavoured Markdown; what the report does not hold is left out."""
    sections = (_gates, _statement, _accuracy, _abstentions, _network, _layers, _examples, _record)
    texts = ("\n".join(section(report)) for section in (_title, *sections))
    return "\n\n".join(filter(None, texts)) + "\n"


def make_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, total: int, most: int) -> Iterator[str]:
    """Yield the lines of a table until its budget is used up, then how many rows are not shown."""
    yield _line(titles)
    yield _line(["---"] * len(titles))
    left = most
    for shown, row in enumerate(rows):
        line = _line(row)
        left -= len(line.encode()) + 1
        if left < 0:
            yield from ("", f"… and {total - shown} more of {total}, not shown here; the JSON report has all.")
            return
        yield line


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _title(report: Report) -> Iterator[str]:
    verdicts = [gate.verdict for gate in report.gates]
    found = [verdict for verdict in MARKS if verdict in verdicts]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in found)
    yield f"## {MARKS[found[0]]} certify: {counts}" if found else "## certify: no gates"
    yield ""
    yield f"{describe_kind(report)}."


def _gates(report: Report) -> Iterator[str]:
    """Yield the verdicts, those that ask for action first."""
    order = list(MARKS)
    rows = sorted(report.gates, key=lambda gate: order.index(gate.verdict))
    titles = ("verdict", "gate", "asked", "observed", "lower limit", "upper limit", "reason")
    if rows:
        yield from make_table(titles, [_gate_cells(row, share_of(report)) for row in rows], total=len(rows), most=GATES)


def _gate_cells(gate: GateRow, share: str) -> tuple[str, ...]:
    return (
        f"{MARKS[gate.verdict]} {gate.verdict}",
        markdown_text(gate.name, NAME),
        markdown_text(describe_asked(gate, share), NAME),
        "none" if gate.value is None else estimate_figure(gate.value),
        "none" if gate.lower is None else lower_figure(gate.lower),
        "none" if gate.upper is None else upper_figure(gate.upper),
        markdown_text(gate.reason, SENTENCE),
    )


def _statement(report: Report) -> Iterator[str]:
    statement = report.statement
    yield "### Statement"
    yield ""
    yield f"> {markdown_text(statement.text, PARAGRAPH)}"
    yield ""
    yield from _list(describe_statement(statement))


def _accuracy(report: Report) -> Iterator[str]:
    if report.summary is UNSET:
        return
    summary, total = report.summary, report.summary.examples
    yield f"### {share_of(report).capitalize()} ({_chance(report)})"
    yield ""
    if summary.unsampled is not UNSET:
        counts = list(describe_counts(summary))
        yield from make_table(("radius", "examples"), counts, total=len(counts), most=CURVE)
        yield from ("", f"{describe_stop(summary).capitalize()}. Abstained {summary.abstained}.")
        return
    shown = list(until_zero(summary.certified_accuracy))
    rows = (_curve_cells(row, total) for row in shown)
    titles = ("radius", "examples", "observed", "lower limit", "upper limit")
    yield from make_table(titles, rows, total=len(shown), most=CURVE)
    yield ""
    mean = "none" if summary.mean_radius is None else lower_figure(summary.mean_radius)
    clean, abstained = describe_clean(summary), markdown_text(str(summary.abstained), NAME)
    yield f"Clean accuracy {clean}, abstained {abstained}, mean radius {mean}."
    if shown:
        notes = (LIMITS_NOTE.format(confidence=shown[0].confidence), describe_whole_curve(summary))
        yield " ".join(f"{note.capitalize()}." for note in notes if note)


def _chance(report: Report) -> str:
    if not isinstance(report, SmoothingReport) or report.settings.deterministic:
        return "deterministic"
    return f"probabilistic, alpha {report.settings.alpha!r}"


def _curve_cells(row: CertifiedAccuracy, total: int) -> tuple[str, ...]:
    return (
        markdown_text(radius_label(row.radius), NAME),
        f"{row.accuracy * total:.0f}/{total}",
        f"{row.accuracy:.{SHARE_DIGITS}f}",
        floor_text(row.lower, SHARE_DIGITS),
        ceiling_text(row.upper, SHARE_DIGITS),
    )


def _abstentions(report: Report) -> Iterator[str]:
    reasons = count_abstentions(report.examples)
    if not reasons:
        return
    yield "### Abstentions by reason"
    yield ""
    rows = ((str(count), markdown_text(reason, SENTENCE)) for reason, count in reasons)
    yield from make_table(("examples", "reason"), rows, total=len(reasons), most=REASONS)


def _network(report: Report) -> Iterator[str]:
    if not isinstance(report, LipschitzReport):
        return
    yield f"### Lipschitz constant of the logits ({report.network.norm})"
    yield ""
    yield from _bracket(report.network)
    yield ""
    yield from _list(_floors(report.network))


def _floors(network: NetworkBound) -> Iterator[tuple[str, str]]:
    """Yield the estimates of what is possible, each called one, and what keeps the bound from them."""
    for field, floor in FLOORS.items():
        value = getattr(network, field)
        if value is not UNSET:
            yield f"{floor.name} (an estimate)", f"{estimate_figure(value)}, {floor.meaning}"
    if network.limited_by is not UNSET:
        yield "limited by", network.limited_by


def _bracket(network: NetworkBound) -> Iterator[str]:
    if network.upper is None:
        reason = network.reason if isinstance(network.reason, str) else network.method
        yield f"No bound: {markdown_text(reason, SENTENCE)}"
        return
    side = "upper, proved" if network.proved else "estimate, not proved"
    lower = "none" if network.lower is None else lower_figure(network.lower)
    row = (lower, upper_figure(network.upper), markdown_text(network.method, SENTENCE))
    yield from make_table(("lower, proved", side, "method"), [row], total=1, most=LARGEST)


def _layers(report: Report) -> Iterator[str]:
    if isinstance(report, LipschitzReport) and report.layers:
        norm, total = report.network.norm, len(report.layers)
        titles = ("name", "kind", "shape", f"lower {norm}", f"upper {norm}", "share", "method")
        table = make_table(titles, map(_layer_cells, report.layers), total=total, most=LAYERS)
        yield from make_folded(f"Layers ({total})", table)


def _layer_cells(layer: LayerRow) -> tuple[str, ...]:
    return (
        markdown_text(layer.name, NAME),
        markdown_text(layer.kind, NAME),
        markdown_text("x".join(map(str, layer.shape)), NAME),
        "none" if layer.lower is None else lower_figure(layer.lower),
        "unbounded" if layer.upper is None else upper_figure(layer.upper),
        "" if layer.share is UNSET else f"{layer.share:.0%}",
        markdown_text(layer.method, SENTENCE),
    )


def _examples(report: Report) -> Iterator[str]:
    if report.examples:
        total = len(report.examples)
        rows = (_example_cells(example, report) for example in report.examples)
        titles = ("index", "id", "label", "predicted", f"radius ({_chance(report)})")
        yield from make_folded(f"Examples ({total})", make_table(titles, rows, total=total, most=EXAMPLES))


def _example_cells(example: LipschitzExample | SmoothingExample, report: Report) -> tuple[str, ...]:
    answer = "abstained" if example.predicted is None else name_label(report, example.predicted)
    return (
        str(example.index),
        markdown_text(example.id, NAME),
        markdown_text(name_label(report, example.label), NAME),
        markdown_text(answer, NAME),
        lower_figure(example.radius),
    )


def make_folded(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield lines that a reader opens by a click on their title."""
    yield from (f"<details><summary>{title}</summary>", "", *lines, "", "</details>")


def _record(report: Report) -> Iterator[str]:
    """Yield what the numbers rest on, and how to check them."""
    model = report.model
    facts = [
        ("model", f"sha256 {model.sha256}, {model.source}, {model.parameters:,} parameters"),
        ("input", describe_space(model.input)),
        ("settings", describe_settings(report.settings)),
        ("falsifier", describe_falsifier(report.falsifier)),
        ("digest", f"{report.digest or 'none'}, certify {report.tool.version}"),
    ]
    if report.data is not UNSET:
        data = report.data
        facts.insert(1, ("data", f"sha256 {data.sha256}, {describe_data(data)}"))
    if earlier := earlier_words(report):
        facts.append(("warning", earlier))
    yield "### Record"
    yield ""
    yield from _list(facts)
    yield "- check: `certify verify` derives every number again from the JSON report"


def _list(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (f"- {label}: {markdown_text(text, SENTENCE)}" for label, text in facts)
