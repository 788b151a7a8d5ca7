"""How long the studio takes to show a record of 100,000 lines.

    python -m benchmarks.drawing

Needs Chromium with its driver, and the extras `studio` and `browser`. A record is made, a studio serves its folder, and
the page is opened several times: from the moment when the page has the curves to the moment when the last picture is
drawn, with all that the page does in between. Drawn are all the pictures of a run.
"""

import json
import math
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import tyro

from benchmarks.report import save
from homespun.checkpoint.names import METRICS
from homespun.server import launch
from homespun.server.limits import Limits
from homespun.server.studio.app import studio_app
from homespun.server.studio.watched import Watched

LINES = 100_000
TIMES = 7
TOKEN = "token"
DRAWN = """
const [told] = performance.getEntriesByName("told"), [drawn] = performance.getEntriesByName("drawn");
const pictures = document.querySelectorAll(".chart canvas").length;
return told && drawn && drawn.startTime > told.startTime ? [drawn.startTime - told.startTime, pictures] : null;
"""


def write_record(folder: Path, lines: int) -> None:
    folder.mkdir(parents=True)
    with (folder / METRICS).open("w") as file:
        for step in range(1, lines + 1):
            loss = 2.5 + 4 * math.exp(-step / 600) + 0.1 * math.sin(7.0 * step)
            record = {
                "step": step, "tokens": 2048 * step, "epoch": step / 100, "loss": loss, "loss_hex": loss.hex(),
                "perplexity": math.exp(loss), "lr": 3e-4, "muon_lr": 0.02, "grad_norm": 0.7 + 0.1 * math.cos(step),
                "clipped": step % 3 / 10, "refused": 0, "tokens_per_second": 20_000.0 + step % 100,
                "memory_bytes": 500_000_000, "seconds": step / 10, "batch": "0badcafe",
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
            if step % 1000 == 0:
                at = {"step": step, "tokens": 2048 * step, "epoch": step / 100}
                file.write(
                    json.dumps({**at, "val_loss": loss, "val_bits_per_byte": loss / 2.6}) + "\n"
                )


def seconds_to_read(folder: Path) -> tuple[float, float, int]:
    """Until the record is read; until its curves are thinned and written as JSON; the bytes of that."""
    watched = Watched(folder, Limits())
    start = time.perf_counter()
    watched.update()
    read = time.perf_counter()
    told = json.dumps(watched.whole())
    return read - start, time.perf_counter() - read, len(told)


def milliseconds_to_draw(root: Path) -> tuple[list[float], int]:
    """Of several openings of the page, and the number of pictures."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    listening = launch.bind("127.0.0.1", 0, None)
    server = launch.new_server(studio_app(root, TOKEN))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    found = []
    with webdriver.Chrome(options=options, service=service) as browser:
        for _ in range(TIMES + 1):  # the first one reads the record and fills the caches
            browser.get("about:blank")
            browser.get(f"{launch.address(listening)}/?token={TOKEN}#/runs")
            WebDriverWait(browser, 60, 0.2).until(lambda b: b.execute_script(DRAWN))
            time.sleep(1)  # all pictures are drawn
            found.append(browser.execute_script(DRAWN))
    server.should_exit = True
    return [one[0] for one in found[1:]], found[-1][1]


def main() -> None:
    """Measure and save."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        write_record(root / "run", LINES)
        read, thinned, n_bytes = seconds_to_read(root / "run")
        drawn, pictures = milliseconds_to_draw(root)
        size = (root / "run" / METRICS).stat().st_size
    rows = [
        {"step": f"read the record, {size / 1e6:.0f} MB, once", "milliseconds": round(1000 * read)},
        {"step": f"thin and write the curves, {n_bytes / 1e3:.0f} kB", "milliseconds": round(1000 * thinned)},
        {"step": f"show {pictures} pictures, median of {TIMES}", "milliseconds": round(statistics.median(drawn))},
        {"step": f"show {pictures} pictures, slowest of {TIMES}", "milliseconds": round(max(drawn))},
    ]  # fmt: skip
    save("drawing", {f"A record of {LINES:,} lines on the page of the studio": rows})


if __name__ == "__main__":
    tyro.cli(main)
