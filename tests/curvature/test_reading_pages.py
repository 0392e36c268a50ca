"""The page of readings in headless Chromium: silent, offline, within the screen, and clean for axe."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from certify.report.html_view import NamedReport, render_html, render_html_page
from tests.curvature.test_reading_views import hostile, judged
from tests.curvature.tiny_runs import lipschitz
from tests.report.browser import Browser, open_browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        if found is None:
            pytest.skip("no Chromium here; install the package chromium to run this")
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    both = [NamedReport("lipschitz.json", lipschitz()), NamedReport("curvature.json", judged())]
    texts = {"judged": render_html(judged()), "hostile": render_html(hostile()), "both": render_html_page(both)}
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", ["judged", "hostile", "both"])
def test_a_page_is_silent_offline_and_within_the_screen(browser: Browser, pages: Path, name: str, width: int) -> None:
    browser.open((pages / f"{name}.html").as_uri(), width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.messages() == []
    assert browser.requests() == [(pages / f"{name}.html").as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["judged", "hostile", "both"])
def test_axe_finds_nothing(browser: Browser, pages: Path, name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core is not installed")
    source = resources.files(axe).joinpath("axe.min.js").read_text(encoding="utf-8")
    browser.open((pages / f"{name}.html").as_uri(), width=360 if scheme == "dark" else 1400, scheme=scheme)
    browser.evaluate(source + "; undefined")
    found = browser.evaluate("axe.run().then((r) => r.violations.map((v) => v.id + ': ' + v.nodes[0].html))")
    assert found == []
