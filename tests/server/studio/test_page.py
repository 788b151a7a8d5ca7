"""The page in a real browser: type, click, stream, keys alone, a phone's width, dark; nothing leaves the machine.

Needs Debian's chromium and chromium-driver, or another Chromium with its driver on the path; see `make test-studio`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browsing import PHONE, requests
from tests.server.studio.made import EVIL
from tests.server.studio.pages import DESK, busy, button, find, setting, show, until, violations

pytestmark = pytest.mark.studio
keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
chains = pytest.importorskip("selenium.webdriver.common.action_chains")

PAGES = ("playground", "chat", "inside", "stories")
FIT = "return document.documentElement.scrollWidth"


def open_page(browser: Any, address: str, name: str, *, forget: bool = True, **look: Any) -> None:
    """Open a page, by default with nothing kept from an earlier visit, and wait until it has its controls."""
    if forget:
        show(browser, address)
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
    show(browser, f"{address}#/{name}", **look)
    find(browser, "main button")


def text_of(browser: Any, css: str) -> str:
    return str(find(browser, css).get_attribute("textContent"))


def choose(browser: Any, label: str, option: str) -> None:
    """Choose an option, by its text, from the list with this label."""
    from selenium.webdriver.support.ui import Select

    place = f"//label[text()='{label}']/following-sibling::select[1]"
    box = until(browser, lambda b: b.find_element("xpath", place))
    Select(box).select_by_visible_text(option)


def write(browser: Any, **settings: str) -> None:
    """Write with some settings, and wait until all has come."""
    for name, value in {"max_tokens": "12", "seed": "5", **settings}.items():
        setting(browser, name, value)
    button(browser, "Write").click()
    ended(browser)


def ended(browser: Any) -> None:
    until(browser, lambda b: b.find_elements("css selector", "article") and not busy(b))


def active(browser: Any) -> Any:
    return browser.switch_to.active_element


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_is_accessible_and_asks_nobody_else(
    browser: Any, address: str, name: str, width: int, scheme: str
) -> None:
    open_page(browser, address, name, width=width, scheme=scheme)
    if name == "playground":
        write(browser)
        find(browser, "article .token").click()
        button(browser, "Show its growth").click()
        until(browser, lambda b: len(b.find_elements("css selector", ".growth tbody tr")) == 4)
        find(browser, ".curve canvas")
    elif name == "chat":
        find(browser, "#message").send_keys("Hello")
        button(browser, "Send").click()
        until(browser, lambda b: b.find_elements("css selector", ".answer .ends"))
        button(browser, "Edit").click()
        find(browser, "#edited")
    elif name == "inside":
        find(browser, ".lens tbody tr")
        find(browser, ".matrix canvas")
        browser.find_element("css selector", "details summary").click()
    else:
        find(browser, "#story").send_keys("Tom the cat was sad. The moon ate Tom. And")
        button(browser, "Judge").click()
        find(browser, "mark.wrong")
    assert browser.execute_script(FIT) <= width
    assert violations(browser) == []
    assert {urlsplit(url).netloc for url in requests(browser) if not url.startswith("data:")} == {
        urlsplit(address).netloc
    }
    assert browser.get_log("browser") == []


def test_dark_and_light_can_be_chosen(browser: Any, address: str) -> None:
    open_page(browser, address, "stories")
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(paper)
    from selenium.webdriver.support.ui import Select

    Select(find(browser, ".theme select")).select_by_visible_text("dark")
    assert browser.execute_script(paper) != light
    open_page(browser, address, "stories", forget=False)
    assert browser.execute_script(paper) != light
    Select(find(browser, ".theme select")).select_by_visible_text("like the system")


def test_text_streams_and_can_be_stopped(browser: Any, address: str) -> None:
    open_page(browser, address, "playground")
    setting(browser, "max_tokens", "4000")
    setting(browser, "temperature", "0")  # this model would end by itself sooner or later
    button(browser, "Write").click()
    until(browser, lambda b: len(b.find_elements("css selector", "article .token")) > 20)
    assert busy(browser)
    button(browser, "Stop").click()
    ended(browser)
    assert len(browser.find_elements("css selector", "article .token")) < 4000
    assert "stopped" in text_of(browser, "article")


def test_an_alternative_begins_a_branch_and_the_tree_is_kept(browser: Any, address: str) -> None:
    open_page(browser, address, "playground")
    write(browser)
    before = [one.text for one in browser.find_elements("css selector", "article .token")]
    tokens = browser.find_elements("css selector", "article .token")
    tokens[4].click()
    other = find(browser, ".alternatives li:nth-child(2) button, .alternatives li button:enabled")
    word = other.find_element("css selector", ".word").text.lstrip("␣")
    other.click()
    ended(browser)
    until(browser, lambda b: b.find_elements("css selector", ".tree ul li"))
    after = [one.text for one in browser.find_elements("css selector", "article .token")]
    assert after[0].strip() == word.strip()
    shown = text_of(browser, "article .before")
    assert shown.startswith("Once upon a time")
    assert shown.endswith("".join(before[3:4]).strip()) or len(shown) > len("Once upon a time")
    open_page(browser, address, "playground", forget=False)
    until(browser, lambda b: b.find_elements("css selector", ".tree ul li"))
    assert len(browser.find_elements("css selector", ".tree li")) == 2
    browser.find_element("css selector", ".tree > li > .kept > button:last-child").click()
    until(browser, lambda b: not b.find_elements("css selector", ".tree"))


def test_two_models_and_several_samples_stand_side_by_side(browser: Any, address: str) -> None:
    open_page(browser, address, "playground")
    choose(browser, "Beside it", "checkpoints: step 30")
    write(browser, num_samples="2")
    titles = [one.text for one in browser.find_elements("css selector", "article h2")]
    assert titles == ["checkpoints: best"] * 2 + ["checkpoints: step 30"] * 2
    boxes = [one.rect for one in browser.find_elements("css selector", "article")]
    assert boxes[0]["y"] == boxes[1]["y"]


def test_early_and_late_in_a_run_are_one_choice(browser: Any, address: str) -> None:
    open_page(browser, address, "playground")
    choose(browser, "Beside it", "early in its run: step 10")
    titles = "return [...document.querySelectorAll('article h2')].map((one) => one.textContent)"
    for late in ("checkpoints: best", "checkpoints: step 20"):  # the choice stays
        choose(browser, "Model", late)
        write(browser)
        expected = ["checkpoints: step 10", late]
        until(browser, lambda b, wanted=expected: b.execute_script(titles) == wanted)
        ended(browser)
    choose(browser, "Model", "evil: best")  # it has no checkpoints
    options = "return [...document.querySelectorAll('option')].map((one) => one.textContent)"
    assert not [one for one in browser.execute_script(options) if one.startswith("early")]


def test_text_of_a_model_is_never_markup(browser: Any, address: str) -> None:
    open_page(browser, address, "playground")
    choose(browser, "Model", "evil: best")
    find(browser, "#prompt").send_keys(keys.CONTROL, "a")
    find(browser, "#prompt").send_keys(keys.DELETE)
    write(browser, max_tokens="100")
    assert text_of(browser, "article .tokens") == EVIL
    find(browser, "article .token").click()
    find(browser, ".alternatives")
    browser.find_element("link text", "Judge this story").click()
    find(browser, ".story")
    assert EVIL in text_of(browser, ".story")
    assert browser.execute_script("return window.broken") is None
    assert not browser.find_elements("css selector", "main script, main img")
    assert browser.get_log("browser") == []


def test_a_bad_setting_is_explained_beside_its_field(browser: Any, address: str) -> None:
    open_page(browser, address, "playground")
    setting(browser, "top_p", "7")
    button(browser, "Write").click()
    refused = find(browser, ".field .refused")
    assert refused.text == "Top p is 7.0: it must be at most 1"
    assert find(browser, "[name='top_p']").get_attribute("aria-invalid") == "true"
    write(browser, top_p="0.9")
    assert not browser.find_elements("css selector", ".refused")


def test_the_keyboard_is_enough(browser: Any, address: str) -> None:
    open_page(browser, address, "playground")
    press = lambda *all: chains.ActionChains(browser).send_keys(*all).perform()  # noqa: E731
    browser.execute_script("document.activeElement.blur()")
    press(keys.TAB)
    assert active(browser).text == "To the content"
    press(keys.ENTER)
    assert active(browser).tag_name == "main"
    for _ in range(3):
        press(keys.TAB)
    assert active(browser).get_attribute("id") == "prompt"
    chains.ActionChains(browser).key_down(keys.CONTROL).send_keys(keys.ENTER).key_up(
        keys.CONTROL
    ).perform()
    until(browser, lambda b: len(b.find_elements("css selector", "article .token")) > 5)
    press(keys.ESCAPE)
    ended(browser)
    for _ in range(60):
        press(keys.TAB)
        if active(browser).get_attribute("data-n") is not None:
            break
    assert active(browser).get_attribute("data-n") == "0"
    press(keys.ARROW_RIGHT, keys.ARROW_RIGHT)
    assert active(browser).get_attribute("data-n") == "2"
    press(keys.ENTER)
    find(browser, ".alternatives")
    press(keys.TAB)
    assert active(browser).find_element("xpath", "ancestor::*[@class='alternatives']")
    press(keys.ENTER)
    ended(browser)
    until(browser, lambda b: b.find_elements("css selector", ".tree ul li"))
    chains.ActionChains(browser).key_down(keys.CONTROL).send_keys("?").key_up(
        keys.CONTROL
    ).perform()
    until(browser, lambda b: b.find_element("css selector", "dialog").get_property("open"))
    assert violations(browser) == []
    press(keys.ESCAPE)
    until(browser, lambda b: not b.find_element("css selector", "dialog").get_property("open"))


def test_attention_follows_the_pointer_and_the_keys(browser: Any, address: str) -> None:
    open_page(browser, address, "inside")
    find(browser, "section .bars li")
    tokens = browser.find_elements("css selector", ".card .tokens .token")
    heading = lambda: text_of(browser, ".looks h3")  # noqa: E731
    chains.ActionChains(browser).move_to_element(tokens[3]).perform()
    until(browser, lambda b: tokens[3].get_attribute("aria-label").split(",")[0] in heading())
    assert "later" in tokens[4].get_attribute("class")
    assert len(browser.find_elements("css selector", ".bars li")) == 4
    tokens[2].click()
    chains.ActionChains(browser).send_keys(keys.ARROW_RIGHT, keys.ENTER).perform()
    assert active(browser).get_attribute("aria-pressed") == "true"
    choose(browser, "Layer", "1 of 2")
    choose(browser, "Head", "2 of 4")
    figures = [one.text for one in browser.find_elements("css selector", ".bars .figure")]
    assert all(figure.endswith("%") for figure in figures)
    canvas = find(browser, ".matrix canvas")
    chains.ActionChains(browser).move_to_element_with_offset(canvas, -50, 50).perform()
    assert "→" in text_of(browser, ".matrix figcaption")


def test_a_mixture_shows_its_experts(browser: Any, address: str) -> None:
    open_page(browser, address, "inside")
    choose(browser, "Model", "mixture: best")
    button(browser, "Look inside").click()
    until(browser, lambda b: b.find_elements("css selector", ".token.expert"))
    assert "expert" in text_of(browser, "[aria-labelledby='experts-title'] table")
    assert violations(browser) == []


def test_a_model_writes_a_story_that_is_judged(browser: Any, address: str) -> None:
    open_page(browser, address, "stories")
    button(browser, "Let the model write one").click()
    find(browser, "section[aria-labelledby='verdict-title']")
    assert find(browser, "#story").get_property("value")
    assert "sentences" in text_of(browser, ".problem")
    find(browser, "mark.wrong sup a").click()
    assert active(browser).get_attribute("id") == "reason-1"


def test_a_story_with_the_character_nul_is_judged(browser: Any, address: str) -> None:
    """A model may write it, and the server takes no text with it."""
    open_page(browser, address, "stories")
    keep = "sessionStorage.setItem('story', JSON.stringify(arguments[0]))"
    browser.execute_script(keep, "Tom the cat was sad. The moon\0 ate Tom. And")
    open_page(browser, address, "stories", forget=False)
    find(browser, "mark.wrong")


def test_an_empty_folder_says_what_to_do(
    browser: Any, studio: Callable[[Path], str], tmp_path: Path
) -> None:
    place = studio(tmp_path)
    for name in PAGES:
        show(browser, f"{place}#/{name}")
        if name != "stories":
            find(browser, ".empty")
            assert "homespun train" in text_of(browser, ".empty")
        assert violations(browser) == []


def test_a_studio_that_was_stopped_is_explained(
    browser: Any, work: Path, studio: Callable[[Path], str]
) -> None:
    """The page stays, and each question says what to do."""
    from homespun.server.studio.app import studio_app
    from tests.server.studio.conftest import serving
    from tests.server.studio.pages import TOKEN

    with serving(studio_app(work, TOKEN)) as place:
        show(browser, f"{place}/?token={TOKEN}#/stories")
        find(browser, "#story").send_keys("A story.")
        find(browser, "main button")
    button(browser, "Judge").click()
    told = find(browser, ".problem").text
    assert "start it again with: homespun studio" in told
    assert find(browser, "#story").get_property("value") == "A story."


def test_the_token_leaves_the_address(browser: Any, address: str) -> None:
    show(browser, address)
    find(browser, "main button")
    assert "token" not in browser.current_url
    browser.refresh()
    find(browser, "main button")
