"""Tokens that lie elsewhere: in memory, in a folder, and on a web server that fails in many ways."""

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

from homespun.data import prepare as prepare_module
from homespun.data.corpus import Corpus, survey
from homespun.data.prepare import Prepared, already_prepared, prepare
from homespun.data.remote import RECORD, TRIES, Place, RemoteText, write_record
from homespun.data.text_file import TokensElsewhere, read_description
from homespun.errors import UserError
from homespun.tokenizer import Tokenizer, train
from tests.data.files import written

STORIES = [f"story {number}: once upon a time there was a cat " * 6 for number in range(300)]
SHARD_BYTES = 10_000
ROOM = 100_000_000


@dataclasses.dataclass
class Text:
    """A text with its tokens, made here."""

    corpus: Corpus
    tokenizer: Tokenizer
    prepared: Prepared

    def files(self) -> dict[str, bytes]:
        names = [RECORD, *(path.name for path in self.prepared.folder.glob("*.tokens"))]
        return {name: (self.prepared.folder / name).read_bytes() for name in names}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Text:
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", SHARD_BYTES)
    path = written(tmp_path / "text.txt", "\n<|endoftext|>\n".join(STORIES))
    corpus = survey(path)
    tokenizer = train(corpus.training(), 300)
    prepared = prepare(corpus, tokenizer, tmp_path / "tokens")
    streams = {"training": prepared.training, "validation": prepared.validation}
    sides = {side: list(stream.shards) for side, stream in streams.items()}
    names = ("sha256", "n_documents", "n_bytes", "validation_bytes")
    facts = {name: getattr(corpus, name) for name in names}
    write_record(prepared.folder, facts, tokenizer, sides)
    return Text(corpus, tokenizer, prepared)


def described(folder: Path, url: str, cache: str = "1 GB") -> Path:
    return written(folder / "remote.toml", f'[tokens]\nurl = "{url}"\ncache = "{cache}"\n')


def uploaded(text: Text, name: str) -> str:
    """The address of a copy in memory."""
    files = fsspec.filesystem("memory")
    for file, content in text.files().items():
        files.pipe_file(f"/{name}/{file}", content)
    return f"memory://{name}"


def test_a_folder_elsewhere_is_the_same_text(text: Text, tmp_path: Path) -> None:
    corpus = survey(described(tmp_path, uploaded(text, "same")))
    assert corpus.sha256 == text.corpus.sha256
    assert corpus.n_documents == text.corpus.n_documents
    assert corpus.validation_bytes == text.corpus.validation_bytes
    assert corpus.tokenizer
    assert corpus.tokenizer.sha256 == text.tokenizer.sha256
    assert list(corpus.training()) == list(text.corpus.training())
    assert list(corpus.validation()) == list(text.corpus.validation())
    prepared = prepare(corpus, corpus.tokenizer, tmp_path / "elsewhere")
    assert prepared.training[:].tolist() == text.prepared.training[:].tolist()
    assert prepared.validation[:].tolist() == text.prepared.validation[:].tolist()
    assert already_prepared(corpus, corpus.tokenizer, tmp_path / "elsewhere")
    copies = {path.name: path.read_bytes() for path in prepared.folder.iterdir()}
    assert copies == {name: file for name, file in text.files().items() if name != RECORD}


def test_a_folder_on_another_disk_needs_no_address(text: Text, tmp_path: Path) -> None:
    folder = text.prepared.folder.relative_to(tmp_path)
    corpus = survey(described(tmp_path, str(folder)))
    assert corpus.sha256 == text.corpus.sha256


@pytest.mark.parametrize("n_shards", [0, 3])
def test_the_room_for_copies_is_bounded(text: Text, tmp_path: Path, n_shards: int) -> None:
    files = text.files()
    sizes = [len(files[shard.path.name]) for shard in text.prepared.training.shards[:n_shards]]
    remote = RemoteText(TokensElsewhere(uploaded(text, "bounded"), sum(sizes) + 50))
    for again in range(2):
        training, _ = remote.streams(tmp_path / "copies")
        assert training[:].tolist() == text.prepared.training[:].tolist(), again
        copies = [path.stat().st_size for path in tmp_path.glob("copies/*")]
        assert sum(copies) <= sum(sizes) + 50
        assert len(copies) == n_shards
    window = training.read(1_000, 50)
    assert window.tolist() == text.prepared.training.read(1_000, 50).tolist()


