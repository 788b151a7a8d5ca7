"""Loaders accept a file or refuse it in one line, in bounded memory and time, and never run code from it.

The tests flip, cut, splice and edit valid files: dozens of times each in `make test`, thousands in `make faults`.
"""

import io
import json
import pickle
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from homespun import durable
from homespun.architectures.families import initial_weights
from homespun.architectures.presets import preset, shaped
from homespun.checkpoint.archive import read_archive, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.config import TrainConfig
from homespun.config.toml_file import read_toml
from homespun.data.documents import documents
from homespun.data.known_tokenizers import origin
from homespun.data.shards import Header, open_shard, write_shard
from homespun.errors import UserError
from homespun.language_model import load
from homespun.records.metrics import read
from homespun.tokenizer import Tokenizer, train
from tests.faults.runs import NOTHING
from tests.faults.table import Table

TITLE = "Files from elsewhere"
FUZZED = "a file of each kind that is read, mutated"
HEADERS = "a checkpoint whose hashes are right and whose header is not"
PICKLED = "a pickle in the place of a file of each kind, and inside a .npz"

Loader = Callable[[Path], object]

SECONDS = 2.0
"""Limit of CPU time for a file of some kilobytes."""


def memory_for(n_bytes: int) -> int:
    """Bytes that reading a file of this size may take: some copies of it, and the buffers of the readers."""
    return 40 * n_bytes + (8 << 20)


def refused_or_taken(loader: Loader, path: Path) -> bool:
    """Whether the loader accepts a file. It may refuse it with a `UserError`; any other error fails the test."""
    began = time.process_time()
    tracemalloc.start()
    try:
        loader(path)
        taken, message = True, ""
    except UserError as error:
        taken, message = False, str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert "\n" not in message
    assert peak < memory_for(path.stat().st_size), f"{peak:,} bytes for {path.stat().st_size:,}"
    assert time.process_time() - began < SECONDS
    return taken


# One valid file of each kind, and its loader

TOKENIZER = train(["once upon a time there was a cat " * 20], 270)
MODEL = shaped(
    preset("pico"),
    {"vocab_size": 270, "seq_len": 8, "n_layers": 1, "d_model": 8, "n_heads": 1, "d_ff": 8},
)


def _weights() -> bytes:
    header = {"model": vars(MODEL), "tokenizer": TOKENIZER.to_json()}
    return _written(lambda path: write_archive(path, initial_weights(MODEL, 0), header, step=3))


def _shard() -> bytes:
    header = Header(270, 300, 3, 900, "ab" * 32, "cd" * 32, "ef" * 32)
    return _written(lambda path: write_shard(path, np.arange(300) % 270, header))


def _parquet() -> bytes:
    file = io.BytesIO()
    texts = pa.array(["once upon a time", "there was", "a cat"] * 20, pa.string())
    parquet.write_table(pa.table({"text": texts}), file, row_group_size=16)
    return file.getvalue()


def _written(write: Callable[[Path], object]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


TEXT = "Once upon a time, there was a café.\n<|endoftext|>\nThe cat ran.\r\n\n" * 30
FILES: dict[str, tuple[bytes, Loader]] = {
    "weights.npz": (_weights(), lambda path: read_archive(path).verify()),
    "model.npz": (_weights(), lambda path: load(path, engine="numpy")),
    "training.tokens": (_shard(), lambda path: open_shard(path)[:].sum()),
    "tokenizer.json": (TOKENIZER.to_json().encode(), lambda path: Tokenizer.load(path.parent)),
    "report.json": (
        b'{"data_file": "a.txt", "data_sha256": "abc"}',
        lambda path: origin(path.parent),
    ),
    ".homespun.json": (b'{"data": "a.txt", "tokenizer": "t"}', durable.read_json),
    "metrics.jsonl": (
        b'{"step": 1, "tokens": 64, "loss": 5.5}\n' * 9,
        lambda path: list(read(path)),
    ),
    "run.toml": (
        b'model_size = "tiny"\nmax_steps = 100\nlearning_rate = 3e-4\nsample_prompts = ["a", "b"]\n',
        lambda path: read_toml(path, TrainConfig),
    ),
    "text.txt": (TEXT.encode(), lambda path: sum(map(len, documents(path)))),
    "text.jsonl": (
        (json.dumps({"text": TEXT}) + "\n").encode() * 3,
        lambda path: sum(map(len, documents(path))),
    ),
    "text.parquet": (_parquet(), lambda path: sum(map(len, documents(path)))),
}

# Mutations

INSERTED = (
    b"\0", b"\xff", b"[" * 1500, b'{"a":' * 1500, b"9" * 5000, b"-1", b"1e999", b"null", b'"', b"\\ud800", b"\n",
    b"18446744073709551615", b"\xff" * 8, b"\xef\xbb\xbf", b"\x80\x04", b"'" * 3, b"a." * 300,
)  # fmt: skip
place = st.floats(0, 1)
mutation = st.one_of(
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("cut"), place, st.integers(1, 64)),
    st.tuples(st.just("end"), place, st.just(0)),
    st.tuples(st.just("insert"), place, st.sampled_from(INSERTED)),
    st.tuples(st.just("overwrite"), place, st.sampled_from(INSERTED)),
    st.tuples(st.just("splice"), place, place),
)


