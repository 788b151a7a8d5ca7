"""Tokenizers, records and unfinished downloads are compared with the hashes that were written with them."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from homespun import durable
from homespun.config import DownloadConfig
from homespun.data import download_file
from homespun.data import hub as hub_module
from homespun.data.download import download
from homespun.errors import UserError
from homespun.tokenizer import Tokenizer
from tests.data import hub as loopback
from tests.faults import runs
from tests.faults.runs import NOTHING, Lost
from tests.faults.table import Table
from tests.faults.wrong import apply

pytestmark = pytest.mark.faults
hub = loopback.hub

TITLE = "Files that are read back"
TOKENIZER = "tokenizer.json and report.json, a bit flipped or the end cut off"
REPLACED = "tokenizer.json replaced by another valid one of the same size"
RECORDS = "a bit flipped in the records: last download and tokenizer, index of tokens, finished download, report"
UNFINISHED = "a bit flipped in an unfinished download or in its record"

FLIPS = 400
"""Bits that are flipped in each file of a tokenizer."""


def damages(whole: bytes, flips: int) -> Iterator[bytes]:
    """The content of a file with one random bit flipped, for each of the flips, and with its end cut off."""
    rng = random.Random(0)
    for _ in range(flips):
        content = bytearray(whole)
        content[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        yield bytes(content)
    for share in (0, 0.3, 0.7):
        yield whole[: int(share * len(whole))]
    yield whole[:-1]


def taken_as_another(place: Path) -> tuple[int, int]:
    """Number of damages to a tokenizer, and of those that are not named and give another tokenizer."""
    folder = place / "tokenizer_model"
    sha256 = Tokenizer.load(folder).sha256
    tries = silent = 0
    for name in ("tokenizer.json", "report.json"):
        whole = (folder / name).read_bytes()
        for content in damages(whole, FLIPS):
            (folder / name).write_bytes(content)
            tries += 1
            try:
                silent += Tokenizer.load(folder).sha256 != sha256
            except UserError as error:
                silent += f"{folder}/" not in str(error)
        (folder / name).write_bytes(whole)
    return tries, silent


def test_a_damaged_tokenizer(place: Path, table: Table) -> None:
    tries, silent = taken_as_another(place)
    assert silent == 0
    table.row(TOKENIZER, tries=tries, lost=Lost(0, silent), result="named, or harmless")


def test_a_damaged_tokenizer_would_show(
    place: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homespun.tokenizer.tokenizer.read_report", None)  # to be restored
    apply(["report-of-the-tokenizer-ignored"])
    assert taken_as_another(place)[1] > 0
    table.red(TOKENIZER, "report-of-the-tokenizer-ignored")


def with_another_tokenizer(place: Path, *wrong: str) -> tuple[int, str]:
    """Exit status and output of a run whose tokenizer was replaced by one with another order of merges."""
    file = place / "tokenizer_model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    merges = tokenizer["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    command = ["train", *runs.RUN, "--checkpoint-dir", "other", "--max-steps", 1]
    status = runs.start(place, *command, wrong=wrong).wait(timeout=runs.LONGEST)
    return status, runs.log_of(place).read_text()


def test_a_tokenizer_that_was_replaced(place: Path, table: Table) -> None:
    status, output = with_another_tokenizer(place)
    assert status == 2
    assert "tokenizer_model/tokenizer.json: damaged, or not the one that report.json" in output
    assert not (place / "tokenizer_model.1").exists()
    assert not (place / "other").exists()
    table.row(REPLACED, tries=1, lost=NOTHING, result="named; nothing trained")


def test_a_tokenizer_that_was_replaced_would_show(place: Path, table: Table) -> None:
    assert with_another_tokenizer(place, "hash-of-the-tokenizer-ignored")[0] == 0
    table.red(REPLACED, "hash-of-the-tokenizer-ignored")


def read_as_others(place: Path) -> tuple[int, int]:
    """Number of bits flipped in the records of a project, and of flips that are not named and give another record."""
    runs.run(place, "download", "--dataset", "stories.txt", "--output", "copy.txt")
    [index] = place.glob("data/tokens/*/index.json")
    tries = silent = 0
    records = [".homespun.json", "copy.txt.json", "tokenizer_model/report.json"]
    for path in [index, *(place / name for name in records)]:
        whole, record = path.read_bytes(), durable.read_json(path)
        for at in range(len(whole)):
            content = bytearray(whole)
            content[at] ^= 1 << at % 8
            path.write_bytes(content)
            tries += 1
            try:
                found = durable.read_json(path)
            except durable.DamagedRecord as error:
                silent += str(path) not in str(error)
            else:
                # A flip in the name of the checksum leaves all other entries.
                silent += not record.items() <= found.items()
        path.write_bytes(whole)
    return tries, silent


def test_damaged_records(place: Path, table: Table) -> None:
    tries, silent = read_as_others(place)
    assert silent == 0
    table.row(RECORDS, tries=tries, lost=Lost(0, silent), result="named, or harmless")


def test_damaged_records_would_show(
    place: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_checksum", durable._checksum)  # to be restored
    apply(["checksums-of-records-ignored"])
    assert read_as_others(place)[1] > 0
    table.red(RECORDS, "checksums-of-records-ignored")


@pytest.fixture
def unfinished(
    hub: loopback.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """The files of a download that failed after a megabyte. The hub serves all of it now."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_module, "BLOCK", 300_000)
    monkeypatch.setattr(download_file, "COMMIT", 100_000)
    rng = random.Random(0)
    words = ["once", "upon", "time", "dog", "cat"]
    hub.publish_tinystories([" ".join(rng.choices(words, k=100)) for _ in range(4_000)])
    hub.fail("status", status=418, after=1_000_000)
    with pytest.raises(UserError, match="HTTP 418"):
        fetch()
    return {path.name: path.read_bytes() for path in Path("data").iterdir()}


def fetch() -> tuple[bytes, list[str]]:
    """The text of the download, and its messages."""
    said: list[str] = []
    path = download(DownloadConfig(num_samples=3_000), said.append, lambda seconds: None)
    return path.read_bytes(), said


def finished_with_other_text(unfinished: dict[str, bytes]) -> tuple[int, int]:
    """Number of flips in what an unfinished download left, and of those after which its text is another."""
    shutil.rmtree("data")
    text, _ = fetch()
    tries = other = 0
    for name, whole in unfinished.items():
        covered = len(whole) if name.endswith("json") else 900_000
        for at in range(0, covered, covered // 12):
            shutil.rmtree("data")
            Path("data").mkdir()
            for file, content in unfinished.items():
                (Path("data") / file).write_bytes(content)
            damaged = bytearray(whole)
            damaged[at] ^= 2
            (Path("data") / name).write_bytes(damaged)
            tries += 1
            try:
                found, said = fetch()
            except (KeyError, TypeError, ValueError):
                other += 1
                continue
            other += found != text
            assert any("starting over" in line or "continuing" in line for line in said)
    return tries, other


def test_a_damaged_unfinished_download(unfinished: dict[str, bytes], table: Table) -> None:
    tries, other = finished_with_other_text(unfinished)
    assert other == 0
    result = "named and started over; equal to an undisturbed download"
    table.row(UNFINISHED, tries=tries, lost=Lost(0, other), result=result)


def test_a_damaged_unfinished_download_would_show(
    unfinished: dict[str, bytes], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_file, "_digest", None)  # to be restored
    apply(["text-of-an-unfinished-download-not-hashed"])
    assert finished_with_other_text(unfinished)[1] > 0
    table.red(UNFINISHED, "text-of-an-unfinished-download-not-hashed")
