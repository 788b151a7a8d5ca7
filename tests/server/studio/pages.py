"""Actions on the studio's page for its tests: open it in a window, wait, find, and look for violations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import browsing
from tests.browsing import PATIENCE

TOKEN = "a-token-of-the-tests"
DESK = 1200
AXE = Path(__file__).parent / "axe" / "axe.min.js"


def show(
    browser: Any, address: str, width: int = DESK, scheme: str = "light", height: int = 900
) -> None:
    """Open a page, by default in a wide window; see `browsing.show`."""
    browsing.show(browser, address, width, scheme, height)


def until(browser: Any, condition: Callable[[Any], Any]) -> Any:
    """The value of `condition(browser)`, as soon as it is true."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    ignored = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(browser, PATIENCE, 0.05, ignored).until(condition)


def find(browser: Any, css: str) -> Any:
    """The first element that a selector matches, as soon as it is there."""
    return until(browser, lambda b: b.find_element("css selector", css))


def button(browser: Any, label: str) -> Any:
    """The button with this text, as soon as it is there."""
    return until(
        browser, lambda b: b.find_element("xpath", f"//button[normalize-space()='{label}']")
    )


def busy(browser: Any) -> bool:
    """Whether the model writes."""
    stop = browser.find_element("xpath", "//button[text()='Stop']")
    return bool(stop.get_attribute("aria-disabled") == "false")


def say(browser: Any, text: str) -> None:
    """Send a message on the chat page, and wait for the answer."""
    before = len(said(browser))
    find(browser, "#message").send_keys(text)
    button(browser, "Send").click()
    until(browser, lambda b: len(said(b)) == before + 2 and not busy(b))


def said(browser: Any) -> list[str]:
    """The messages that the chat page shows."""
    script = "return [...document.querySelectorAll('.talk .written')].map((one) => one.textContent)"
    return [str(text) for text in browser.execute_script(script)]


def setting(browser: Any, name: str, value: str) -> None:
    """Type a setting of the playground."""
    box = find(browser, f"[name='{name}']")
    browser.execute_script("document.querySelector('details').open = true")
    box.clear()
    box.send_keys(value)


def violations(browser: Any) -> list[str]:
    """The faults that axe-core finds for people who use a keyboard, a screen reader or strong contrast."""
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']})"
        ".then((result) => done(result.violations), (error) => done([{id: String(error), nodes: []}]))"
    )
    return [
        f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for one in found
        for node in one["nodes"] or [{"html": ""}]
    ]