def mutated(content: bytes, mutations: list[tuple[str, float, Any]]) -> bytes:
    for kind, where, how in mutations:
        at = int(where * max(0, len(content) - 1))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ 1 << how]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at] + content[at + how :]
        elif kind == "end":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + how + content[at:]
        elif kind == "overwrite":
            content = content[:at] + how + content[at + len(how) :]
        elif kind == "splice":
            other = int(how * len(content))
            content = content[:at] + content[other : other + 200] + content[at:]
    return content


@pytest.mark.parametrize("examples", [40, pytest.param(2000, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_is_taken_or_refused(
    name: str, examples: int, tmp_path: Path, table: Table
) -> None:
    content, loader = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert refused_or_taken(loader, path)

    def read_with(mutations: list[tuple[str, float, Any]]) -> None:
        path.unlink()  # an earlier reader may have it open
        path.write_bytes(mutated(content, mutations))
        refused_or_taken(loader, path)

    for inserted in INSERTED:
        for where in (0, 0.5):
            read_with([("insert", where, inserted)])

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.lists(mutation, min_size=1, max_size=4))
    def read_it(mutations: list[tuple[str, float, Any]]) -> None:
        read_with(mutations)

    read_it()
    table.row(
        FUZZED,
        tries=examples * len(FILES),
        lost=NOTHING,
        result="taken, or refused in a line; memory and time bounded",
    )


# False headers with a correct hash, which anybody can make

odd = st.sampled_from(
    [
        None,
        "",
        "x",
        -1,
        0,
        1,
        3,
        2**31,
        2**62,
        2**80,
        1e308,
        True,
        [],
        [1],
        {},
        {"a": 1},
        "[" * 9000,
    ]
)


@pytest.mark.parametrize("examples", [60, pytest.param(3000, marks=pytest.mark.faults)])
def test_a_header_that_lies_is_refused(examples: int, tmp_path: Path, table: Table) -> None:
    path = tmp_path / "best.npz"
    weights = list(initial_weights(MODEL, 0))
    keys = [("model", key) for key in vars(MODEL)] + [("model",), ("tokenizer",), ("model", "new")]

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.dictionaries(st.sampled_from(keys), odd, min_size=1, max_size=3), st.booleans())
    def load_it(changes: dict[tuple[str, ...], Any], gone: bool) -> None:
        header: Any = {"model": dict(vars(MODEL)), "tokenizer": TOKENIZER.to_json()}
        for (*parents, key), value in changes.items():
            inner = header.get(parents[0]) if parents else header
            if not isinstance(inner, dict):
                continue
            if gone:
                inner.pop(key, None)
            else:
                inner[key] = json.loads(json.dumps(value))  # a copy
        write_archive(path, weights, header)
        refused_or_taken(lambda path: load(path, engine="numpy"), path)

    load_it()
    table.row(HEADERS, tries=examples, lost=NOTHING, result="taken, or refused in a line")


# No code runs


class Payload:
    """Unpickling this object creates a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return Path.touch, (self.sentinel,)


def _npz(member: str, payload: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, payload)
        archive.writestr("manifest.json", "{}")
    return file.getvalue()


def test_no_loader_runs_a_payload(tmp_path: Path, table: Table) -> None:
    sentinel = tmp_path / "it ran"
    payload = pickle.dumps(Payload(sentinel))
    objects = io.BytesIO()
    np.save(objects, np.array([Payload(sentinel)], dtype=object), allow_pickle=True)
    contents = [
        payload,
        objects.getvalue(),
        _npz("a.npy", objects.getvalue()),
        _npz("a.pkl", payload),
    ]
    tries = 0
    for name, (valid, loader) in FILES.items():
        for content in [*contents, *(part for c in contents for part in (valid + c, c + valid))]:
            path = tmp_path / name
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            refused_or_taken(loader, path)
            tries += 1
    for content in contents:
        for name in ("checkpoint_step_1.npz", "checkpoint_step_1.state.npz", "best.npz"):
            (tmp_path / name).write_bytes(content)
        assert CheckpointFolder(tmp_path).latest(lambda line: None) is None
        tries += 1
    assert not sentinel.exists()
    pickle.loads(payload)  # noqa: S301 - shows that the payload works
    assert sentinel.exists()
    table.row(
        PICKLED, tries=tries, lost=NOTHING, result="refused, or read as what it is not; nothing ran"
    )
