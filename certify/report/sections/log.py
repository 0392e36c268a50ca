"""An imported log: what its audit found first, then its rows like those of any report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from certify.report.log_audit import FIRST_ROWS
from certify.report.outline import Block, Facts, Outline, Quote, Section, Tile, Tiles, VerdictRow, Verdicts, table_of
from certify.report.sections.certificates import accuracy_section, class_section, radius_section
from certify.report.sections.examples import OPEN_UP_TO
from certify.report.sections.verdicts import summary_tiles
from certify.report.wording import describe_claim
from certify.results import LogExample, LogFinding, LogReport, Verdict
from certify.rounding import ceiling_text

GRAVE = {"impossible radius", "flag", "radius", "order"}
PARTS = (accuracy_section, radius_section, class_section)
CHECK = (
    "A log holds no votes: no radius in it can be derived again, here or by anybody. `certify verify` on the JSON of "
    "this import derives its summary and its audit again from the rows."
)


def log_outline(report: LogReport) -> Outline:
    """Return a log as an outline, its audit first."""
    kind = "imported log, l2, claims that nothing here proves"
    return Outline(describe_audit(report), kind, tuple(_sections(report)))


def describe_audit(report: LogReport) -> str:
    """Return in one line what the audit found."""
    grave = [finding for finding in report.audit.findings if finding.kind in GRAVE]
    rows = len(report.examples)
    if not grave:
        return f"A log of {rows:,} rows without a contradiction"
    return f"A log of {rows:,} rows: " + ", ".join(f"{finding.kind} in {finding.count:,}" for finding in grave)


def _sections(report: LogReport) -> Iterator[Section]:
    yield Section("audit", "Audit", tuple(_audit_blocks(report)))
    claim = report.statement
    yield Section("statement", "What the log claims", (Quote(claim.text), Facts((("joint", claim.joint),))))
    yield from filter(None, (part(report) for part in PARTS))
    yield _examples(report)
    yield Section("record", "Record", (Facts(tuple(_record(report))),))


def _audit_blocks(report: LogReport) -> Iterator[Block]:
    if report.audit.findings:
        yield Verdicts(tuple(map(_finding, report.audit.findings)))
    yield Tiles((*_limit_tile(report), *summary_tiles(report.summary, claimed=True)))
    yield Facts((("explained by", _explanations(report)),))


def _finding(finding: LogFinding) -> VerdictRow:
    verdict: Verdict = "failed" if finding.kind in GRAVE else "undecided"
    rows = ", ".join(map(str, finding.rows))
    more = ", …" if len(finding.rows) == FIRST_ROWS < finding.count else ""
    counted = f"{finding.count:,} {'row' if finding.count == 1 else 'rows'}"
    return VerdictRow(verdict, finding.kind, finding.text, counted, f"index {rows}{more}")


def _limit_tile(report: LogReport) -> tuple[Tile, ...]:
    limit, largest = report.audit.limit, max((example.radius for example in report.examples), default=0.0)
    side = "no limit is known without sigma"
    if limit is not None:
        side = f"at most {ceiling_text(limit, 4)} is possible as stated"
    return (Tile("largest radius", repr(largest), side),)


def _explanations(report: LogReport) -> str:
    """Return which usual settings give the largest radii: an inference from digits, no proof."""
    found = [f"sigma {e.sigma:g}, alpha {e.alpha:g}, n {e.n:,} ({e.radii} radii)" for e in report.audit.explanations]
    if not found:
        return "none of the usual settings gives the largest radii of this log with Clopper-Pearson bounds"
    return f"{'; '.join(found[:6])}: with these, the largest radii written are the possible ones (inferred, not proved)"


def _examples(report: LogReport) -> Section:
    total = len(report.examples)
    titles = ("#index", "label", "predicted", "correct", "#radius", "#seconds")
    table = table_of("Rows", titles, map(_cells, report.examples), count=total, folded=total > OPEN_UP_TO)
    return Section("examples", f"Rows ({total:,})", (replace(table, sortable=True),))


def _cells(example: LogExample) -> tuple[str, ...]:
    predicted = "abstained" if example.predicted is None else str(example.predicted)
    seconds = "" if example.seconds is None else f"{example.seconds:.1f}"
    correct = "yes" if example.correct else "no"
    return (str(example.index), str(example.label), predicted, correct, repr(example.radius), seconds)


def _record(report: LogReport) -> Iterator[tuple[str, str]]:
    yield "file", f"sha256 {report.file.sha256}, columns {', '.join(report.file.columns)}"
    yield "stated", describe_claim(report.settings)
    yield "digits", f"at most {report.audit.significant} significant ones and {report.audit.decimals} decimals"
    yield "tool", f"imported by certify {report.tool.version}"
    yield "digest", report.digest or "none"
    yield "check", CHECK
