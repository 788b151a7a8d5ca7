"""Loaders accept a file or refuse it in one line, in bounded memory and time, and never run code from it.

The tests flip, cut, splice and edit valid files: dozens of times each in `make test`, thousands in `make faults`.
"""

import contextlib
import dataclasses
import io
import json
import pickle
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from homespun.checkpoint import archive
from homespun.checkpoint.archive import ArrayInfo, ending_of, read_archive, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.config import ReaderName, TrainConfig
from homespun.config.toml_file import read_toml
from homespun.data.documents import documents
from homespun.data.known_tokenizers import origin
from homespun.data.shards import Header, open_shard, write_shard
from homespun.engine import select
from homespun.engine.base import StepResult
from homespun.errors import UserError
from homespun.language_model import load
from homespun.planning.recipe import ResolvedConfig, given_settings
from homespun.records.metrics import read
from homespun.tokenizer import Tokenizer, train
from homespun.training.diagnostics.step_guard import Limits
from homespun.training.diagnostics.trends import TrendWatch
from homespun.training.position import Position
from homespun.training.resume import find_point
from tests.faults.runs import NOTHING
from tests.faults.table import Table
from tests.faults.wrong import apply

TITLE = "Files from elsewhere"
FUZZED = "a file of each kind that is read, mutated"
HEADERS = "a checkpoint whose hashes are right and whose header is not"
BOMBS = "a checkpoint whose manifest takes many times its size when it is parsed"
PICKLED = "a pickle in the place of a file of each kind, and inside a .npz"

Loader = Callable[[Path], object]

MEMORY_OF_BOMBS = 8
"""Limit of memory for a manifest that is refused, relative to the file."""
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


Place = tuple[str | int, ...]
"""The keys and indices that lead to a value in JSON."""


