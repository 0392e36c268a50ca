"""`certify report --format html` through `main`: one page of all reports, and images only of data with the hash."""

import numpy as np
import pytest
from msgspec.structs import replace

from certify.cli.app import main
from certify.cli.options import Format
from certify.examples import hash_array
from certify.report.html_view.page import render_html
from certify.report.several import SEVERAL
from certify.results import report_to_json, seal
from tests.report.hostile_reports import HOSTILE
from tests.report.page_structure import Page, faults
from tests.report.sample_reports import data_record, lipschitz_example, lipschitz_report, smoothing_clean

IMAGES = np.arange(4 * 3 * 8 * 8, dtype=np.uint8).reshape(4, 3, 8, 8)


def report_of_images():
    rows = [replace(lipschitz_example(k, 1.0), id=str(k), hash=hash_array(IMAGES[k])) for k in range(3)]
    return seal(replace(lipschitz_report(rows), data=data_record(rows)))


def run(capsys, *arguments):
    code = main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images.json").write_text(report_to_json(report_of_images()), encoding="utf-8")
    (tmp_path / "votes.json").write_text(report_to_json(smoothing_clean()), encoding="utf-8")
    np.savez(tmp_path / "images.npz", x=IMAGES, y=np.ones(4, dtype=np.int64))
    np.savez(tmp_path / "others.npz", x=IMAGES[:, ::-1].copy(), y=np.ones(4, dtype=np.int64))
    return tmp_path


def test_one_report_is_one_page(folder, capsys):
    code, out, err = run(capsys, folder / "votes.json", "--format", "html")
    assert (code, err) == (0, "")
    assert out == render_html(smoothing_clean())


def test_several_reports_share_a_page_under_the_names_of_their_files(folder, capsys):
    code, out, _ = run(capsys, folder / "images.json", folder / "votes.json", "--format", "html")
    assert code == 0
    assert faults(out) == []
    assert [heading.text for heading in Page(out).all("h2")][1:] == ["images.json", "votes.json"]


def test_images_are_those_with_the_hash(folder, capsys):
    code, out, _ = run(capsys, folder / "images.json", "--format", "html", "--thumbnails", folder / "images.npz")
    assert code == 0
    assert faults(out) == []
    assert len(Page(out).all("img")) == 3


def test_images_of_other_data_are_refused(folder, capsys):
    code, out, err = run(capsys, folder / "images.json", "--format", "html", "--thumbnails", folder / "others.npz")
    assert (code, out) == (2, "")
    assert "got none of its examples" in err


def test_images_need_a_page(folder, capsys):
    code, _, err = run(capsys, folder / "images.json", "--thumbnails", folder / "images.npz")
    assert code == 2
    assert "--format html" in err


def test_a_report_that_contradicts_itself_says_so_on_its_page(folder, capsys):
    report = smoothing_clean()
    broken = replace(report, examples=(replace(report.examples[0], radius=9.0), *report.examples[1:]))
    (folder / "broken.json").write_text(report_to_json(broken), encoding="utf-8")
    code, out, err = run(capsys, folder / "broken.json", "--format", "html")
    assert code == 2
    assert "inconsistent" in err
    alert = next(element for element in Page(out).all("p") if element.attributes.get("role") == "alert")
    assert "examples[0].radius" in alert.text


FILE = HOSTILE.replace("/", "")  # what a file can be called


@pytest.mark.parametrize("name", [each.value for each in Format])
def test_a_hostile_name_of_a_file_does_no_harm(tmp_path, capsys, name):
    """Inconsistent ones, so that the name is on stderr too; of a page it is a heading."""
    path = tmp_path / f"{FILE}.json"
    path.write_text(report_to_json(replace(lipschitz_report([lipschitz_example(0, 1.0)]), digest="0" * 64)))
    several = [path, path] if name in SEVERAL else [path]
    code, out, err = run(capsys, *several, "--format", name)
    assert code == 2  # so that no job that shows it goes on as if nothing were wrong
    assert err.count("inconsistent") == len(several)
    for text in (out, err):
        assert not {"\x1b", "\x9b", "\u202e", "\u2066", "\x07"} & set(text)
        assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
    assert main(["verify", *map(str, several)]) == 2
    assert faults(out) == [] if name == "html" else "<script>" not in out
