"""The chat page in a real browser: talk, stop, go back and take another way, save; keys alone; text is never markup."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homespun.data.conversations import conversations
from tests.browsing import PHONE
from tests.server.studio.made import EVIL, HELLO
from tests.server.studio.pages import (
    busy,
    button,
    find,
    said,
    say,
    setting,
    show,
    until,
    violations,
)
from tests.server.studio.test_page import active, choose, open_page, text_of

pytestmark = pytest.mark.studio
keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
chains = pytest.importorskip("selenium.webdriver.common.action_chains")


def control_enter(browser: Any) -> None:
    chain = chains.ActionChains(browser)
    chain.key_down(keys.CONTROL).send_keys(keys.ENTER).key_up(keys.CONTROL).perform()


def opened(browser: Any, address: str, **settings: str) -> None:
    open_page(browser, address, "chat")
    for name, value in {"max_tokens": "12", "seed": "5", **settings}.items():
        setting(browser, name, value)


def test_a_conversation_goes_on_and_is_kept(browser: Any, address: str) -> None:
    opened(browser, address)
    assert "No message yet" in text_of(browser, ".empty")
    say(browser, "Who is sad?")
    say(browser, "Why?")
    talk = said(browser)
    assert talk[::2] == ["Who is sad?", "Why?"]
    assert all(talk)
    assert "seed 5" in text_of(browser, ".answer .note")
    assert find(browser, "#message").get_property("value") == ""
    open_page(browser, address, "chat", forget=False)
    until(browser, lambda b: said(b) == talk)
    button(browser, "New conversation").click()
    until(browser, lambda b: said(b) == [])
    assert active(browser).get_attribute("id") == "message"
    say(browser, "Who?")
    excerpts = [one.text for one in browser.find_elements("css selector", ".tree .written")]
    assert excerpts == ["Who?", "Who is sad?"]
    button(browser, "Who is sad?").click()
    until(browser, lambda b: said(b) == talk)
    for n_left in (1, 0):
        find(browser, ".tree .kept button:last-child").click()
        until(browser, lambda b, n=n_left: len(b.find_elements("css selector", ".tree li")) == n)
    assert said(browser) == []


def test_an_earlier_message_that_is_changed_begins_a_branch(browser: Any, address: str) -> None:
    opened(browser, address)
    say(browser, "Who is sad?")
    say(browser, "Why?")
    first = said(browser)
    button(browser, "Edit").click()
    box = find(browser, "#edited")
    assert box.get_property("value") == "Who is sad?"
    box.clear()
    box.send_keys("Who is glad?")
    button(browser, "Send again").click()
    until(browser, lambda b: len(said(b)) == 2 and not busy(b))
    second = said(browser)
    assert second[0] == "Who is glad?"
    assert "2 of 2" in text_of(browser, ".talk .pair")
    earlier = find(browser, "[aria-label='Earlier version']")
    earlier.click()
    until(browser, lambda b: said(b) == first)
    assert active(browser).get_attribute("aria-label") == "Earlier version"
    find(browser, "[aria-label='Later version']").click()
    until(browser, lambda b: said(b) == second)
    assert len(browser.find_elements("css selector", ".tree li")) == 1


def test_another_answer_and_one_by_the_reader_are_versions(browser: Any, address: str) -> None:
    opened(browser, address, seed="", temperature="2")
    say(browser, "Who is sad?")
    first = said(browser)
    button(browser, "Another answer").click()
    until(browser, lambda b: "2 of 2" in text_of(b, ".answer") and not busy(b))
    find(browser, ".answer .ends button").click()
    box = find(browser, "#edited")
    box.clear()
    box.send_keys("Tom.")
    button(browser, "Keep").click()
    until(browser, lambda b: said(b) == ["Who is sad?", "Tom."])
    assert "3 of 3" in text_of(browser, ".answer .pair")
    for _ in range(2):
        find(browser, "[aria-label='Earlier version']").click()
    until(browser, lambda b: said(b) == first)


def test_an_answer_can_be_stopped_and_the_page_left(browser: Any, address: str) -> None:
    opened(browser, address, max_tokens="4000", temperature="0")
    find(browser, "#message").send_keys("Who is sad?")
    button(browser, "Send").click()
    until(browser, lambda b: len(said(b)) == 2 and len(said(b)[1]) > 20)
    assert busy(browser)
    button(browser, "Stop").click()
    until(browser, lambda b: not busy(b))
    assert "stopped" in text_of(browser, ".answer")
    stopped = said(browser)
    find(browser, "#message").send_keys("Why?")
    button(browser, "Send").click()
    until(browser, lambda b: len(said(b)) == 4 and len(said(b)[3]) > 20)
    open_page(browser, address, "chat", forget=False)
    until(browser, lambda b: len(said(b)) == 4)
    assert said(browser)[:2] == stopped
    assert said(browser)[3]


def test_the_system_message_and_the_conversation_are_saved(
    browser: Any, work: Path, studio: Callable[[Path], str], tmp_path: Path
) -> None:
    shutil.copytree(work, folder := tmp_path / "work")
    opened(browser, studio(folder))
    find(browser, "#system").send_keys("Be brief.")
    say(browser, "Who is sad?")
    button(browser, "Save").click()
    until(browser, lambda b: "3 messages added to chats.jsonl." in text_of(b, ".kept-talks"))
    [saved] = conversations(folder / "chats.jsonl")
    contents = ["Be brief.", *said(browser)]
    assert [message["content"] for message in saved.messages] == [one.strip() for one in contents]
    find(browser, "#file").send_keys("x")
    button(browser, "Save").click()
    assert "ends in .jsonl" in find(browser, ".problem").text
    assert find(browser, "#file").get_attribute("aria-invalid") == "true"


def test_a_model_that_continues_texts_says_how_it_learns_to_answer(
    browser: Any, address: str
) -> None:
    opened(browser, address)
    say(browser, "Who is sad?")
    choose(browser, "Model", "checkpoints: best (continues texts)")
    assert "homespun train --init-from checkpoints" in text_of(browser, ".empty")
    assert not browser.find_elements("css selector", "#message")
    assert len(said(browser)) == 2
    assert violations(browser) == []


def test_a_refusal_gives_the_message_back(browser: Any, address: str) -> None:
    opened(browser, address, top_p="7")
    find(browser, "#message").send_keys("Who is sad?")
    button(browser, "Send").click()
    assert find(browser, ".field .refused").text == "Top p is 7.0: it must be at most 1"
    assert find(browser, "#message").get_property("value") == "Who is sad?"
    assert said(browser) == []
    setting(browser, "top_p", "0.9")
    button(browser, "Send").click()
    until(browser, lambda b: len(said(b)) == 2 and not busy(b))
    assert not browser.find_elements("css selector", ".problem")


def test_text_is_never_markup(browser: Any, address: str) -> None:
    opened(browser, address, max_tokens="100")
    choose(browser, "Model", "evil-answers: best")
    say(browser, HELLO)
    assert said(browser)[1] == EVIL
    button(browser, "Edit").click()
    find(browser, "#edited").clear()
    find(browser, "#edited").send_keys(EVIL)
    button(browser, "Send again").click()
    until(browser, lambda b: said(b)[0] == EVIL or b.find_elements("css selector", ".problem"))
    assert browser.execute_script("return window.broken") is None
    assert not browser.find_elements("css selector", "main script, main img")


def test_the_keyboard_is_enough(browser: Any, address: str) -> None:
    opened(browser, address, max_tokens="4000", temperature="0")
    press = lambda *all: chains.ActionChains(browser).send_keys(*all).perform()  # noqa: E731
    find(browser, "#message").send_keys("Who is sad?")
    control_enter(browser)
    until(browser, lambda b: len(said(b)) == 2 and len(said(b)[1]) > 20)
    assert active(browser).get_attribute("id") == "message"
    press(keys.ESCAPE)
    until(browser, lambda b: not busy(b))
    answer = find(browser, ".answer .written").get_property("textContent")
    assert answer in text_of(browser, ".results > .hidden")  # a screen reader says it
    for _ in range(6):  # back to the first message
        chains.ActionChains(browser).key_down(keys.SHIFT).send_keys(keys.TAB).key_up(
            keys.SHIFT
        ).perform()
        first = browser.find_element("css selector", ".message")
        if active(browser).text == "Edit" and active(browser) in first.find_elements(
            "css selector", "button"
        ):
            break
    press(keys.ENTER)
    until(browser, lambda b: active(b).get_attribute("id") == "edited")
    press(keys.ESCAPE)
    until(browser, lambda b: not b.find_elements("css selector", "#edited"))
    assert active(browser).tag_name == "article"
    press(keys.TAB, keys.ENTER)
    until(browser, lambda b: active(b).get_attribute("id") == "edited")
    press("!")
    control_enter(browser)
    until(browser, lambda b: said(b)[:1] == ["Who is sad?!"])
    press(keys.ESCAPE)
    until(browser, lambda b: not busy(b))


@pytest.mark.parametrize(
    "height", [500, 700]
)  # in a low window, the field of the next message moves
def test_a_long_answer_stays_in_view(browser: Any, address: str, height: int) -> None:
    opened(browser, address, max_tokens="4000", temperature="0")
    show(browser, f"{address}#/chat", PHONE, height=height)
    find(browser, "#message").send_keys("Who is sad?")
    button(browser, "Send").click()
    bottom = (
        "const place = (css) => document.querySelector(css).getBoundingClientRect();"
        "return [place('.talk li:last-child').height, place('.talk li:last-child').bottom, "
        "Math.min(innerHeight, place('.composer').top)]"
    )
    until(browser, lambda b: b.execute_script(bottom)[0] > 600)
    browser.execute_script("scrollTo(0, 0)")
    until(browser, lambda b: b.execute_script(bottom)[0] > 750)
    assert browser.execute_script("return scrollY") == 0  # the reader has scrolled up
    browser.execute_script("document.querySelector('.talk li:last-child').scrollIntoView(false)")
    browser.execute_script("scrollBy(0, 400)")
    until(browser, lambda b: b.execute_script(bottom)[0] > 1000)
    browser.execute_script("arguments[0].click()", button(browser, "Stop"))  # it moves
    until(browser, lambda b: not busy(b))

    def is_in_view(b: Any) -> bool:
        _, last, end = b.execute_script(bottom)
        return bool(last < end + 60)

    until(browser, is_in_view)
