"""The pictures of the guide: the page with a model that was really trained, which takes some minutes."""

import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homespun.stories import stories
from tests.browsing import DOCS
from tests.server.studio.pages import busy, button, find, said, say, setting, show, until

pytestmark = pytest.mark.studio

COMMANDS = (
    "download --dataset stories --num-samples 20000 --plain",
    "tokenizer --vocab-size 1024",
    "train --max-steps 2400 --save-interval 300 --keep 8 --eval-interval 600",
    "download --dataset stories-questions --plain --num-samples 3000",
    "train --init-from checkpoints --data-file data/stories-questions_3000.jsonl --checkpoint-dir answers "
    "--max-steps 300",
)
WIDTH = 1200
MOST_BYTES = 260_000
STORY = "Anna had a red ball. Anna went to the barn with Tim and lost the ball. Tim found it and gave it to Anna. "
QUESTIONS = ("Who found the ball?", "Where did they go?", "Who has the ball now?")
TEXT = "Once upon a time, there was a small girl named Anna. Anna had a green robot and was proud of it. One day, Anna"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder with a run on plain stories."""
    if not request.config.getoption("--write-pictures", False):
        pytest.skip("without --write-pictures")
    folder = tmp_path_factory.mktemp("stories")
    for command in COMMANDS:
        subprocess.run([sys.executable, "-m", "homespun", *command.split()], cwd=folder, check=True)
    return folder


def picture(browser: Any, name: str, css: str = "body", height: int = 1000) -> None:
    """A picture of the top of the page, or of one part."""
    size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_script("scrollTo(0, 0)")
    box = browser.find_element("css selector", css).rect
    height = height if css == "body" else box["height"]
    clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": height, "scale": 1}
    asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    content = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])
    assert len(content) < MOST_BYTES
    (DOCS / f"studio-{name}.png").write_bytes(content)


def test_pictures_for_the_guide(browser: Any, trained: Path, studio: Callable[[Path], str]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    place = studio(trained)
    show(browser, f"{place}#/playground", WIDTH)
    seed = find(browser, "[name='seed']")
    seed.clear()
    seed.send_keys("3")
    limit = find(browser, "[name='max_tokens']")
    limit.clear()
    limit.send_keys("90")
    button(browser, "Write").click()
    done = "//button[text()='Stop' and @aria-disabled='true']"
    until(
        browser,
        lambda b: b.find_elements("css selector", "article") and b.find_elements("xpath", done),
    )
    tokens = browser.find_elements("css selector", "article .token")
    surprising = next(
        (one for one in tokens[8:] if "s3" in one.get_attribute("class").split()), tokens[12]
    )
    surprising.click()
    find(browser, ".alternatives")
    picture(browser, "playground")
    button(browser, "How this token grew over the run").click()
    until(browser, lambda b: len(b.find_elements("css selector", ".growth tbody tr")) >= 4)
    find(browser, ".curve canvas")
    picture(browser, "growth", ".growth")

    show(browser, f"{place}#/inside", WIDTH)
    text = find(browser, "#text")
    text.clear()
    text.send_keys(TEXT)
    button(browser, "Look inside").click()
    until(browser, lambda b: len(b.find_elements("css selector", ".card .token")) > 20)
    find(browser, ".matrix canvas")
    last = browser.find_elements("css selector", ".card .token")[-1]
    ActionChains(browser).move_to_element(last).perform()
    find(browser, ".lens tbody tr")
    picture(browser, "inside", height=1500)

    show(browser, f"{place}#/stories", WIDTH)
    [story] = stories(1, seed=5, plain=True)
    place_of_name = story.rindex("Tom")
    wrong = f"{story[:place_of_name]}Zoe{story[place_of_name + 3 :]}"
    keep = "sessionStorage.setItem('story', JSON.stringify(arguments[0]))"
    browser.execute_script(keep, wrong)
    show(browser, f"{place}#/stories", WIDTH)
    find(browser, "mark.wrong")
    picture(browser, "stories", height=1250)

    show(browser, f"{place}#/chat", WIDTH)
    setting(browser, "temperature", "0")
    found, where, has = QUESTIONS
    say(browser, STORY + found)
    say(browser, where)
    browser.find_elements("xpath", "//button[text()='Edit']")[2].click()
    find(browser, "#edited").clear()
    find(browser, "#edited").send_keys(has)
    button(browser, "Send again").click()
    until(browser, lambda b: len(said(b)) == 4 and said(b)[2] == has and not busy(b))
    browser.execute_script("document.querySelector('details').open = false")
    picture(browser, "chat", height=900)