def test_a_damaged_copy_is_made_again(text: Text, tmp_path: Path) -> None:
    remote = RemoteText(TokensElsewhere(uploaded(text, "damaged"), ROOM))
    training, _ = remote.streams(tmp_path / "copies")
    expected = training[:].tolist()
    first, second, *_ = sorted(tmp_path.glob("copies/*"))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(second.read_bytes()[:-1] + b"\xff")
    again, _ = remote.streams(tmp_path / "copies")
    assert again[:].tolist() == expected


def test_files_of_a_killed_process_are_removed_unless_another_one_works(
    text: Text, tmp_path: Path
) -> None:
    remote = RemoteText(TokensElsewhere(uploaded(text, "left"), ROOM))
    folder = tmp_path / "copies"
    folder.mkdir()
    left = written(folder / "training-00000.tokens.0123abcd.tmp", "part")
    training, _ = remote.streams(folder)
    training[:10]
    assert not left.exists()
    written(left, "another process writes")
    again, _ = remote.streams(folder)
    assert again[:].tolist() == training[:].tolist()
    assert left.exists()


def test_another_tokenizer_is_refused(text: Text, tmp_path: Path) -> None:
    corpus = survey(described(tmp_path, uploaded(text, "tokenizer")))
    with pytest.raises(UserError, match=r"made by another tokenizer .*leave --tokenizer-path out"):
        prepare(corpus, train(STORIES, 280), tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "is damaged (not JSON): copy the folder there again"),
        (b"[]", "is damaged (not a JSON object)"),
        (b"{}", "not a record of tokens"),
        (b'{"version": 2}', "of another version of homespun"),
        (b'{"version": 1, "sha256": "00"}', "not a record of tokens"),
    ],
)
def test_a_bad_record_is_named(text: Text, record: bytes, message: str) -> None:
    url = uploaded(text, "record")
    fsspec.filesystem("memory").pipe_file(f"/record/{RECORD}", record)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        RemoteText(TokensElsewhere(url, ROOM))
    assert str(error.value).startswith(f"{url}/{RECORD}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_bytes", 0), ("validation_bytes", -1), ("sha256", "0" * 64), ("training", {})],
)
def test_a_record_that_contradicts_itself_is_refused(text: Text, key: str, value: object) -> None:
    record = json.loads(text.files()[RECORD]) | {key: value}
    record.pop("checksum")
    url = uploaded(text, "contradiction")
    fsspec.filesystem("memory").pipe_file(f"/contradiction/{RECORD}", json.dumps(record).encode())
    with pytest.raises(UserError, match="not a record of tokens"):
        RemoteText(TokensElsewhere(url, ROOM))


@pytest.mark.parametrize("name", ["../training-00000.tokens", "/etc/x.tokens", "a", ""])
def test_a_record_cannot_lead_out_of_its_folder(text: Text, name: str) -> None:
    record = json.loads(text.files()[RECORD])
    record.pop("checksum")
    record["training"] = {name: next(iter(record["training"].values()))}
    url = uploaded(text, "names")
    fsspec.filesystem("memory").pipe_file(f"/names/{RECORD}", json.dumps(record).encode())
    with pytest.raises(UserError, match="not a record of tokens"):
        RemoteText(TokensElsewhere(url, ROOM))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[tokens]\n", "write [tokens] and url"),
        ("[tokens]\nurl = 3\n", "write [tokens] and url"),
        ('[tokens]\nurl = "memory://x"\nroom = 1\n', "and perhaps cache"),
        ('[tokens]\nurl = "memory://x"\ncache = "much"\n', "cache is 'much': write a size"),
        ('[tokens]\nurl = "memory://x"\ncache = 5\n', "cache is 5: write a size"),
    ],
)
def test_a_wrong_description_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read_description(written(tmp_path / "remote.toml", content))


def test_an_unknown_kind_of_storage_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere://x: cannot be read here .*homespun\[remote\]"):
        Place("nowhere://x")


# A web server -----------------------------------------------------------------------------------


