"""A valid file of each kind that is read flows out, with its loader, for tests that damage it or let it lie.

`refused_or_taken` is their check: a line, bounded memory, bounded time.
"""

import contextlib
import io
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import parquet

from homespun import durable
from homespun.architectures.families import initial_weights
from homespun.architectures.presets import preset, shaped
from homespun.checkpoint.archive import read_archive, write_archive
from homespun.config import TrainConfig
from homespun.config.toml_file import read_toml
from homespun.data.documents import documents
from homespun.data.known_tokenizers import origin
from homespun.data.shards import Header, open_shard, write_shard
from homespun.errors import UserError
from homespun.language_model import load
from homespun.model_formats import gguf, huggingface, mlx
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel
from homespun.model_formats.weights_folder import INDEX, WEIGHTS
from homespun.records.reading import read
from homespun.tokenizer import Tokenizer, train

TITLE = "Files from elsewhere"
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


def placed(name: str, folder: Path) -> Path:
    """The valid file of a kind, with the files that belong beside it."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    for other, content in BESIDE.get(name, {}).items():
        (path.parent / other).write_bytes(content)
    path.write_bytes(FILES[name][0])
    return path


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
