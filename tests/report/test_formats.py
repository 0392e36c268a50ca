import csv
import json
import re
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import certify
from certify.cli.options import Format
from certify.errors import InputError, SoundnessError
from certify.report import FORMATS
from certify.report.neutralise import plain_line
from certify.report.terminal.certificates import bar
from certify.results import report_from_json
from tests.report.hostile_reports import HOSTILE, HOSTILE_REPORTS, hostile_lipschitz
from tests.report.sample_reports import (
    SAMPLES,
    lipschitz_clean,
    lipschitz_mixed,
    network_alone,
    smoothing_abstaining,
    smoothing_clean,
    smoothing_undecided,
)

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

every_sample = pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)
every_hostile = pytest.mark.parametrize("build", HOSTILE_REPORTS.values(), ids=HOSTILE_REPORTS)
every_format = pytest.mark.parametrize("name", FORMATS)


def test_the_command_line_offers_every_format_and_no_other():
    assert [member.value for member in Format] == list(FORMATS)
    assert all(Format(name).name == name for name in FORMATS)
    assert list(FORMATS) == ["terminal", "json", "csv", "tsv", "markdown", "html", "junit", "card"]


def test_a_format_by_name_is_that_of_the_table():
    assert certify.render(lipschitz_clean(), "markdown") == FORMATS["markdown"](lipschitz_clean())
    with pytest.raises(InputError, match="html, junit or card, got 'pdf'"):
        certify.render(lipschitz_clean(), "pdf")


@every_sample
@every_format
def test_every_format_shows_every_report(build, name):
    text = FORMATS[name](build())
    assert text.endswith("\n")
    assert "nan" not in text.lower().split()