class Server:
    """Files on loopback over HTTP, with ranges. `faults` are the answers to the next requests: a status, `cut` (the
    connection is closed in the middle), or `whole` (ranges are ignored)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.faults: list[int | str] = []
        self.n_requests = 0
        self.n_bytes = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/tokens"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.n_requests += 1
        fault = self.faults.pop(0) if self.faults else None
        content = self.files.get(request.path.removeprefix("/tokens/"))
        if content is None or isinstance(fault, int):
            request.send_error(fault if isinstance(fault, int) else 404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        part = content
        if wanted and fault != "whole":
            first, last = int(wanted[1]), int(wanted[2])
            part = content[first : last + 1]
            request.send_response(206)
            request.send_header("content-range", f"bytes {first}-{last}/{len(content)}")
        else:
            request.send_response(200)
        request.send_header("content-length", str(len(part)))
        request.end_headers()
        if fault == "cut":
            request.wfile.write(part[: len(part) // 2])
            request.close_connection = True
            return
        self.n_bytes += len(part)  # before the client goes on
        request.wfile.write(part)

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(text: Text) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    server = Server(text.files())
    yield server
    server.stop()


def remote_text(server: Server, cache_bytes: int = 0) -> tuple[RemoteText, list[float]]:
    """The text on a server, and the pauses before further tries."""
    pauses: list[float] = []
    place = Place(server.url, sleep=pauses.append)
    return RemoteText(TokensElsewhere(server.url, cache_bytes), place), pauses


def test_ranges_of_a_web_server(text: Text, server: Server, tmp_path: Path) -> None:
    remote, _ = remote_text(server)
    training, _ = remote.streams(tmp_path / "copies")
    expected = text.prepared.training
    before = server.n_bytes
    for start in (0, 777, len(expected) - 40):
        assert training.read(start, 40).tolist() == expected.read(start, 40).tolist()
    assert server.n_bytes - before < 3 * 400  # headers of three shards, and the ranges
    assert not (tmp_path / "copies").exists()


def test_failures_that_pass(text: Text, server: Server, tmp_path: Path) -> None:
    remote, pauses = remote_text(server, ROOM)
    training, validation = remote.streams(tmp_path / "copies")
    server.faults = [500, 429, "cut", 503]
    assert training[:].tolist() == text.prepared.training[:].tolist()
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    server.faults = ["whole"] * 3  # the record, a header, a range
    few, _ = remote_text(server)[0].streams()
    assert few.read(500, 30).tolist() == text.prepared.training.read(500, 30).tolist()
    assert validation[:].tolist() == text.prepared.validation[:].tolist()


def test_a_server_that_fails_for_good_is_named(server: Server, tmp_path: Path) -> None:
    remote, pauses = remote_text(server)
    training, _ = remote.streams(tmp_path / "copies")
    server.faults = [500] * TRIES
    with pytest.raises(UserError, match=r"training-00000\.tokens: cannot be read \(500"):
        training[:10]
    assert len(pauses) == TRIES - 1
    server.files.clear()
    with pytest.raises(UserError, match="FileNotFoundError"):
        training[:10]
    assert len(pauses) == TRIES - 1  # a file that is missing stays missing


@pytest.mark.parametrize("cache_bytes", [0, ROOM])
@pytest.mark.parametrize("change", ["other tokens", "shorter", "flipped"])
def test_a_changed_file_is_named(
    text: Text, server: Server, tmp_path: Path, cache_bytes: int, change: str
) -> None:
    remote, _ = remote_text(server, cache_bytes)
    name, other = "training-00000.tokens", "training-00001.tokens"
    whole = server.files[name]
    server.files[name] = {
        "other tokens": server.files[other],
        "shorter": whole[:-100],
        "flipped": bytes([*whole[:20], whole[20] ^ 1, *whole[21:]]),
    }[change]
    training, _ = remote.streams(tmp_path / "copies")
    n = len(text.prepared.training.shards[0])
    with pytest.raises(UserError, match=rf"{name}: not as its record describes it"):
        training.read(n - 60, 60)
    assert not list(tmp_path.glob("copies/*"))
    server.files[name] = whole
    expected = text.prepared.training.read(n - 60, 60)
    assert training.read(n - 60, 60).tolist() == expected.tolist()


def test_ids_outside_the_vocabulary_are_refused(text: Text, server: Server, tmp_path: Path) -> None:
    remote, _ = remote_text(server)
    name = "training-00000.tokens"
    server.files[name] = server.files[name][:-20] + b"\xff" * 20
    training, _ = remote.streams(tmp_path / "copies")
    n = len(text.prepared.training.shards[0])
    with pytest.raises(UserError, match="not as its record describes it"):
        training.read(n - 10, 10)
    assert np.array_equal(training.read(0, 10), text.prepared.training.read(0, 10))
