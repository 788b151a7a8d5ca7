"""Loaders accept a file or refuse it in one line, in bounded memory and time, and never run code from it.

The tests flip, cut, splice and edit valid files: dozens of times each in `make test`, thousands in `make faults`.
"""

import contextlib
import dataclasses
import io
import json
import math
import pickle
import struct
import tempfile
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
from homespun.config import ImportConfig, ReaderName, TrainConfig
from homespun.config.toml_file import read_toml
from homespun.data.documents import documents
from homespun.data.known_tokenizers import origin
from homespun.data.shards import Header, open_shard, write_shard
from homespun.engine import select
from homespun.engine.base import StepResult
from homespun.errors import UserError
from homespun.importing import import_model
from homespun.language_model import load
from homespun.model_formats import gguf, huggingface, mlx
from homespun.model_formats.formats import open_model
from homespun.model_formats.gguf_file import TENSOR_TYPES, GGUFFile, read_gguf
from homespun.model_formats.stored_model import StoredModel
from homespun.model_formats.weights_folder import INDEX, WEIGHTS
from homespun.planning.resolved import ResolvedConfig, given_settings
from homespun.records.reading import read
from homespun.tokenizer import Tokenizer, train
from homespun.training.checkpointing.position import Position
from homespun.training.checkpointing.resume import find_point
from homespun.training.diagnostics.step_guard import Limits
from homespun.training.diagnostics.trends import TrendWatch
from tests.faults.runs import NOTHING
from tests.faults.table import Table
from tests.faults.wrong import apply

TITLE = "Files from elsewhere"
FUZZED = "a file of each kind that is read, mutated"
HEADERS = "a checkpoint whose hashes are right and whose header is not"
BOMBS = "a checkpoint whose manifest takes many times its size when it is parsed"
METADATA = "a GGUF file whose metadata lie"
DESCRIPTION = (
    "a folder of another program whose config, index, weights or quantisation are described falsely"
)
IMPORTS = "an import of a model whose files are cut"
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
    files = path.parent.iterdir() if path.parent.name in FOLDERS else [path]
    n_bytes = sum(file.stat().st_size for file in files)
    assert peak < memory_for(n_bytes), f"{peak:,} bytes for {n_bytes:,}"
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
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def _model() -> StoredModel:
    """A model whose matrices have whole groups of 32 numbers, so that they can be quantised."""
    sizes = {"d_model": 32, "n_heads": 1, "d_ff": 32}
    config = shaped(preset("pico"), {"vocab_size": 270, "seq_len": 8, "n_layers": 1, **sizes})
    return StoredModel(
        Path("best.npz"), config, TOKENIZER, lambda: initial_weights(config, 0), {}, 3
    )


def _folder(write: Callable[[StoredModel, Path, str], None], precision: str) -> dict[str, bytes]:
    """The files of an export by name."""
    with tempfile.TemporaryDirectory() as folder:
        write(_model(), Path(folder), precision)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def _in_parts(files: dict[str, bytes]) -> dict[str, bytes]:
    """The folder of a model whose weights have an index."""
    names = safetensors_names(files[WEIGHTS])
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    parts = {"part.safetensors": files[WEIGHTS], INDEX: json.dumps(index).encode()}
    return {name: content for name, content in files.items() if name != WEIGHTS} | parts


def safetensors_names(content: bytes) -> list[str]:
    return [name for name in safetensors_header(content) if name != "__metadata__"]


def safetensors_header(content: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def open_and_read(path: Path) -> None:
    """Read all that a model of other programs is: its description, its tokenizer and its tensors."""
    for _, array in open_model(path).tensors():
        assert array.dtype == np.float32


def _gguf() -> bytes:
    return _written(lambda path: gguf.write_file(_model(), path, "int8"))


HUGGINGFACE, MLX = _folder(huggingface.write_folder, "bfloat16"), _folder(mlx.write_folder, "int8")
IN_PARTS = _in_parts(HUGGINGFACE)

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
    "model.gguf": (_gguf(), open_and_read),
}
FOLDERS = {
    "huggingface": (HUGGINGFACE, (WEIGHTS, "config.json", "tokenizer.json")),
    "parts": (IN_PARTS, ("part.safetensors", INDEX)),
    "mlx": (MLX, (WEIGHTS, "config.json", "tokenizer_config.json")),
}
"""The files of models that are folders, and those of them that are damaged here."""
BESIDE: dict[str, dict[str, bytes]] = {}
"""For a file of a folder, all files of that folder."""
for folder, (files, read_files) in FOLDERS.items():
    for name in read_files:
        FILES[f"{folder}/{name}"] = (files[name], lambda path: open_and_read(path.parent))
        BESIDE[f"{folder}/{name}"] = files

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


