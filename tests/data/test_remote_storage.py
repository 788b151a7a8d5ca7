"""Tokens on storage that speaks S3, and on the Hugging Face hub: servers on loopback. S3 needs moto: make
test-machines."""

import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from homespun.data.corpus import survey
from homespun.data.prepare import prepare
from homespun.data.remote import RECORD, Place, RemoteText
from homespun.data.text_file import TokensElsewhere
from homespun.errors import UserError
from tests.data.hub import Hub
from tests.data.test_remote import ROOM, Text, described, text

__all__ = ["text"]

REPOSITORY = "someone/stories"


@pytest.fixture
def s3(text: Text, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the tokens on a running server."""
    why = "moto or s3fs is missing: make test-machines"
    server_of = pytest.importorskip("moto.server", reason=why)
    s3fs = pytest.importorskip("s3fs", reason=why)
    server = server_of.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "someone"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.makedirs("bucket", exist_ok=True)  # moto keeps it for the next server
    for name, content in text.files().items():
        files.pipe_file(f"bucket/stories/{name}", content)
    yield "s3://bucket/stories"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def on_hub(text: Text, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the tokens in a repository."""
    known = huggingface_hub.constants  # of HF_ENDPOINT, as it was when the library was loaded
    addresses = known.HUGGINGFACE_CO_URL_TEMPLATE.replace(known.ENDPOINT, hub.endpoint)
    monkeypatch.setattr(known, "HUGGINGFACE_CO_URL_TEMPLATE", addresses)
    monkeypatch.setattr(known, "ENDPOINT", hub.endpoint)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    hub.publish(REPOSITORY, {f"tokens/{name}": file for name, file in text.files().items()})
    return f"hf://datasets/{REPOSITORY}/tokens"


@pytest.fixture(params=["s3", "on_hub"])
def url(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


def test_the_tokens_are_the_same(text: Text, url: str, tmp_path: Path) -> None:
    corpus = survey(described(tmp_path, url))
    assert corpus.sha256 == text.corpus.sha256
    assert corpus.tokenizer
    prepared = prepare(corpus, corpus.tokenizer, tmp_path / "elsewhere")
    assert prepared.training[:].tolist() == text.prepared.training[:].tolist()
    assert prepared.validation[:].tolist() == text.prepared.validation[:].tolist()
    copies = {path.name: path.read_bytes() for path in prepared.folder.iterdir()}
    assert copies == {name: file for name, file in text.files().items() if name != RECORD}


def test_copies_have_a_bounded_room(text: Text, url: str, tmp_path: Path) -> None:
    n_bytes = text.prepared.training.shards[0].path.stat().st_size  # type: ignore[attr-defined]
    remote = RemoteText(TokensElsewhere(url, n_bytes + 50))
    training, _ = remote.streams(tmp_path / "copies")
    assert training[:].tolist() == text.prepared.training[:].tolist()
    assert [path.name for path in tmp_path.glob("copies/*")] == ["training-00000.tokens"]


def test_what_is_missing_is_named(url: str) -> None:
    with pytest.raises(UserError, match=r"nowhere/text\.json: cannot be read \(FileNotFoundError"):
        RemoteText(TokensElsewhere(f"{url}/nowhere", 0), Place(f"{url}/nowhere", sleep=print))


def test_a_file_that_has_changed_is_named(text: Text, s3: str, tmp_path: Path) -> None:
    import s3fs

    remote = RemoteText(TokensElsewhere(s3, ROOM))
    whole = text.files()["training-00000.tokens"]
    s3fs.S3FileSystem().pipe_file("bucket/stories/training-00000.tokens", whole[:-2] + b"\0\0")
    training, _ = remote.streams(tmp_path / "copies")
    with pytest.raises(UserError, match="not as its record describes it"):
        training[:10]
    assert not list(tmp_path.glob("copies/*"))


def test_only_the_ranges_of_the_hub_are_read(text: Text, hub: Hub, on_hub: str) -> None:
    """The library of the hub reads ahead unless it is asked not to."""
    remote = RemoteText(TokensElsewhere(on_hub, 0))
    training, _ = remote.streams()
    before = len(hub.requests)
    expected = text.prepared.training
    for start in (0, 777, len(expected) - 40):
        assert training.read(start, 40).tolist() == expected.read(start, 40).tolist()
    ranges = [request.headers.get("range") for request in hub.requests[before:]]
    asked = [re.fullmatch(r"bytes=(\d+)-(\d+)", one) for one in ranges if one]
    assert sum(int(one[2]) - int(one[1]) + 1 for one in asked if one) < 3 * 400
    assert len(asked) >= 6  # headers of three shards, and the ranges
    assert all(asked)


def test_an_answer_of_the_hub_that_breaks_off(text: Text, hub: Hub, on_hub: str) -> None:
    pauses: list[float] = []
    place = Place(on_hub, sleep=pauses.append)
    training, _ = RemoteText(TokensElsewhere(on_hub, 0), place).streams()
    hub.fail("cut", at=10)
    assert training.read(0, 40).tolist() == text.prepared.training.read(0, 40).tolist()
