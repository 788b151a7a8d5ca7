"""The page in a real browser, without a screen: no request, no error, narrow screens, light and dark.

Needs Debian's chromium and chromium-driver, or another Chromium with its driver on the path; see `make test-browser`.
With `--write-pictures`, the pictures of the guide are written as well.
"""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from homespun.reporting.report import write_report
from tests.browsing import DOCS, PHONE, chromium, requests, show
from tests.reporting import runs
from tests.reporting.pages import EVIL, write_run

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver")

DESK = 1100
CONTRAST = 4.5
"""Of text, by WCAG 2 AA."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages of one run, of several, and of one whose text tries to run a script."""
    folder = tmp_path_factory.mktemp("pages")
    one = write_run(folder / "one", 3000, every=5, experts=True)
    others = [
        write_run(folder / name, rate=rate)
        for name, rate in (("two", 1e-3), ("a-long-name" * 6, 2e-3))
    ]
    write_report([one], folder / "one.html")
    write_report([one, *others], folder / "several.html")
    write_report([write_run(folder / "evil", sample=EVIL, data_file=EVIL)], folder / "evil.html")
    return folder


@pytest.fixture(scope="module")
def server(pages: Path) -> Iterator[str]:
    """The folder over HTTP on the loopback interface."""
    handler = partial(Quiet, directory=str(pages))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("name", ["one", "several", "evil"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_page_asks_for_nothing_and_fits(
    browser: Any, pages: Path, name: str, scheme: str, width: int
) -> None:
    address = (pages / f"{name}.html").as_uri()
    show(browser, address, width, scheme)
    browser.execute_script(
        "document.querySelectorAll('details').forEach((one) => (one.open = true))"
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return window.broken") is None
    assert [url for url in requests(browser) if not url.startswith("data:")] == [address]
    assert browser.get_log("browser") == []


def test_a_page_asks_for_nothing_over_http(browser: Any, server: str) -> None:
    show(browser, f"{server}/evil.html", DESK)
    assert [url for url in requests(browser) if not url.startswith("data:")] == [
        f"{server}/evil.html"
    ]
    assert browser.get_log("browser") == []


COLOURS = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const part = (c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const colour = rgb(getComputedStyle(element).backgroundColor);
    if (colour.length === 3 || colour[3] > 0.99) return colour;
  }
};
return [...document.querySelectorAll("h1, h2, h3, p, dt, dd, td, th, li, summary, code, span")]
  .filter((element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
  .map((element) => {
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.outerHTML.slice(0, 80)];
  })
  .sort((a, b) => a[0] - b[0]);
"""


def test_dark_and_light_differ_and_both_can_be_read(browser: Any, pages: Path) -> None:
    papers = []
    for scheme in ("light", "dark"):
        show(browser, (pages / "several.html").as_uri(), DESK, scheme)
        least, element = browser.execute_script(COLOURS)[0]
        assert least >= CONTRAST, element
        papers.append(
            browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        )
    assert papers[0] != papers[1]


def test_text_of_charts_is_as_large_on_a_phone(browser: Any, pages: Path) -> None:
    height = "return document.querySelector('.y span').getBoundingClientRect().height"
    show(browser, (pages / "one.html").as_uri(), DESK)
    wide = browser.execute_script(height)
    show(browser, (pages / "one.html").as_uri(), PHONE)
    assert browser.execute_script(height) == wide


def test_the_pointer_shows_values(browser: Any, pages: Path) -> None:
    show(browser, (pages / "several.html").as_uri(), DESK)
    area = browser.find_element("css selector", ".area")
    webdriver.ActionChains(browser).move_to_element(area).perform()
    told = browser.find_element("css selector", ".readout").text
    assert "tokens:" in told
    assert "two, training" in told
    assert not browser.execute_script("return document.querySelector('.cursor').hidden")
    assert browser.get_log("browser") == []


RUN = (
    "train --data-file stories.txt --n-layers 2 --d-model 128 --n-heads 4 --vocab-size 1024 --seq-len 128 "
    "--batch-size 8 --max-steps 300 --log-interval 5 --eval-interval 20 --eval-tokens 10000 --sample-interval 100"
)
PICTURE_HEIGHT = 1500
MOST_BYTES = 200_000


def test_pictures_for_the_guide(
    browser: Any, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of a real run, light and dark."""
    if not request.config.getoption("--write-pictures", False):
        pytest.skip("without --write-pictures")
    runs.write_texts(tmp_path)
    runs.homespun(RUN, tmp_path)
    monkeypatch.chdir(tmp_path)
    page = write_report([Path("checkpoints")])
    for scheme in ("light", "dark"):
        show(browser, page.resolve().as_uri(), DESK, scheme)
        size = {"width": DESK, "height": PICTURE_HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        picture = browser.get_screenshot_as_png()
        assert len(picture) < MOST_BYTES
        (DOCS / f"report-{scheme}.png").write_bytes(picture)
