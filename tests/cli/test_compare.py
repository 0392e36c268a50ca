"""`certify compare` at the command line: exit codes, what goes to stdout and to the file, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from certify.cli.app import main
from certify.report import read_document, verify_report
from certify.results import report_to_json
from tests.report.sample_reports import lipschitz_example, lipschitz_report, smoothing_clean


def lipschitz_with(certified: int, n: int = 400):
    return lipschitz_report([lipschitz_example(index, 1.0 if index < certified else 0.2) for index in range(n)])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, certified in (("all", 400), ("most", 396), ("fewer", 385), ("half", 200)):
        Path(f"{name}.json").write_text(report_to_json(lipschitz_with(certified)))
    return tmp_path


def run(capsys, *arguments):
    code = main(["compare", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    "new, arguments, code",
    [
        ("half", (), 0),
        ("all", ("--max-drop", 0.02), 0),
        ("most", ("--max-drop", 0.05), 0),
        ("half", ("--max-drop", 0.05), 1),
        ("fewer", ("--max-drop", 0.04), 4),
        ("all", ("--max-drop", 0.001), 2),
        ("missing", (), 2),
    ],
)
def test_exit_codes(folder, capsys, new, arguments, code):
    found, out, err = run(capsys, "all.json", f"{new}.json", "--radius", 0.3, *arguments)
    assert found == code, err
    assert bool(out) == (code != 2)
    assert err.startswith("certify: expected") == (code == 2)


@pytest.mark.parametrize("radius", ["nan", "inf", "-1"])
def test_a_radius_of_no_ball_is_refused(folder, capsys, radius):
    assert main(["compare", "all.json", "all.json", "--radius", radius]) == 2
    assert "expected a radius of at least 0" in capsys.readouterr().err


def test_the_report_goes_to_the_file_whatever_is_shown(folder, capsys):
    arguments = ("all.json", "half.json", "--radius", 0.3, "--max-drop", 0.05, "--format", "markdown", "-o", "c.json")
    assert run(capsys, *arguments)[1].startswith("## ❌ certify: 200 lost, 0 won of 400")
    report = read_document("c.json")
    assert verify_report(report) == ()
    assert main(["verify", "c.json"]) == 0
    assert "consistent: 400 examples" in capsys.readouterr().out
    assert main(["report", "c.json", "--format", "json"]) == 0
    assert capsys.readouterr().out == Path("c.json").read_text()


def test_a_gate_does_not_take_a_comparison(folder, capsys):
    run(capsys, "all.json", "half.json", "-o", "c.json")
    Path("certify.toml").write_text('[[gate]]\nname = "g"\nmetric = "clean_accuracy"\nmin = 0.5\n')
    assert main(["gate", "c.json"]) == 2
    assert "expected a report of certificates, got a comparison" in capsys.readouterr().err
    assert run(capsys, "c.json", "all.json")[0] == 2


def test_an_edited_report_is_not_compared(folder, capsys):
    plain = json.loads(Path("half.json").read_text())
    plain["examples"][0]["radius"] *= 2
    Path("edited.json").write_text(json.dumps(plain, indent=1))
    code, _, err = run(capsys, "all.json", "edited.json")
    assert (code, "inconsistent report" in err) == (2, True)


def test_reports_of_different_kinds_are_refused_with_what_to_do(folder, capsys):
    Path("smooth.json").write_text(report_to_json(smoothing_clean()))
    code, _, err = run(capsys, "all.json", "smooth.json")
    assert code == 2
    assert "expected two reports with one kind of certificates, got 'lipschitz' in the old and 'smoothing'" in err


def test_a_comparison_can_be_seen_in_the_formats_that_have_a_place_for_it(folder, capsys):
    code, _, err = run(capsys, "all.json", "most.json", "--format", "tsv")
    assert (code, "terminal, json, csv, markdown, html" in err) == (2, True)


POLICY = """
[[gate]]
name = "no regression"
baseline = "reports/main.json"
radius = 0.3
max_drop = {}
"""


@pytest.mark.parametrize("new, max_drop, code", [("all", 0.02, 0), ("half", 0.02, 1), ("fewer", 0.04, 4)])
def test_a_gate_compares_with_its_baseline_beside_the_configuration(folder, capsys, monkeypatch, new, max_drop, code):
    Path("reports").mkdir()
    Path("all.json").rename("reports/main.json")
    Path("reports/main.json").write_text(report_to_json(lipschitz_with(400)))
    Path("all.json").write_text(report_to_json(lipschitz_with(400)))
    Path("certify.toml").write_text(POLICY.format(max_drop))
    Path("inside").mkdir()
    monkeypatch.chdir("inside")
    assert main(["gate", f"../{new}.json", "-o", "judged.json"]) == code
    assert "won their certificate at l2 radius 0.3" in " ".join(capsys.readouterr().out.split())
    assert verify_report(read_document("judged.json")) == ()
    Path("../reports/main.json").unlink()
    assert main(["gate", f"../{new}.json"]) == 2
