"""The pages of three real runs in headless Chromium: silent, offline, within the screen, and clean for axe.

The runs are of the sample models: Lipschitz certificates, smoothing certificates, and both on one page.
"""

import itertools
from importlib import resources
from pathlib import Path
from urllib.parse import unquote

import pytest

import certify
from certify.report import FORMATS, compare_reports, read_log
from certify.report.html_view import NamedReport, render_html, render_html_page
from certify.results import LogSettings, SmoothingReport
from tests.report.browser import Browser, open_browser
from tests.report.hostile_reports import hostile_lipschitz
from tests.report.sample_reports import smoothing_undecided

SAMPLES = Path(__file__).parents[2] / "sample_models"
WIDTHS = (360, 1400)
PAGES = ("lipschitz", "smoothing", "both", "comparison", "log", "gates", "hostile")
SORTED = """
(() => {
  const table = document.querySelector("table[data-sortable]");
  const at = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === "radius");
  const button = table.tHead.rows[0].cells[at].querySelector("button");
  const read = () => [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
  button.click(); const up = read(); button.click();
  return [up, read(), table.tHead.rows[0].cells[at].getAttribute("aria-sort")];
})()
"""


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        if found is None:
            pytest.skip("no Chromium here; install the package chromium to run this")
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    model, data = SAMPLES / "mlp.safetensors", SAMPLES / "data"
    lipschitz = certify.lipschitz(
        model, data, certify.LipschitzSettings(limit=20, effort="fast", method="product"), falsify="off"
    )
    smoothing = certify.smooth(
        model, data, certify.SmoothingSettings(sigma=0.25, limit=20, n=200, n0=16), falsify="off", store=folder / "runs"
    )
    both = [NamedReport("lipschitz.json", lipschitz), NamedReport("smoothing.json", smoothing)]
    texts = {
        "lipschitz": render_html(lipschitz),
        "smoothing": render_html(smoothing),
        "both": render_html_page(both),
        "comparison": render_html(compare_reports(smoothing, smoothing)),
        "log": render_html(read_log(write_log(folder, smoothing), LogSettings(sigma=0.25))),
        "gates": render_html(smoothing_undecided()),
        "hostile": render_html(hostile_lipschitz()),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


def write_log(folder: Path, report: SmoothingReport) -> Path:
    path = folder / "log.tsv"
    path.write_text(FORMATS["tsv"](report), encoding="utf-8")
    return path


def open_page(browser: Browser, path: Path, width: int, scheme: str = "light") -> None:
    browser.open(path.as_uri(), width=width, scheme=scheme)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_silent_offline_and_within_the_screen(browser, pages, name, width):
    open_page(browser, pages / f"{name}.html", width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.messages() == []
    assert [unquote(address) for address in browser.requests()] == [(pages / f"{name}.html").as_uri()]


SLOW = [
    pytest.param(name, scheme, marks=pytest.mark.slow)
    for name, scheme in itertools.product(PAGES, ["light", "dark"])
    if (name, scheme) != ("smoothing", "dark")
]


@pytest.mark.parametrize(("name", "scheme"), [("smoothing", "dark"), *SLOW])
def test_axe_finds_nothing(browser, pages, name, scheme):
    axe = pytest.importorskip("axe_core_python", reason="axe-core is not installed")
    source = resources.files(axe).joinpath("axe.min.js").read_text(encoding="utf-8")
    open_page(browser, pages / f"{name}.html", 360 if scheme == "dark" else 1400, scheme)
    browser.evaluate(source + "; undefined")
    found = browser.evaluate("axe.run().then((r) => r.violations.map((v) => v.id + ': ' + v.nodes[0].html))")
    assert found == []


def test_the_examples_sort_by_number_both_ways(browser, pages):
    open_page(browser, pages / "smoothing.html", 1400)
    up, down, state = browser.evaluate(SORTED)
    assert [float(text) for text in up] == sorted(float(text) for text in up)
    assert [float(text) for text in down] == sorted((float(text) for text in up), reverse=True)
    assert state == "descending"
    assert browser.messages() == []


def test_a_page_prints(browser, pages):
    open_page(browser, pages / "lipschitz.html", 1400)
    assert browser.print_pages().startswith(b"%PDF")


def test_the_policy_stops_what_slipped_through(browser, pages):
    """The page itself with a script put into it: the browser refuses it, so the policy holds where escaping failed."""
    text = (pages / "lipschitz.html").read_text(encoding="utf-8")
    broken = text.replace("</main>", "<script>document.title = 'taken'</script><img src='x.png'></main>")
    (pages / "broken.html").write_text(broken, encoding="utf-8")
    open_page(browser, pages / "broken.html", 1400)
    assert browser.evaluate("document.title") != "taken"
    assert browser.messages()