@every_sample
@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_view_keeps_its_width_and_plain_text_has_no_escapes(build, width):
    text = FORMATS["terminal"](build(), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


@every_sample
def test_colours_change_nothing_but_escapes(build):
    coloured = FORMATS["terminal"](build(), width=100, color=True)
    assert "\x1b[" in coloured
    lines = [line.rstrip() for line in ESCAPES.sub("", coloured).splitlines()]
    assert lines == FORMATS["terminal"](build(), width=100).splitlines()


@every_sample
def test_json_reads_back_as_the_same_report(build):
    report = build()
    assert report_from_json(FORMATS["json"](report), name="report") == report


@every_sample
def test_tsv_has_the_columns_of_the_field_and_radii_rounded_down(build):
    report = build()
    rows = list(csv.DictReader(FORMATS["tsv"](report).splitlines(), delimiter="\t"))
    assert len(rows) == len(report.examples)
    for row, example in zip(rows, report.examples, strict=True):
        assert list(row) == ["idx", "label", "predict", "radius", "correct", "time"]
        assert 0 <= example.radius - float(row["radius"]) < 1e-6
        assert int(row["predict"]) == (-1 if example.predicted is None else example.predicted)
        assert bool(int(row["correct"])) == example.correct
        assert row["time"] == "0:00:00.250000" or row["time"] == "0:00:00.125000"


def test_a_radius_just_below_a_quarter_never_prints_as_a_quarter():
    report = lipschitz_mixed()
    assert 0.249999 < report.examples[0].radius < 0.25
    certificates = FORMATS["terminal"](report).partition("Examples")[2]
    assert "radius 0.24999 " in certificates
    assert "radius 0.25 " not in certificates
    assert FORMATS["tsv"](report).splitlines()[1].split("\t")[3] == "0.249999"


# ---- hostile names -------------------------------------------------------------------------------------------------


@every_hostile
@every_format
def test_hostile_names_come_out_harmless(build, name):
    text = FORMATS[name](build(), width=100)
    if name == "csv":  # RFC 4180 ends each line so, and a cell holds no line break
        text = text.replace("\r\n", "\n")
    steering = {character for character in text if unicodedata.category(character)[0] == "C"} - {"\n", "\t"}
    assert not steering
    assert not [line for line in text.splitlines() if line.startswith(("::", "="))]
    if name == "terminal":
        assert "\t" not in text


def test_markup_in_a_name_is_shown_not_obeyed():
    coloured = FORMATS["terminal"](hostile_lipschitz(), width=200, color=True)
    assert "[bold red]" in coloured


def test_a_hostile_name_round_trips_through_json():
    report = hostile_lipschitz()
    assert json.loads(FORMATS["json"](report))["layers"][0]["name"] == HOSTILE


# ---- numbers that are not finite -----------------------------------------------------------------------------------


def paths_of_floats(value, path=()):
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    else:
        return [path] if isinstance(value, float) else []
    return [found for step, child in pairs for found in paths_of_floats(child, (*path, step))]


def with_value(plain, path, value):
    if not path:
        return value
    if isinstance(plain, dict):
        return {key: with_value(child, path[1:], value) if key == path[0] else child for key, child in plain.items()}
    return [with_value(child, path[1:], value) if place == path[0] else child for place, child in enumerate(plain)]


@pytest.mark.parametrize("build", [lipschitz_mixed, smoothing_abstaining])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_place_of_a_report_can_hold_a_number_that_is_not_finite(build, value):
    plain = msgspec.to_builtins(build())
    paths = paths_of_floats(plain)
    assert len(paths) > 30
    for path in paths:
        broken = msgspec.convert(with_value(plain, path, value), type(build()))
        with pytest.raises(SoundnessError, match="finite"):
            FORMATS["json"](broken)
        text = json.dumps(with_value(plain, path, value))
        with pytest.raises(InputError, match="strict JSON"):
            report_from_json(text, name="report")


# ---- what the terminal says ----------------------------------------------------------------------------------------


def test_a_falsifier_that_did_not_run_is_said():
    assert "not run" in FORMATS["terminal"](network_alone())


def test_sides_and_kinds_are_labelled():
    text = FORMATS["terminal"](lipschitz_clean())
    for word in ("deterministic", "lower l2", "upper l2", "upper, proved", "estimate", "observed"):
        assert word in text
    assert "probabilistic (alpha 0.001 per example)" in FORMATS["terminal"](smoothing_clean())


def test_an_estimated_network_constant_is_never_called_a_bound():
    report = network_alone()
    text = FORMATS["terminal"](replace(report, network=replace(report.network, proved=False)))
    assert "estimate, not proved" in text
    assert "upper, proved" not in text


def test_upper_bounds_print_up_and_lower_bounds_down():
    row = next(line for line in FORMATS["terminal"](network_alone()).splitlines() if line.strip().startswith("conv1"))
    assert row.split()[3:5] == ["1.2345", "1.2346"]


@pytest.mark.parametrize("build", [lipschitz_clean, smoothing_clean, smoothing_undecided])
def test_limits_over_examples_print_outward(build):
    report = build()
    curve = FORMATS["terminal"](report).partition("Certified accuracy")[2].splitlines()[2:]
    for line, row in zip(curve, report.summary.certified_accuracy, strict=False):
        if row.accuracy > 0:
            *_, lower, upper = line.split()
            assert 0 <= row.lower - float(lower) < 0.001
            assert 0 <= float(upper) - row.upper < 0.001


def test_abstentions_are_counted_by_reason():
    text = FORMATS["terminal"](smoothing_undecided())
    assert re.search(r"17 x +no class: 128 votes", text)
    assert re.search(r"2 x +no class\n", FORMATS["terminal"](smoothing_abstaining()))


def test_earlier_seeds_are_warned_of():
    assert "earlier seeds 1, 7" in FORMATS["terminal"](smoothing_clean())


@pytest.mark.parametrize("name", ["terminal", "markdown", "html"])
def test_earlier_runs_with_other_settings_are_warned_of(name):
    """More draws after a first look at them, or a measurement after a test without an answer, is said."""
    report = smoothing_clean()
    runs = ("at 0.1, n 256", "sigma 0.5")
    for seeds, words in (((1, 7), "earlier seeds 1, 7, runs with"), ((), "runs with")):
        text = FORMATS[name](
            replace(report, execution=replace(report.execution, earlier_seeds=seeds, earlier_runs=runs))
        )
        plain = re.sub(r"\s+", " ", text.replace("\\", ""))
        assert f"{words} other settings (at 0.1, n 256; sigma 0.5): choosing among runs voids alpha" in plain


@given(st.floats(min_value=0.0, max_value=1.0))
def test_a_bar_never_shows_more_than_its_share(share):
    eighths = sum(8 if cell == "█" else " ▏▎▍▌▋▊▉".index(cell) for cell in bar(share))
    assert share * 192 - 1 < eighths <= share * 192


def test_no_width_folds_a_name_into_a_command_of_the_runner():
    """A runner of CI obeys a line that begins with ``::``, and folding can put any word of a name at a beginning."""
    name = " ".join(["a" * 7, "::error::x", "##[error]y"] * 6)
    row = lipschitz_clean().gates[0]
    report = replace(lipschitz_clean(), gates=(replace(row, name=name, reason=name),))
    folded = 0
    for width in range(40, 121):
        lines = [line.strip() for line in FORMATS["terminal"](report, width=width).splitlines()]
        assert not [line for line in lines if line.startswith(("::", "##["))]
        folded += sum(line.startswith((": :", "## [")) for line in lines)
    assert folded > 20
    assert plain_line("a::b") == "a::b"