def placed(name: str, folder: Path) -> Path:
    """The valid file of a kind, with the files that belong beside it."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    for other, content in BESIDE.get(name, {}).items():
        (path.parent / other).write_bytes(content)
    path.write_bytes(FILES[name][0])
    return path


@pytest.mark.parametrize("examples", [40, pytest.param(2000, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_is_taken_or_refused(
    name: str, examples: int, tmp_path: Path, table: Table
) -> None:
    content, loader = FILES[name]
    path = placed(name, tmp_path)
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


# Models of other programs whose descriptions lie


def gguf_value(value: Any) -> bytes:
    """A value of metadata with its type before it."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<IQ", 10, value % 2**64)
        case float():
            return struct.pack("<Id", 12, value)
        case str():
            return struct.pack("<IQ", 8, len(value.encode())) + value.encode()
        case _:
            items = [gguf_value(item) for item in value]
            kind = items[0][:4] if items else struct.pack("<I", 4)
            same = [item[4:] for item in items if item[:4] == kind]
            return struct.pack("<I", 9) + kind + struct.pack("<Q", len(same)) + b"".join(same)


def gguf_with(metadata: Mapping[str, Any]) -> bytes:
    """A GGUF file with other metadata and the tensors of the valid one."""
    head = b"".join(gguf_value(key)[4:] + gguf_value(value) for key, value in metadata.items())
    described = b"".join(
        gguf_value(t.name)[4:]
        + struct.pack("<I", len(t.shape))
        + b"".join(struct.pack("<Q", n) for n in reversed(t.shape))
        + struct.pack("<IQ", GGUF_CODES[t.kind], t.offset - GGUF_DATA)
        for t in GGUF.tensors.values()
    )
    start = b"GGUF" + struct.pack("<IQQ", 3, len(GGUF.tensors), len(metadata)) + head + described
    return start + b"\0" * (-len(start) % 32) + FILES["model.gguf"][0][GGUF_DATA:]


def _read_gguf() -> GGUFFile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(FILES["model.gguf"][0])
        return read_gguf(path)


GGUF = _read_gguf()
GGUF_DATA = min(tensor.offset for tensor in GGUF.tensors.values())
GGUF_CODES = {kind: code for code, (kind, _, _) in TENSOR_TYPES.items()}
GGUF_METADATA = {
    key: value.tolist() if isinstance(value, np.ndarray) else value
    for key, value in GGUF.metadata.items()
}
MORE_METADATA = {
    "qwen3.expert_count": 0,
    "qwen3.attention.sliding_window": 0,
    "qwen3.rope.scaling.type": "none",
    "general.alignment": 32,
    "tokenizer.ggml.scores": [0.0] * 270,
    "tokenizer.ggml.add_space_prefix": True,
    "tokenizer.ggml.unknown_token_id": 0,
}
odd_metadata = odd.filter(lambda value: value is not None and value != {} and value != {"a": 1})
odd_metadata |= st.sampled_from(
    [
        "llama",
        "gpt2",
        "qwen2",
        [0.0] * 270,
        ["a"] * 270,
        [6] * 270,
        [True],
        [-1],
        math.nan,
        ["[" * 300],
    ]
)


@pytest.mark.parametrize("examples", [150, pytest.param(3000, marks=pytest.mark.faults)])
def test_metadata_that_lie_are_refused(examples: int, tmp_path: Path, table: Table) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_with(GGUF_METADATA))
    assert refused_or_taken(open_and_read, path)
    keys = st.sampled_from([*GGUF_METADATA, *MORE_METADATA])

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.dictionaries(keys, odd_metadata, min_size=1, max_size=3), st.booleans())
    def load_it(changes: dict[str, Any], more: bool) -> None:
        path.write_bytes(gguf_with({**GGUF_METADATA, **(MORE_METADATA if more else {}), **changes}))
        refused_or_taken(open_and_read, path)

    load_it()
    table.row(METADATA, tries=examples, lost=NOTHING, result="taken, or refused in a line")


