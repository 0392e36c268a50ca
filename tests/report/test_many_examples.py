"""A report of 50,000 examples in every format: under 20 seconds, under 1 GB, and short where a reader's site is."""

import pytest

from certify.report import FORMATS
from certify.results import report_to_json
from tests.benchmarks.reports import measure
from tests.report.browser import open_browser
from tests.report.sample_reports import many_lipschitz, many_smoothing

EXAMPLES = 50_000
MEBIBYTES = 1_000_000_000 / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("build", [many_lipschitz, many_smoothing])
def test_fifty_thousand_examples_in_every_format(build, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report_to_json(build(EXAMPLES)), encoding="utf-8")
    for name in FORMATS:
        seconds, megabytes, memory = measure(name, path)
        assert seconds < 20, name
        assert memory < MEBIBYTES, name
        assert name != "markdown" or megabytes < 0.0655


@pytest.mark.slow
def test_a_page_of_fifty_thousand_examples_opens_folded_and_whole(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(FORMATS["html"](many_smoothing(EXAMPLES)), encoding="utf-8")
    with open_browser() as browser:
        if browser is None:
            pytest.skip("no Chromium here; install the package chromium to run this")
        browser.open(path.as_uri(), width=360)
        rows = "document.querySelectorAll('table[data-sortable] tbody tr').length"
        assert browser.evaluate(rows) == EXAMPLES
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
        assert browser.messages() == []
