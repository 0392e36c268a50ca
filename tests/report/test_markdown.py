import re
from decimal import Decimal

import pytest
from markdown_it import MarkdownIt
from msgspec import UNSET
from msgspec.structs import replace

from certify.report import FORMATS
from certify.report.markdown import LARGEST
from certify.report.neutralise import markdown_text, strip_controls
from certify.report.terminal.certificates import SHARE_DIGITS
from certify.results import LipschitzReport, SmoothingReport
from tests.report.hostile_reports import HOSTILE, HOSTILE_REPORTS
from tests.report.sample_reports import (
    LAYERS,
    SAMPLES,
    clean_gate,
    gate,
    lipschitz_clean,
    lipschitz_example,
    lipschitz_mixed,
    lipschitz_report,
    network_alone,
    smoothing_clean,
    smoothing_example,
    smoothing_failing,
    smoothing_report,
    smoothing_undecided,
    unbounded_with_data,
)

every_sample = pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)
every_report = pytest.mark.parametrize(
    "build", [*SAMPLES.values(), *HOSTILE_REPORTS.values()], ids=[*SAMPLES, *(f"hostile {n}" for n in HOSTILE_REPORTS)]
)
PARSER = MarkdownIt("commonmark").enable("table")
INVISIBLE = "\u200b"


def tables(report):
    """Parse the text as Markdown and return its tables: title -> rows of cells as a reader sees them."""
    found, heading, rows = {}, "", []
    tokens = PARSER.parse(FORMATS["markdown"](report))
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = seen(tokens[place + 1])
        elif token.type == "html_block" and "<summary>" in token.content:
            heading = re.search("<summary>(.*)</summary>", token.content)[1]
        elif token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(seen(tokens[place + 1]))
        elif token.type == "table_close":
            found[heading], rows = rows, []
    return found


def seen(inline):
    return "".join(child.content for child in inline.children or ()).replace(INVISIBLE, "")


def table(report, start):
    (rows,) = [rows for title, rows in tables(report).items() if title.startswith(start)]
    return rows


# ---- what stands in it ---------------------------------------------------------------------------------------------


@every_sample
def test_the_verdicts_come_first_with_numbers_and_reasons(build):
    report = build()
    if not report.gates:
        assert FORMATS["markdown"](report).startswith("## certify: no gates\n")
        return
    header, *rows = next(iter(tables(report).values()))
    assert header == ["verdict", "gate", "asked", "observed", "lower limit", "upper limit", "reason"]
    by_name = {row[1]: row for row in rows}
    assert len(rows) == len(by_name) == len(report.gates)
    for row in report.gates:
        verdict, _, asked, observed, lower, upper, reason = by_name[row.name]
        assert verdict.split()[1] == row.verdict
        assert repr(row.threshold) in asked
        assert reason == row.reason
        assert observed == "none" if row.value is None else abs(float(observed) - row.value) < 1e-5
        assert lower == "none" if row.lower is None else 0 <= Decimal(row.lower) - Decimal(lower) < Decimal("1e-4")
        assert upper == "none" if row.upper is None else 0 <= Decimal(upper) - Decimal(row.upper) < Decimal("1e-4")


def test_what_asks_for_action_comes_first():
    rows = [lipschitz_example(index, 1.0) for index in range(40)]
    report = lipschitz_report(rows, [clean_gate(0.5), gate(0.1, 0.99), gate(0.9, 0.5)])
    assert [row.verdict for row in report.gates] == ["passed", "undecided", "failed"]
    text = FORMATS["markdown"](report)
    assert text.startswith("## ❌ certify: 1 failed, 1 undecided, 1 passed\n")
    assert [row[0].split()[1] for row in next(iter(tables(report).values()))[1:]] == ["failed", "undecided", "passed"]


@pytest.mark.parametrize("build", [smoothing_failing, smoothing_undecided])
def test_the_title_is_no_green_one_unless_all_passed(build):
    assert not FORMATS["markdown"](build()).startswith("## ✅")


@every_sample
def test_the_statement_is_there_in_words(build):
    report = build()
    quote = next(line for line in FORMATS["markdown"](report).splitlines() if line.startswith("> "))
    paragraph = next(token for token in PARSER.parse(quote) if token.type == "inline")
    assert seen(paragraph) == report.statement.text


