"""Faults of a server, a network and a disk: downloads wait, try again, and leave nothing half done."""

import resource
from pathlib import Path

import pytest

from homespun.config import DownloadConfig
from homespun.data.documents import documents
from homespun.data.download import download
from homespun.errors import UserError
from tests.data.downloading import TINY, Log, left_in_data, table, tell
from tests.data.hub import Hub

pytestmark = pytest.mark.usefixtures("in_own_folder")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("cut", {"at": 100_000, "times": 9}),
        ("cut", {"at": 0, "times": 5}),
        ("short", {"at": 50_000, "times": 3}),
        ("ignore_ranges", {"times": 1}),
        ("ignore_ranges", {"times": 1, "after": 400_000}),
        ("status", {"status": 500, "times": 3}),
        ("status", {"status": 503, "times": 5, "after": 400_000}),
        ("status", {"status": 429, "where": "file", "times": 2}),
        ("status", {"status": 500, "where": "api", "times": 2}),
    ],
)
def test_what_passes_is_waited_for(
    hub: Hub, log: Log, small_blocks: None, kind: str, settings: dict[str, object]
) -> None:
    stories = tell(2_500)
    hub.publish_tinystories(stories)
    hub.fail(kind, **settings)
    assert list(documents(log.fetch(2_000))) == stories[:2_000]
    assert hub.faults[0].times == 0
    assert max(log.naps, default=0) <= 16


@pytest.mark.parametrize("kind", ["cut", "short", "ignore_ranges"])
def test_a_table_survives_the_same(hub: Hub, log: Log, small_blocks: None, kind: str) -> None:
    stories = tell(2_000)
    hub.publish("a/b", {"train.parquet": table(stories)})
    hub.fail(kind, at=10_000, times=3)
    assert list(documents(log.fetch(2_000, "a/b"))) == stories
    hub.fail("status", status=418)
    with pytest.raises(UserError, match="HTTP 418"):
        log.fetch(1_000, "a/b")


def test_cut_then_ranges_ignored(hub: Hub, log: Log, small_blocks: None) -> None:
    stories = tell(2_500)
    hub.publish_tinystories(stories)
    hub.fail("cut", at=100_000)
    hub.fail("ignore_ranges", after=100_000)
    assert list(documents(log.fetch(2_500))) == stories


def test_back_off_doubles_and_obeys_retry_after(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("status", status=500, times=3)
    hub.fail("status", status=429, retry_after="7", times=1)
    hub.fail("status", status=429, retry_after="Wed, 21 Oct 2099 07:28:00 GMT", times=1)
    log.fetch(9)
    assert log.naps == [1, 2, 4, 7, 16]


def test_gives_up_after_some_tries_and_goes_on_later(
    hub: Hub, log: Log, small_blocks: None
) -> None:
    stories = tell(4_000)
    hub.publish_tinystories(stories)
    hub.fail("status", status=500, times=6, after=1_000_000)
    with pytest.raises(UserError, match=r"gave up \(HTTP 500\); run this again later"):
        log.fetch(3_000)
    assert len(log.naps) == 5
    assert not Path("data/tinystories_3000.txt").exists()
    assert list(documents(log.fetch(3_000))) == stories[:3_000]
    assert log.said("continuing after")


def test_a_body_that_is_always_short_is_given_up(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("short", at=1 << 30, times=1_000)
    with pytest.raises(UserError, match=r"gave up \(the connection was closed early\)"):
        log.fetch(9)


def test_a_pause_of_an_hour_is_not_slept_through(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("status", where="api", status=429, retry_after="3600")
    with pytest.raises(UserError, match="asks to wait 3600 s"):
        log.fetch(9)
    assert log.naps == []


@pytest.mark.parametrize("where", ["api", "file", "storage"])
def test_a_redirect_loop_is_refused(hub: Hub, log: Log, where: str) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("loop", where=where, times=1_000)
    with pytest.raises(UserError, match="too many redirects"):
        log.fetch(9)
    assert len(hub.requests) < 20


@pytest.mark.parametrize(
    ("kind", "message"), [("long", "longer than announced"), ("damage", "SHA-256 differs")]
)
def test_a_wrong_body_is_refused_and_nothing_of_it_kept(
    hub: Hub, log: Log, kind: str, message: str
) -> None:
    stories = tell(100)
    hub.publish_tinystories(stories)
    hub.fail(kind)
    with pytest.raises(UserError, match=message):
        log.fetch(1_000)
    assert left_in_data() == []
    assert list(documents(log.fetch(1_000))) == stories


def test_a_file_that_changes_while_it_is_read_is_refused(
    hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch, small_blocks: None
) -> None:
    hub.publish_tinystories(tell(2_000))

    def alter(seconds: float) -> None:
        name = "TinyStoriesV2-GPT4-train.txt"
        hub.alter(TINY, name, hub.content(TINY, name).replace(b"dog", b"god"))

    hub.fail("status", status=500, after=400_000)
    with pytest.raises(UserError, match="changed while it was being read"):
        download(DownloadConfig(num_samples=1_900), say=log.lines.append, sleep=alter)
    assert left_in_data() == []


# Access


def test_the_token_goes_to_the_hub_only(
    hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish_tinystories(tell(9))
    hub.token = "hf_secret"
    with pytest.raises(UserError, match="set HF_TOKEN"):
        log.fetch(9)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.requests.clear()
    log.fetch(9)
    for request in hub.requests:
        sent = request.headers.get("authorization")
        assert sent == ("Bearer hf_secret" if request.server == "hub" else None)
    assert {request.server for request in hub.requests} == {"hub", "storage"}


def test_an_unknown_dataset(hub: Hub, log: Log) -> None:
    with pytest.raises(UserError, match=r"not found on the hub \(HTTP 404\)"):
        log.fetch(9, "no/such")
    assert left_in_data() == []


@pytest.mark.parametrize("dataset", ["storys", "data/absent.txt", "/absent", "a/b/c", "a b/c"])
def test_neither_here_nor_on_the_hub(log: Log, dataset: str) -> None:
    with pytest.raises(UserError, match="not a local file or folder"):
        log.fetch(9, dataset)


def test_without_a_network(log: Log, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    with pytest.raises(UserError, match=r"cannot be reached.*--dataset stories") as caught:
        log.fetch(9)
    assert "\n" not in str(caught.value)
    assert log.naps == []
    assert left_in_data() == []


def test_a_log_in_page_is_not_the_hub(hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "answer_hub", lambda self, handler: handler.reply(200, {}, b"<html>"))
    with pytest.raises(UserError, match="does not answer like the hub"):
        log.fetch(9)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://mirror", "https://"])
def test_a_wrong_endpoint(log: Log, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UserError, match="HF_ENDPOINT is"):
        log.fetch(9)


def test_a_full_disk(hub: Hub, log: Log, small_blocks: None) -> None:
    stories = tell(2_000)
    hub.publish_tinystories(stories)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(UserError, match=r"tinystories_1000\.txt: File too large"):
            log.fetch(1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not Path("data/tinystories_1000.txt").exists()
    assert list(documents(log.fetch(1_000))) == stories[:1_000]
    assert log.said("continuing after")