def places(value: Any, before: Place = ()) -> Iterator[Place]:
    """All places in a JSON value; of a list, the first two items."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = [*value.items(), ("new", 1)]
    elif isinstance(value, list):
        items = enumerate(value[:2])
    for key, inner in items:
        yield (*before, key)
        yield from places(inner, (*before, key))


def changed(header: dict[str, Any], changes: Mapping[Place, Any], gone: bool) -> dict[str, Any]:
    """The header with other values in some places, or without them."""
    header = json.loads(json.dumps(header))
    for (*parents, key), value in changes.items():
        inner: Any = header
        with contextlib.suppress(LookupError, TypeError):
            for parent in parents:
                inner = inner[parent]
            if gone and isinstance(inner, dict):
                inner.pop(key, None)
            elif isinstance(inner, dict | list):
                inner[key] = json.loads(json.dumps(value))  # a copy
    return header


def long_position() -> Position:
    """The position of a run that has filled all its parts."""
    position, config = Position(step=700, next_sample=2800, tokens=22_400), ResolvedConfig()
    position.watch = TrendWatch().begin(config, 5.0)
    for step in range(1, 701):
        result = StepResult(5.0 - step / 1000, 0.5, clipped=False, applied=True)
        position.guard.observe_step(step, result, Limits(), "batch", config)
        position.watch.observe_step(step, result, 1.0, config)
        if step % 50 == 0:
            position.guard.observe_evaluation(5.0)
            position.watch.observe_evaluation(step, 5.0, config)
    position.watch.advised_at["plateau"] = 600
    return position


PLANNED = TrainConfig(model_size="pico", seq_len=8, vocab_size=270)
WEIGHTS_HEADER = {
    "model": vars(MODEL),
    "tokenizer": TOKENIZER.to_json(),
    "tokenizer_sha256": TOKENIZER.sha256,
    "data_file": "text.txt",
    "data_sha256": "ab" * 32,
    "requested": dataclasses.asdict(PLANNED),
    "resolved": dataclasses.asdict(ResolvedConfig(**given_settings(PLANNED))),
    "facts": {"engine": "torch 2", "threads": "2"},
    "val_loss": 5.0,
}
STATE_HEADER = {"position": long_position().stored(), "metrics_length": 1234}
PLACES = [("weights", *place) for place in places(WEIGHTS_HEADER)]
PLACES += [("state", *place) for place in places(STATE_HEADER)]


def saved(folder: Path, weights: dict[str, Any], state: dict[str, Any]) -> Path:
    """A checkpoint with these headers and right hashes."""
    tensors = list(initial_weights(MODEL, 0))
    path = folder / "checkpoint_step_700.npz"
    sha256 = write_archive(path, tensors, weights, step=700)
    commit = {**state, "weights_sha256": sha256}
    write_archive(folder / "checkpoint_step_700.state.npz", [], commit, kind="state", step=700)
    return path


def used(path: Path) -> None:
    """Load the weights, and resume: a position that is accepted can go on."""
    load(path, engine="numpy")
    found = find_point(TrainConfig(resume="latest", checkpoint_dir=str(path.parent)), print)
    assert found
    position = found.position()
    config = ResolvedConfig(**found.header["resolved"])
    watch = position.watch.begin(config, 5.0)
    for step in range(position.step + 1, position.step + 200):
        result = StepResult(5.0, 0.5, clipped=True, applied=True)
        guard = position.guard
        guard.observe_step(step, result, guard.limits(step), "batch", config)
        watch.observe_step(step, result, 1.0, config)
        if step % 20 == 0:
            guard.observe_evaluation(5.0)
            watch.observe_evaluation(step, 5.0, config)


def test_a_true_header_is_taken(tmp_path: Path) -> None:
    assert refused_or_taken(used, saved(tmp_path, WEIGHTS_HEADER, STATE_HEADER))


@pytest.mark.parametrize("examples", [100, pytest.param(3000, marks=pytest.mark.faults)])
def test_a_header_that_lies_is_refused(
    examples: int, tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "sync", lambda file: file.flush())  # only faster
    monkeypatch.setattr(durable, "sync_folder", lambda folder: None)

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.dictionaries(st.sampled_from(PLACES), odd, min_size=1, max_size=3), st.booleans())
    def load_it(changes: dict[Place, Any], gone: bool) -> None:
        headers = changed({"weights": WEIGHTS_HEADER, "state": STATE_HEADER}, changes, gone)
        if all(isinstance(header, dict) for header in headers.values()):
            refused_or_taken(used, saved(tmp_path, headers["weights"], headers["state"]))

    load_it()
    table.row(HEADERS, tries=examples, lost=NOTHING, result="taken, or refused in a line")


def sealed(path: Path, **parts: str) -> Path:
    """A whole checkpoint whose manifest has these parts in their spelling."""
    tensors: list[ArrayInfo] = []
    manifest = {"schema": "1", "kind": '"weights"', "step": "0", "header": "{}", "arrays": "[]"}
    text = ", ".join(f'"{name}": {part}' for name, part in (manifest | parts).items())
    path.write_bytes(ending_of(tensors, f"{{{text}}}".encode())[1])
    return path


BOMB = "[" + ",".join(["{}"] * 300_000) + "]"


def bombs(folder: Path) -> Iterator[tuple[Loader, Path]]:
    """Files whose parsed content would take many times their size, and their loaders."""
    for part in ("header", "arrays", "step"):
        yield read_archive, sealed(folder / f"{part}.npz", **{part: BOMB})
    escaped = BOMB.encode("utf-16").decode("latin-1")
    yield read_archive, sealed(folder / "utf-16.npz", header=json.dumps({"a": 1}) + escaped)
    header = {**WEIGHTS_HEADER, "tokenizer": BOMB}
    path = folder / "tokenizer.npz"
    write_archive(path, initial_weights(MODEL, 0), header)
    yield lambda path: load(path, engine="numpy"), path


def memory_of_bombs(folder: Path) -> float:
    """The most memory that reading such a file takes, relative to its size."""
    worst = 0.0
    for loader, path in bombs(folder):
        tracemalloc.start()
        try:
            with pytest.raises(UserError):
                loader(path)
            worst = max(worst, tracemalloc.get_traced_memory()[1] / path.stat().st_size)
        finally:
            tracemalloc.stop()
    return worst


def test_a_manifest_takes_no_more_memory_than_its_size_justifies(
    tmp_path: Path, table: Table
) -> None:
    assert memory_of_bombs(tmp_path) < MEMORY_OF_BOMBS
    table.row(
        BOMBS, tries=len(list(bombs(tmp_path))), lost=NOTHING, result="refused before it is parsed"
    )


def test_a_manifest_that_is_parsed_at_once_would_show(
    tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "check_structure", archive.check_structure)  # to be restored
    apply(["structure-not-limited"])
    assert memory_of_bombs(tmp_path) > MEMORY_OF_BOMBS
    table.red(BOMBS, "structure-not-limited")


def test_many_arrays_are_read_in_linear_time() -> None:
    began = time.process_time()
    arrays = [ArrayInfo(f"a{i}", (), "<f4") for i in range(60_000)]
    assert len(ending_of(arrays, b"")[1]) > 60_000 * 80
    assert time.process_time() - began < SECONDS


# Models that are small on the disk only

CLAIMS: dict[str, dict[str, Any]] = {
    "a long context of wide heads": {"head_dim": 1000, "seq_len": 1 << 17},
    "a smaller vocabulary than its tokenizer": {"vocab_size": 100},
}


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_small_file_stays_small(claim: str, engine: ReaderName, tmp_path: Path) -> None:
    config = dataclasses.replace(MODEL, **CLAIMS[claim])
    path = tmp_path / "model.npz"
    header = {"model": vars(config), "tokenizer": TOKENIZER.to_json()}
    write_archive(path, initial_weights(config, 0), header)

    def generate(path: Path) -> None:
        model = load(path, engine=engine, precision="float32")
        model.generate("once upon", max_tokens=3, seed=1)
        rope = getattr(getattr(model.engine, "decoding_model", None), "rope", None)
        assert rope is None or rope.shape[1] <= 32

    if engine == "torch":
        select.machine("torch")  # loads the library, which is not part of reading a file
    assert refused_or_taken(generate, path) is ("tokenizer" not in claim)


def test_layers_that_are_not_in_the_file_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    config = dataclasses.replace(MODEL, n_layers=10_000)
    header = {"model": vars(config), "tokenizer": TOKENIZER.to_json()}
    write_archive(path, initial_weights(MODEL, 0), header)
    assert not refused_or_taken(lambda path: load(path, engine="numpy"), path)


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
