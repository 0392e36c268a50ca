"""Logs of the field: read strictly, shown like any report, audited; what the audit says is true of logs made here."""

import functools
import math
import unicodedata
from statistics import NormalDist

import pytest
from mpmath import mp, mpf
from msgspec.structs import replace

from certify.errors import InputError
from certify.report import FORMATS, verify_report
from certify.report.log_audit import audit_log, last_unit, written_digits
from certify.report.log_reading import log_settings, parse_log
from certify.results import LogExample, LogSettings, document_from_json, report_from_json, report_to_json
from certify.stats import BOUNDS, largest_radius_upper, radius_ladder
from tests.report.hostile_reports import HOSTILE
from tests.report.page_structure import faults
from tests.report.sample_reports import SAMPLES, lipschitz_clean, smoothing_clean

HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


def read(text, settings=None):
    return parse_log(text.encode(), settings or LogSettings(sigma=0.25), name="log")


def log_of(sigma, alpha, n, *, step=20, rows=120, digits="{:.3}"):
    """Write a log as the field's code does: hard votes, Clopper-Pearson, radii rounded to nearest."""
    lines = []
    for k in range(rows):
        votes = n - (k * k) % 40 if k % 3 else n
        radius = sigma * NormalDist().inv_cdf(1.0 - failure_bound(votes, n, alpha))
        lines.append(f"{k * step}\t{k % 10}\t{k % 10}\t{digits.format(radius)}\t1\t0:00:{k % 60:02}.5")
    return HEAD + "\n".join(lines) + "\n"


@functools.cache
def failure_bound(votes, n, alpha):
    """Solve P(Bin(n, q) <= n - votes) = alpha by bisection on the sum itself."""
    low, high = 0.0, 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(n - votes + 1)]
    for _ in range(70):
        q = (low + high) / 2
        terms = (math.exp(c + j * math.log(q) + (n - j) * math.log1p(-q)) for j, c in enumerate(logs))
        low, high = (q, high) if math.fsum(terms) > alpha else (low, q)
    return high


# ---- reading -------------------------------------------------------------------------------------------------------


def test_rows_are_read_as_written():
    report = read(
        HEAD + "0\t3\t3\t0.378\t1\t15.4\n20\t7\t-1\t0.0\t0\t0:01:15.600000\n40\t2\t4\t0.1\t0\t1 day, 0:00:01\n"
    )
    assert report.examples == (
        LogExample(index=0, label=3, predicted=3, correct=True, radius=0.378, seconds=15.4),
        LogExample(index=20, label=7, predicted=None, correct=False, radius=0.0, seconds=75.6),
        LogExample(index=40, label=2, predicted=4, correct=False, radius=0.1, seconds=86401.0),
    )
    assert (report.summary.clean_accuracy, report.summary.abstained) == (1 / 3, 1)


def test_other_columns_are_left_alone_and_time_may_be_absent():
    text = "idx\tlabel\tpredict\tpA\tradius\tcorrect\n5\t1\t1\t0.9\t0.25\t1\n"
    assert read(text).examples == (LogExample(index=5, label=1, predicted=1, correct=True, radius=0.25),)


REFUSED = {
    "no header": "0\t3\t3\t0.3\t1\t1\n",
    "a column twice": "idx\tlabel\tpredict\tradius\tradius\tcorrect\n0\t1\t1\t1\t1\t1\n",
    "a cell too few": HEAD + "0\t3\t3\t0.3\t1\n",
    "nan": HEAD + "0\t3\t3\tnan\t1\t1\n",
    "infinite": HEAD + "0\t3\t3\t1e999\t1\t1\n",
    "negative radius": HEAD + "0\t3\t3\t-0.1\t1\t1\n",
    "negative index": HEAD + "-1\t3\t3\t0.1\t1\t1\n",
    "a prediction of -2": HEAD + "0\t3\t-2\t0.1\t1\t1\n",
    "underscored": HEAD + "1_0\t3\t3\t0.1\t1\t1\n",
    "other digits": HEAD + "0\t٣\t3\t0.1\t1\t1\n",
    "a word": HEAD + "0\tcat\t3\t0.1\t1\t1\n",
    "a flag of 2": HEAD + "0\t3\t3\t0.1\t2\t1\n",
    "hostile": HEAD + f"{HOSTILE}\n",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_no_log_is_refused(text):
    with pytest.raises(InputError, match=r"^log"):
        read(text)


@pytest.mark.parametrize(
    "given", [{"sigma": 0.0}, {"sigma": math.nan}, {"sigma": 1e308}, {"alpha": 0.5}, {"alpha": 0.0}, {"n": 0}]
)
def test_settings_outside_their_range_are_refused(given):
    with pytest.raises(InputError, match="settings of the log"):
        log_settings(**given)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in ("network alone", "unbounded network")])