def described_places(files: dict[str, bytes], name: str) -> list[tuple[Any, ...]]:
    """The places in a JSON file, or in the header of a file of weights."""
    content = files[name]
    value = safetensors_header(content) if name.endswith("safetensors") else json.loads(content)
    return [(name, *place) for place in places(value)]


def edited(content: bytes, name: str, changes: Mapping[Place, Any], gone: bool) -> bytes:
    """A JSON file, or a file of weights, whose description has other values in some places."""
    if not name.endswith("safetensors"):
        return json.dumps(changed(json.loads(content), changes, gone)).encode()
    header = json.dumps(changed(safetensors_header(content), changes, gone)).encode()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    return struct.pack("<Q", len(header)) + header + data


DESCRIPTIONS = {
    folder: [place for name in names for place in described_places(files, name)]
    for folder, (files, names) in {
        "huggingface": (HUGGINGFACE, (WEIGHTS, "config.json", "homespun.json")),
        "parts": (IN_PARTS, (INDEX,)),
        "mlx": (MLX, (WEIGHTS, "config.json", "tokenizer_config.json")),
    }.items()
}
odd_description = odd | st.sampled_from(
    [0.0, 1.0, math.nan, math.inf, -math.inf, 10**400, 1 << 40, [0, 1 << 45], [1 << 40], "F32", "U32", "BOOL",
     "../part.safetensors", "/etc/passwd", "part.safetensors", "..", {"group_size": 0, "bits": 8}, {"type": "yarn"}]
)  # fmt: skip


@pytest.mark.parametrize("examples", [150, pytest.param(3000, marks=pytest.mark.faults)])
@pytest.mark.parametrize("folder", DESCRIPTIONS)
def test_a_description_that_lies_is_refused(
    folder: str, examples: int, tmp_path: Path, table: Table
) -> None:
    files, _ = FOLDERS[folder]
    path = tmp_path / folder
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)

    def read_folder(file: Path) -> None:
        open_and_read(file.parent)

    assert refused_or_taken(read_folder, path / "config.json")
    where = st.sampled_from(DESCRIPTIONS[folder])

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.dictionaries(where, odd_description, min_size=1, max_size=3), st.booleans())
    def load_it(changes: dict[tuple[Any, ...], Any], gone: bool) -> None:
        names = {name for name, *_ in changes}
        for name in names:
            of_file = {place[1:]: value for place, value in changes.items() if place[0] == name}
            (path / name).write_bytes(edited(files[name], name, of_file, gone))
        refused_or_taken(read_folder, path / "config.json")
        for name in names:
            (path / name).write_bytes(files[name])

    load_it()
    tries = examples * len(DESCRIPTIONS)
    table.row(DESCRIPTION, tries=tries, lost=NOTHING, result="taken, or refused in a line")


def test_an_import_that_is_refused_writes_nothing(tmp_path: Path, table: Table) -> None:
    """Each file of a model is cut, in turn, and the folder of an earlier run is there."""
    output, tries = tmp_path / "run", 0
    output.mkdir()
    (output / "kept.txt").write_text("kept")
    for name in {*BESIDE, "model.gguf"} - {"mlx/tokenizer_config.json"}:  # which is not needed
        content = FILES[name][0]
        for end in range(0, len(content) - 1, len(content) // 20):
            path = placed(name, tmp_path)
            path.write_bytes(content[:end])
            source = path if name == "model.gguf" else path.parent
            with pytest.raises(UserError) as refused:
                import_model(ImportConfig(source=str(source), output=str(output)), print)
            assert "\n" not in str(refused.value)
            assert [entry.name for entry in output.iterdir()] == ["kept.txt"]
            assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("run.")]
            tries += 1
    table.row(IMPORTS, tries=tries, lost=NOTHING, result="refused in a line; nothing written")


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
            path = placed(name, tmp_path)
            path.unlink()
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