@every_sample
def test_certified_accuracy_has_its_limits_outward(build):
    report = build()
    found = [rows for title, rows in tables(report).items() if title.startswith("Certified accuracy")]
    assert len(found) == (report.summary is not UNSET)
    for rows in found:
        for row, (_, counted, observed, lower, upper) in zip(report.summary.certified_accuracy, rows[1:], strict=False):
            assert counted == f"{round(row.accuracy * len(report.examples))}/{len(report.examples)}"
            assert abs(float(observed) - row.accuracy) <= 0.5 * 10**-SHARE_DIGITS
            assert 0 <= Decimal(row.lower) - Decimal(lower) < Decimal("0.001")
            assert 0 <= Decimal(upper) - Decimal(row.upper) < Decimal("0.001")
        assert len(rows) > 1


def test_layers_and_network_print_outward():
    report = network_alone()
    rows = table(report, "Layers")[1:]
    assert rows[0][3:5] == ["1.2345", "1.2346"]
    for row, layer in zip(rows, report.layers, strict=True):
        assert row[0] == layer.name
        assert Decimal(row[4]) >= Decimal(layer.upper)
        assert row[3] == "none" if layer.lower is None else Decimal(row[3]) <= Decimal(layer.lower)
    header, (lower, upper, method) = table(report, "Lipschitz constant")
    assert header == ["lower, proved", "upper, proved", "method"]
    assert Decimal(lower) <= Decimal(report.network.lower)
    assert Decimal(upper) >= Decimal(report.network.upper)
    assert method == report.network.method


def test_radii_are_rounded_down():
    report = lipschitz_mixed()
    radii = [row[4] for row in table(report, "Examples")[1:]]
    assert radii[0] == "0.24999"
    assert all(Decimal(text) <= Decimal(e.radius) for text, e in zip(radii, report.examples, strict=True))


def test_an_estimated_network_constant_is_never_called_a_bound():
    report = network_alone()
    header, _ = table(replace(report, network=replace(report.network, proved=False)), "Lipschitz constant")
    assert header[1] == "estimate, not proved"


def test_what_has_no_bound_says_why():
    text = FORMATS["markdown"](unbounded_with_data())
    assert "No bound: no rule for softmax attention" in text
    assert table(unbounded_with_data(), "Layers")[-1][4:] == ["unbounded", "", "no rule for attention"]


def test_floors_are_called_estimates_and_a_layer_shows_its_share():
    report = network_alone()
    layers = [replace(layer, share=share) for layer, share in zip(report.layers, (0.25, UNSET, 0.75), strict=True)]
    limited = replace(report.network, limited_by="what | limits")
    report = replace(report, layers=tuple(layers), network=limited)
    text = FORMATS["markdown"](report)
    assert "- data floor (an estimate): 0.8, steepest slope found" in text
    assert "- slope floor (an estimate): 0.75, steepest if slopes were free" in text
    assert "- limited by: what &#124; limits" in text
    assert [row[5] for row in table(report, "Layers")] == ["share", "25%", "", "75%"]
    assert table(unbounded_with_data(), "Abstentions")[1][0] == "4"


@every_sample
def test_deterministic_and_probabilistic_never_share_a_text(build):
    report = build()
    text = FORMATS["markdown"](report)
    assert ("probabilistic" in text) == isinstance(report, SmoothingReport)
    assert ("deterministic" in text) == isinstance(report, LipschitzReport)


def test_earlier_seeds_are_warned_of_and_what_did_not_run_is_said():
    assert "earlier seeds 1, 7" in FORMATS["markdown"](smoothing_clean())
    assert "falsifier: not run" in FORMATS["markdown"](network_alone())


# ---- hostile names -------------------------------------------------------------------------------------------------

OWN_HTML = re.compile(r"\s*(<details><summary>(Layers|Examples) \(\d+\)</summary>|</details>)\s*")
HARMFUL = {"link_open", "image", "html_inline", "em_open", "strong_open"}


@every_report
def test_nothing_but_its_own_markup_is_obeyed(build):
    report = build()
    for token in PARSER.parse(FORMATS["markdown"](report)):
        assert token.type != "html_block" or OWN_HTML.fullmatch(token.content)
        for child in token.children or ():
            assert child.type not in HARMFUL
            assert child.type != "code_inline" or child.content == "certify verify"
            assert not re.search(r"[@#]\w", child.content), "a mention or an issue number that the site would link"
    for rows in tables(report).values():
        assert {len(row) for row in rows} == {len(rows[0])}