def test_our_own_table_reads_back_to_the_same_certified_accuracies(name):
    report = SAMPLES[name]()
    again = read(FORMATS["tsv"](report))
    assert [(e.index, e.label, e.predicted, e.correct) for e in again.examples] == [
        (e.index, e.label, e.predicted, e.correct) for e in report.examples
    ]
    for radius in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
        found = [sum(e.correct and 0 < e.radius >= radius for e in rows) for rows in (again.examples, report.examples)]
        assert found[0] == found[1]


# ---- the audit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", ["{:.3}", "{:.4f}", "{!r}"])
@pytest.mark.parametrize("sigma, alpha, n", [(0.25, 0.01, 100_000), (0.25, 0.001, 10_000), (0.12, 0.001, 100_000)])
def test_the_settings_of_a_log_are_found_from_its_largest_radii_alone(sigma, alpha, n, digits):
    found = read(log_of(sigma, alpha, n, digits=digits), LogSettings()).audit.explanations
    assert [(e.sigma, e.alpha, e.n) for e in found] == [(sigma, alpha, n)]


@pytest.mark.parametrize("sigma, alpha, n", [(0.5, 0.001, 100_000), (1.0, 0.001, 10_000), (1.0, 0.01, 100_000)])
def test_few_digits_leave_the_true_settings_among_those_named(sigma, alpha, n):
    found = read(log_of(sigma, alpha, n), LogSettings()).audit.explanations
    assert (sigma, alpha, n) in [(e.sigma, e.alpha, e.n) for e in found]
    assert len(found) < 10


def test_radii_above_what_the_stated_settings_allow_are_impossible():
    text = log_of(0.25, 0.01, 100_000)
    findings = {finding.kind: finding for finding in read(text).audit.findings}
    above = [e.index for e in read(text).examples if e.radius > 0.9529]
    assert findings["impossible radius"].count == len(above)
    assert findings["impossible radius"].rows == tuple(above[:20])
    right = read(text, LogSettings(sigma=0.25, alpha=0.01)).audit
    assert [finding.kind for finding in right.findings] == ["missing rows"]
    assert read(text, LogSettings()).audit.limit is None


@pytest.mark.parametrize("digits", ["{:.3}", "{:.3f}", "{:.2f}", "{!r}"])
def test_no_rounding_of_a_possible_radius_is_called_impossible(digits):
    for sigma, alpha, n in ((0.25, 0.001, 100_000), (0.12, 0.01, 1000), (1.0, 0.05, 100)):
        ladder = radius_ladder(sigma, n, alpha, 3)
        settings = LogSettings(sigma=sigma, alpha=alpha, n=n)
        for nudge in (1.0, 1 + 1e-12):
            rows = "".join(f"{k}\t1\t1\t{digits.format(r * nudge)}\t1\t1\n" for k, r in enumerate(ladder))
            kinds = {finding.kind for finding in read(HEAD + rows, settings).audit.findings}
            assert "impossible radius" not in kinds


def row(index, radius=0.321, *, label=1, predicted=1, correct=True):
    return LogExample(index=index, label=label, predicted=predicted, correct=correct, radius=radius)


AUDITED = {
    "flag": [row(0, correct=False)],
    "radius": [row(0, predicted=None, correct=False)],
    "order": [row(5), row(5)],
    "missing rows": [row(0), row(1), row(3)],
    "rounding": [row(0, 0.25), row(1, 0.123)],
    "impossible radius": [row(0, 7.0)],
}


@pytest.mark.parametrize("kind", AUDITED)
def test_each_fault_is_found_and_no_other(kind):
    found = audit_log(AUDITED[kind], LogSettings(sigma=0.25)).findings
    assert [finding.kind for finding in found] == [kind]
    assert found[0].count == 1


def test_the_rows_left_out_are_counted_and_those_behind_them_named():
    (finding,) = audit_log([row(0), row(2), row(4), row(10), row(12), row(20)], LogSettings()).findings
    assert (finding.kind, finding.count, finding.rows) == ("missing rows", 2 + 3, (10, 20))


def test_a_log_that_ends_early_is_counted():
    rows = [row(k * 100) for k in range(427)]
    (finding,) = audit_log(rows, LogSettings()).findings
    assert (finding.kind, finding.count) == ("missing rows", 73)
    assert audit_log([row(k * 100) for k in range(500)], LogSettings()).findings == ()


