"""What a command pays for: views and checks of a report answer without torch, and a plain view without the rest."""

import subprocess
import sys

import pytest

import certify.report
from certify.report import FORMATS
from certify.results import report_to_json
from tests.report.sample_reports import lipschitz_clean


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sorted(sys.modules)))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_verification_gates_and_every_view_work_without_torch():
    loaded = loaded_by(
        "import certify.policy, certify.report\n"
        "for name in certify.report.__all__: getattr(certify.report, name)\n"
        "import certify.report.terminal"
    )
    assert "certify.report.verify" in loaded
    assert "torch" not in loaded


def test_plain_views_load_neither_statistics_nor_the_terminal():
    loaded = loaded_by("from certify.report import FORMATS")
    assert not loaded & {"torch", "scipy", "numpy", "rich", "xml.etree.ElementTree", "certify.report.markdown"}


LIMITS = {"scipy", "numpy"}  # a page draws a band of limits over examples, between those that the report holds


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "terminal"])
def test_rendering_a_plain_view_loads_neither_statistics_nor_the_terminal(name, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report_to_json(lipschitz_clean()))
    loaded = loaded_by(
        "from certify.report import FORMATS, read_report\n"
        f"if not FORMATS[{name!r}](read_report({str(path)!r})): raise SystemExit('no text')"
    )
    assert not loaded & {"torch", "rich", *(() if name == "html" else LIMITS)}


def test_every_public_name_has_its_home():
    assert sorted(certify.report.HOMES) == sorted(certify.report.__all__)
    for name in certify.report.__all__:
        assert getattr(certify.report, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'render_pdf'"):
        certify.report.render_pdf  # noqa: B018
