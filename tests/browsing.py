"""Chromium without a screen, and the actions that the tests of every page in it share."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 300.0
"""Seconds until a test gives up, far more than anything takes: a busy machine is slow."""
PHONE = 360
"""Width of a small phone, in pixels."""
DOCS = Path(__file__).parents[1] / "docs"


@contextmanager
def chromium() -> Iterator[Any]:
    """A driver of Chromium, whose own traffic to its maker is switched off; the test is skipped without selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    for flag in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


def show(browser: Any, address: str, width: int, scheme: str = "light", height: int = 900) -> None:
    """Open a page in a window of a width, with a colour scheme; forget what was logged before."""
    browser.get("about:blank")  # another place of the same page would not load it anew
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(address)


def requests(browser: Any) -> list[str]:
    """The addresses that the browser has asked for since `show`."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