TRAPS = (
    HOSTILE,
    "a|b|c",
    "\\|",
    "`x` ``y``",
    "<img src=x onerror=alert(1)>",
    "<!-- x",
    "&lt;b&gt; &amp;",
    "[a](javascript:alert(1)) ![b](x)",
    "*a* __b__ ~~c~~ $d$",
    "https://evil.example www.evil.example",
    "@team #1 owner/repo#12",
    "größe, 船 é ✓",
)


@pytest.mark.parametrize("text", TRAPS)
def test_text_shows_as_it_was_written(text):
    (inline,) = PARSER.parseInline("x" + markdown_text(text, 10_000))
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert seen(inline) == "x" + strip_controls(text)


@pytest.mark.parametrize("text", ["https://evil.example", "www.evil.example", "@team", "#1", "a|b", "`a`"])
def test_the_source_holds_nothing_that_is_linked_or_split(text):
    source = markdown_text(text, 10_000)
    assert not re.search(r"://|www\.|[@|`]|(?<!&)#", source)


# ---- size ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [3, 4, 5, 8, 12, 13, 40])
@pytest.mark.parametrize("text", ["abcdefgh" * 9, "@" * 50, "船" * 50, "<|" * 30, HOSTILE])
def test_a_text_keeps_its_bytes_and_says_that_it_was_cut(text, most):
    shown = markdown_text(text, most)
    assert len(shown.encode()) <= most
    assert shown.endswith("…") or most == 40
    assert re.fullmatch(r"(&#?\w+;|[^&])*", shown)


def huge_lipschitz(text):
    rows = [replace(lipschitz_example(index, 0.1), id=f"{text}{index}", reason=text) for index in range(300)]
    rows += [replace(row, predicted=None, correct=False, radius=0.0, reason=f"{i}{text}") for i, row in enumerate(rows)]
    layers = [
        replace(LAYERS[0], name=f"{text}{index}", kind=text, method=text, shape=(7,) * 900) for index in range(900)
    ]
    gates = [gate(0.1 + index * 1e-3, 0.5, name=f"{text}{index}") for index in range(200)]
    report = lipschitz_report(rows, gates, layers=layers, classes=[text] * 3)
    statement = dict.fromkeys(("text", "arithmetic", "domain", "joint"), text)
    return replace(
        report,
        statement=replace(report.statement, **statement),
        gates=tuple(replace(row, reason=text, metric=text) for row in report.gates),
        network=replace(report.network, method=text, data_floor=1e-300, slope_floor=1e300),
        model=replace(report.model, source=text, sha256=text, input=replace(report.model.input, space=text)),
        data=replace(report.data, selection=text, sha256=text, count=10**4000),
        falsifier=replace(report.falsifier, tried=text, found=10**4000),
        tool=replace(report.tool, version=text),
        execution=replace(report.execution, earlier_seeds=tuple(range(10_000))),
        summary=replace(report.summary, abstained=10**4000, clean_accuracy=1e308),
        digest=text,
    )


@pytest.mark.parametrize(
    "character",
    [*(pytest.param(c, marks=pytest.mark.slow) for c in ("x", "船")), "@", "\U0001f600"],
    ids=ascii,
)
@pytest.mark.parametrize("length", [1, 2500])  # no text keeps more than 2000 bytes
def test_whatever_the_input_it_stays_small_and_says_what_is_left_out(character, length):
    report = huge_lipschitz(character * length)
    shown = FORMATS["markdown"](report)
    assert LARGEST < 65_536 < 2**20
    assert len(shown.encode()) <= LARGEST
    found = tables(report)
    for title, total in (("❌", 200), ("Layers", 900), ("Examples", 600)):
        (rows,) = [rows for name, rows in found.items() if name.startswith(title)]
        assert len(rows) > 1
        assert f"… and {total - len(rows) + 1} more of {total}, not shown here" in shown


def test_a_small_report_leaves_nothing_out():
    assert "not shown here" not in FORMATS["markdown"](lipschitz_clean()).partition("Examples")[0]
    assert len(table(lipschitz_clean(), "Examples")) == 101


def test_a_smoothing_report_of_many_examples_stays_small():
    few = smoothing_report([1.0, 0.5])
    many = tuple(
        replace(smoothing_example(0, 1.0, few.settings, few.tables), index=index, id=f"{index}")
        for index in range(5000)
    )
    shown = FORMATS["markdown"](replace(few, examples=many))
    assert len(shown.encode()) <= LARGEST
    assert re.search(r"… and \d+ more of 5000", shown)