def test_digits_are_those_that_were_written():
    assert written_digits([0.978, 0.00299, 0.46]) == (3, 5)
    assert written_digits([]) == (0, 0)
    assert math.isclose(last_unit(0.00299, 3, 5), 1e-5)


def test_an_empty_log_has_nothing_to_say():
    report = read(HEAD)
    assert report.audit.findings == report.audit.explanations == ()
    assert verify_report(report) == ()


# ---- the numbers behind it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sigma, alpha, n", [(0.25, 0.001, 100_000), (1.0, 0.3, 1), (0.5, 1e-9, 37), (0.12, 0.01, 10**6)]
)
def test_the_limit_is_above_the_largest_radius_and_close(sigma, alpha, n):
    with mp.workdps(40):
        p = mpf(alpha) ** (mpf(1) / n)
        true = mpf(sigma) * mp.sqrt(2) * mp.erfinv(2 * p - 1)
        limit = largest_radius_upper(sigma, n, alpha)
        assert limit >= true
        assert limit == 0.0 or limit <= max(true, 0) * (1 + mpf("1e-8")) + mpf("1e-12")


def test_no_procedure_of_ours_exceeds_the_limit():
    for bound in ("clopper-pearson", "two-interval"):
        for n in (10, 1000, 100_000):
            assert BOUNDS[bound]((0, n, 0), 1, 0.001, 0.25) <= largest_radius_upper(0.25, n, 0.001)


def test_the_ladder_is_that_of_the_bound():
    for k, radius in enumerate(radius_ladder(0.25, 1000, 0.001, 30)):
        bound = BOUNDS["clopper-pearson"]((k, 1000 - k, 0), 1, 0.001, 0.25)
        assert math.isclose(radius, bound, rel_tol=1e-6)


# ---- as a report ---------------------------------------------------------------------------------------------------


def test_a_log_is_a_report_that_reads_back_and_agrees_with_itself():
    report = read(log_of(0.25, 0.01, 1000, rows=30))
    text = report_to_json(report)
    assert document_from_json(text, name="report") == report
    assert verify_report(report) == ()
    with pytest.raises(InputError, match="imported log"):
        report_from_json(text, name="report")


def test_an_edited_log_is_found():
    report = read(log_of(0.25, 0.01, 1000, rows=30))
    for edited in (
        replace(report, settings=LogSettings(sigma=0.5)),
        replace(report, audit=replace(report.audit, findings=())),
        replace(report, examples=(replace(report.examples[0], correct=False), *report.examples[1:])),
        replace(report, summary=replace(report.summary, clean_accuracy=0.5)),
        replace(report, file=replace(report.file, sha256="0" * 64)),
    ):
        assert edited == report or verify_report(edited)


@pytest.mark.parametrize("name", ["terminal", "json", "csv", "tsv", "markdown", "html"])
def test_every_view_shows_a_log(name):
    report = read(log_of(0.25, 0.01, 1000, rows=30))
    text = FORMATS[name](report, width=80)
    if name == "html":
        assert faults(text) == []
    if name in ("terminal", "markdown", "html"):
        assert "nothing in it was certified" in " ".join(text.split())
        assert "0.01" in text
    if name == "terminal":
        assert max(map(len, text.splitlines())) <= 80


def test_a_hostile_column_is_shown_and_never_obeyed():
    hostile = HOSTILE.replace("\n", " ").replace("\t", " ")
    report = read(f"idx\tlabel\tpredict\tradius\tcorrect\t{hostile}\n0\t1\t1\t0.3\t1\tx\n")
    for name in ("terminal", "csv", "tsv", "markdown", "html"):
        text = FORMATS[name](report).replace("\r\n", "\n")
        assert not {c for c in text if unicodedata.category(c)[0] == "C"} - {"\n", "\t"}
        assert not [line for line in text.splitlines() if line.startswith(("::", "="))]
        if name == "html":
            assert faults(text) == []
            assert "<script>alert" not in text


@pytest.mark.parametrize("name", ["junit", "card"])
def test_what_would_make_a_claim_of_a_log_is_refused(name):
    with pytest.raises(InputError, match="imported logs"):
        FORMATS[name](read(HEAD))


@pytest.mark.parametrize("build", [lipschitz_clean, smoothing_clean])
def test_a_table_of_ours_names_no_settings_it_did_not_have(build):
    assert read(FORMATS["tsv"](build()), LogSettings()).audit.explanations == ()
