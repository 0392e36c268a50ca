import re
import xml.etree.ElementTree as ET
from decimal import Decimal

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.policy import gate_exit_code
from certify.report import FORMATS
from certify.report.junit import ELEMENTS
from certify.report.neutralise import xml_text
from tests.report.hostile_reports import HOSTILE, HOSTILE_REPORTS
from tests.report.sample_reports import (
    SAMPLES,
    clean_gate,
    lipschitz_clean,
    lipschitz_example,
    lipschitz_report,
    network_alone,
    smoothing_failing,
    smoothing_undecided,
)

every_report = pytest.mark.parametrize(
    "build", [*SAMPLES.values(), *HOSTILE_REPORTS.values()], ids=[*SAMPLES, *(f"hostile {n}" for n in HOSTILE_REPORTS)]
)

# The schema of Jenkins' JUnit plugin (junit-10.xsd): element -> (children in order, required and optional attributes).
COUNTS = {"tests", "failures", "errors", "time"}
GRAMMAR = {
    "testsuites": ("testsuite*", set(), {"name", "disabled", *COUNTS}),
    "testsuite": (
        "properties?testcase*(system-out)?(system-err)?",
        {"name"},
        {"disabled", "skipped", "timestamp", "hostname", "id", "package", *COUNTS},
    ),
    "properties": ("(property)*", set(), set()),
    "property": ("", {"name", "value"}, set()),
    "testcase": (
        "(skipped|error|failure|system-out|system-err)*",
        {"name", "classname"},
        {"assertions", "time", "status"},
    ),
    "failure": ("", set(), {"message", "type"}),
    "error": ("", set(), {"message", "type"}),
    "system-out": ("", set(), set()),
}


def parse(report):
    return ET.fromstring(FORMATS["junit"](report).encode("utf-8"))


def cases(report):
    return list(parse(report).iter("testcase"))


def facts(case):
    return dict(line.split(": ", 1) for line in case[0].text.splitlines())


@every_report
def test_it_has_the_elements_and_attributes_that_consumers_read(build):
    for element in parse(build()).iter():
        children, required, optional = GRAMMAR[element.tag]
        pattern = re.sub(r"(?<![\w(|-])([\w-]+)(?=[*?])", r"(\1)", children)
        assert re.fullmatch(pattern, "".join(child.tag for child in element))
        assert required <= set(element.attrib) <= required | optional


@every_report
def test_each_gate_is_one_case_and_the_counts_add_up(build):
    report = build()
    root = parse(report)
    (suite,) = root
    verdicts = [gate.verdict for gate in report.gates]
    assert [case[0].tag for case in cases(report)] == [ELEMENTS[verdict] for verdict in verdicts]
    for counted in (root, suite):
        assert int(counted.get("tests")) == len(suite.findall("testcase")) == len(verdicts)
        assert int(counted.get("failures")) == len(suite.findall("testcase/failure")) == verdicts.count("failed")
        assert int(counted.get("errors")) == len(suite.findall("testcase/error")) == verdicts.count("undecided")
        assert float(counted.get("time")) == report.execution.seconds


@every_report
def test_it_is_red_exactly_when_the_gate_command_is(build):
    report = build()
    red = [case for case in cases(report) if {child.tag for child in case} & {"failure", "error"}]
    assert bool(red) == (gate_exit_code(report.gates) != 0)


def test_each_verdict_has_an_element_of_its_own():
    assert ELEMENTS == {"passed": "system-out", "failed": "failure", "undecided": "error"}
    found = {
        case[0].tag for build in (smoothing_failing, smoothing_undecided, lipschitz_clean) for case in cases(build())
    }
    assert found == {"failure", "error", "system-out"}


@pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)
def test_a_case_names_what_was_asked_and_found_with_limits_outward(build):
    report = build()
    for case, gate in zip(cases(report), report.gates, strict=True):
        found = facts(case)
        assert (case.get("name"), found["verdict"], found["reason"]) == (gate.name, gate.verdict, gate.reason)
        assert float(found["threshold"]) == gate.threshold
        assert ("radius" in found) == (gate.radius is not UNSET)
        for side, number, sign in (("lower", gate.lower, 1), ("upper", gate.upper, -1)):
            assert (found[side] == "none") == (number is None)
            if number is not None:
                assert 0 <= sign * (Decimal(number) - Decimal(found[side])) < Decimal("1e-4")


def test_a_report_without_gates_is_an_empty_suite():
    (suite,) = parse(network_alone())
    assert suite.get("tests") == "0"
    assert not suite.findall("testcase")


@pytest.mark.parametrize("build", HOSTILE_REPORTS.values(), ids=HOSTILE_REPORTS)
def test_the_text_is_ascii_and_no_line_starts_a_command(build):
    text = FORMATS["junit"](build())
    assert text.isascii()
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]


def hostile_gate(name):
    return lipschitz_report([lipschitz_example(0, 1.0)], [clean_gate(0.9, name=name)])


def test_a_hostile_name_reads_back_as_harmless_text():
    (case,) = cases(hostile_gate(HOSTILE))
    assert case.get("name") == "\ufffd[2J<script>alert(1)</script>31m=1+1 ::error::x name\ufffd[bold red]|`@a"
    assert len(case) == 1


@pytest.mark.parametrize("name", ["", " ", "\n", "\u202e"])
def test_a_gate_without_a_visible_name_is_numbered(name):
    assert cases(hostile_gate(name))[0].get("name") == "gate 1"


def test_no_character_that_xml_forbids_is_left():
    for start in range(0, 0x110000, 0x1000):
        block = xml_text("".join(map(chr, range(start, start + 0x1000))))
        element = ET.Element("a")
        element.text = block
        assert ET.fromstring(ET.tostring(element, encoding="us-ascii")).text == (block or None)
    assert xml_text("a\x00b\ud800c\uffffd]]>") == "a\ufffdb\ufffdc\ufffdd]]>"


def test_an_edited_time_below_zero_is_shown_as_none():
    report = lipschitz_clean()
    edited = replace(report, execution=replace(report.execution, seconds=-5.0))
    assert parse(edited).get("time") == "0.000"
