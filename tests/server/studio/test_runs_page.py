"""The Runs page in Chromium: a run is started, watched, stopped and gone on with by hand, as a reader does it.

With `--write-pictures`, the pictures of the guide are written as well.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from homespun.checkpoint.names import METRICS
from tests.browsing import DOCS, PHONE, requests
from tests.conftest import new_workplace
from tests.reporting.pages import EVIL, write_run
from tests.server.studio.pages import DESK, button, find, show, until, violations
from tests.server.studio.running import TINY, Asker
from tests.server.studio.test_runs import write_tune

pytestmark = pytest.mark.studio

LONG = TINY | {"max_steps": "100000", "checkpoint_dir": "mine", "sample_interval": "50"}
MOST_BYTES = 250_000


@pytest.fixture
def root(tmp_path: Path, story_file: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    new_workplace(folder, story_file)
    return folder


@pytest.fixture
def page(studio: Callable[[Path], str], root: Path) -> Iterator[str]:
    """The address of the Runs page; runs that are left are stopped at the end."""
    address = studio(root)
    yield f"{address}#/runs"
    asker = Asker(address)
    for run in asker.get("")["runs"]:
        if run["state"] in ("starting", "running"):
            asker.post("/stop", run=run["run"])
            asker.until(
                run["run"], lambda one: one["state"] not in ("starting", "running", "stopping")
            )


def text(browser: Any) -> str:
    return str(browser.find_element("css selector", "main").text)


def says(words: str) -> Callable[[Any], bool]:
    """Whether the page says something."""
    return lambda browser: words in text(browser)


def state(name: str) -> Callable[[Any], bool]:
    """Whether the first run of the list is in a state."""
    return lambda browser: browser.find_element("css selector", ".run .state").text.startswith(name)


def figure(browser: Any, topic: str) -> str:
    """A figure of the chosen run."""
    path = f"//dl[@class='figures']//dt[.='{topic}']/following-sibling::dd"
    return str(until(browser, lambda b: b.find_element("xpath", path)).text)


def fill(browser: Any, settings: dict[str, str]) -> None:
    """Type settings into the form."""
    from selenium.webdriver.support.ui import Select

    find(browser, '[name="checkpoint_dir"]')
    browser.execute_script(
        "document.querySelectorAll('form details').forEach((one) => (one.open = true))"
    )
    for name, value in settings.items():
        field = find(browser, f'[name="{name}"]')
        if field.tag_name == "select":
            Select(field).select_by_visible_text(value)
        else:
            field.clear()
            field.send_keys(value)


def step(browser: Any) -> int:
    return int(figure(browser, "steps").split()[0].replace(",", ""))


def only_here(browser: Any, address: str) -> None:
    """Not one request left the machine, and nothing was written to the console of the browser."""
    own = address.partition("?")[0]
    assert [url for url in requests(browser) if not url.startswith((own, "data:", "about:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_an_empty_folder_says_what_to_do(browser: Any, page: str) -> None:
    show(browser, page)
    until(browser, says("No run here yet: start one"))
    assert violations(browser) == []
    button(browser, "Start a run").click()
    find(browser, "form.sided")
    assert violations(browser) == []
    only_here(browser, page)


def test_a_run_from_its_start_to_its_going_on_by_the_page_alone(
    browser: Any, page: str, root: Path
) -> None:
    show(browser, page)
    button(browser, "Start a run").click()
    find(browser, '[name="batch_size"]')
    fill(browser, LONG | {"batch_size": "0"})
    until(browser, says("Batch size is 0: it must be at least 1"))
    fill(browser, {"batch_size": "4"})
    until(browser, lambda b: "must be at least" not in text(b) and "--batch-size=4" in text(b))
    button(browser, "Start the run").click()
    until(browser, state("running"))
    until(browser, lambda b: step(b) > 0)
    find(browser, ".chart canvas")
    until(browser, lambda b: b.find_element("css selector", ".samples blockquote").text)
    before = step(browser)

    browser.refresh()  # during the run: nothing is lost
    until(browser, lambda b: step(b) > before)
    steps = until(
        browser, lambda b: b.find_element("css selector", ".plot").get_attribute("aria-label")
    )
    assert "training: from" in steps
    assert violations(browser) == []

    button(browser, "Stop and save").click()
    until(browser, state("stopped"))
    stopped = step(browser)
    saved = int(figure(browser, "saved up to step").replace(",", ""))
    assert saved >= stopped  # the record has every fifth step
    longer = find(browser, 'details.card [name="max_steps"]')
    longer.send_keys(str(saved + 40))
    button(browser, "Go on").click()
    until(browser, state("finished"))
    assert figure(browser, "steps").startswith(f"{saved + 40:,} of")
    drawn = [json.loads(line) for line in (root / "mine" / METRICS).read_text().splitlines()]
    assert sorted({one["step"] for one in drawn if "loss" in one}) == [
        one["step"] for one in drawn if "loss" in one
    ]
    only_here(browser, page)


def test_a_plan_stands_beside_the_form(browser: Any, page: str) -> None:
    show(browser, f"{page}?start=")
    fill(browser, TINY | {"max_steps": "50"})
    button(browser, "Plan").click()
    until(browser, says("50 steps (--max-steps 50)"))
    fill(browser, {"max_steps": "60"})
    until(browser, says("The settings have changed since this plan."))
    assert violations(browser) == []


def test_the_form_survives_a_reload_and_leads_to_the_field_at_fault(
    browser: Any, page: str
) -> None:
    show(browser, f"{page}?start=")
    fill(browser, {"max_steps": "77", "d_model": "7777", "checkpoint_dir": "../out"})
    browser.refresh()
    assert find(browser, '[name="max_steps"]').get_attribute("value") == "77"
    until(browser, says("leads out of the folder of the studio"))
    button(browser, "Start the run").click()
    until(browser, lambda b: b.switch_to.active_element.get_attribute("name") == "checkpoint_dir")
    assert violations(browser) == []


def test_several_runs_in_one_picture(browser: Any, page: str, root: Path) -> None:
    for name, rate in (("one", 1e-3), ("two", 2e-3), ("a-long-name" * 6, 3e-3)):
        write_run(root / name, rate=rate)
    show(browser, page)
    for box in until(
        browser,
        lambda b: len(found := b.find_elements("css selector", ".pick input")) == 3 and found,
    ):
        if not box.is_selected():
            box.click()
    until(browser, lambda b: len(b.find_elements("css selector", ".pick input:checked")) == 3)
    until(
        browser,
        lambda b: all(
            f"{name}, training"
            in b.find_element("css selector", ".plot").get_attribute("aria-label")
            for name in ("one", "two", "a-long-name" * 6)
        ),
    )
    assert violations(browser) == []
    browser.refresh()
    until(browser, lambda b: len(b.find_elements("css selector", ".pick input:checked")) == 3)


def test_a_tune_has_a_table(browser: Any, page: str, root: Path) -> None:
    write_tune(root / "tune")
    show(browser, page)
    find(browser, ".tune a").click()
    until(browser, says("This tune is not complete."))
    cells = browser.find_element("css selector", "tbody tr").text
    assert cells.startswith("recipe")
    assert violations(browser) == []


def test_everything_can_be_done_by_keyboard(browser: Any, page: str, root: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    write_run(root / "run", 3000)
    show(browser, page)
    find(browser, ".chart canvas")

    def tab_to(holds: Callable[[Any], object]) -> Any:
        for _ in range(80):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            if holds(here := browser.switch_to.active_element):
                return here
        raise AssertionError("no such place is reached by Tab")

    tab_to(lambda here: here.get_attribute("class") == "plot")
    ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
    spoken = until(
        browser,
        lambda b: b.find_element("css selector", ".chart [role=status]").get_attribute(
            "textContent"
        ),
    )
    assert "steps: training" in spoken
    ActionChains(browser).send_keys("+").perform()
    until(browser, says("Show the whole run"))
    ActionChains(browser).send_keys("0").perform()
    until(browser, lambda b: "Show the whole run" not in text(b))
    browser.execute_script("document.activeElement.blur()")
    show(browser, page)
    find(browser, ".chart canvas")
    tab_to(lambda here: here.text == "Start a run")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    find(browser, "form.sided")
    tab_to(lambda here: here.get_attribute("name") == "checkpoint_dir")
    ActionChains(browser).send_keys("/x").perform()
    tab_to(lambda here: here.text == "Start the run")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("place", ["", "?start=", "?show=failed"])
def test_a_page_fits_and_has_no_violation(
    browser: Any, page: str, root: Path, place: str, scheme: str, width: int
) -> None:
    write_run(root / "run", 3000, every=5, experts=True, sample=EVIL, data_file=EVIL)
    write_run(root / "a-long-name" / ("deeper" * 9))
    asker = Asker(page.partition("#")[0])
    asker.post("/start", settings={"data_file": "missing.txt", "checkpoint_dir": "failed"})
    asker.until("failed", lambda run: run["state"] == "failed")
    show(browser, page + place if place else f"{page}?show=run", width, scheme)
    find(
        browser,
        {"": ".samples blockquote", "?start=": "form.sided", "?show=failed": ".problem"}[place],
    )
    until(browser, lambda b: not b.find_elements("css selector", ".busy"))
    browser.execute_script(
        "document.querySelectorAll('details').forEach((one) => (one.open = true))"
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert violations(browser) == []
    assert browser.execute_script("return window.broken") is None
    if not place:
        assert EVIL in text(browser)
    only_here(browser, page)


def test_dark_and_light_differ(browser: Any, page: str, root: Path) -> None:
    """Also in the pictures, whose lines are drawn by a script."""
    write_run(root / "run", 3000)
    papers = []
    for scheme in ("light", "dark"):
        show(browser, page, DESK, scheme)
        canvas = find(browser, ".chart canvas")
        papers.append(
            (
                browser.execute_script("return getComputedStyle(document.body).backgroundColor"),
                canvas.screenshot_as_base64,
            )
        )
    assert papers[0][0] != papers[1][0]
    assert papers[0][1] != papers[1][1]


def test_a_studio_that_ends_is_told_and_found_again(browser: Any, root: Path) -> None:
    from homespun.server.studio.app import studio_app
    from tests.server.studio.conftest import serving
    from tests.server.studio.pages import TOKEN

    write_run(root / "run", 100)
    with serving(studio_app(root, TOKEN)) as address:
        show(browser, f"{address}/?token={TOKEN}#/runs")
        find(browser, ".chart canvas")
    until(browser, says("The studio does not answer"))
    assert "best validation loss" in text(browser)  # what was shown stays
    port = int(address.rpartition(":")[2])
    with serving(studio_app(root, TOKEN), port):
        until(browser, lambda b: "The studio does not answer" not in text(b))


def test_pictures_for_the_guide(
    browser: Any, page: str, root: Path, request: pytest.FixtureRequest
) -> None:
    """The page of real runs, light, and the form, dark."""
    if not request.config.getoption("--write-pictures", False):
        pytest.skip("without --write-pictures")
    asker = Asker(page.partition("#")[0])
    shape = {
        "data_file": "stories.txt",
        "n_layers": "2",
        "d_model": "64",
        "n_heads": "2",
        "seq_len": "64",
        "vocab_size": "512",
        "threads": "1",
        "max_steps": "400",
        "log_interval": "5",
        "eval_interval": "25",
        "eval_tokens": "5000",
        "sample_interval": "100",
    }
    for name, more in (("small", {}), ("wider", {"d_model": "96", "n_heads": "3"})):
        asker.post("/start", settings=shape | {"checkpoint_dir": name} | more)
        asker.until(name, lambda run: run["state"] in ("finished", "failed"))
    for file, place, scheme, height in (
        ("studio-runs", "?show=wider", "light", 1700),
        ("studio-compare", "?show=small,wider", "dark", 1100),
        ("studio-start", "?start=", "light", 1000),
    ):
        show(browser, page + place, DESK, scheme, height)
        find(browser, ".chart canvas" if "show" in place else "form.sided")
        if "start" in place:
            fill(browser, {"data_file": "stories.txt", "time_budget": "2m"})
            button(browser, "Plan").click()
            find(browser, ".plan .facts")
        until(browser, lambda b: not b.find_elements("css selector", ".busy"))
        picture = browser.get_screenshot_as_png()
        assert len(picture) < MOST_BYTES
        (DOCS / f"{file}.png").write_bytes(picture)
