"""Models of other programs whose descriptions lie are taken or refused in a line."""

import json
import math
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.model_formats.gguf_file import TENSOR_TYPES, GGUFFile, read_gguf
from homespun.model_formats.weights_folder import INDEX, WEIGHTS
from tests.faults.foreign_files import (
    FILES,
    FOLDERS,
    HUGGINGFACE,
    IN_PARTS,
    MLX,
    TITLE,
    Place,
    changed,
    odd,
    open_and_read,
    places,
    refused_or_taken,
    safetensors_header,
)
from tests.faults.runs import NOTHING
from tests.faults.table import Table

__all__ = ["TITLE"]

METADATA = "a GGUF file whose metadata lie"
DESCRIPTION = (
    "a folder of another program whose config, index, weights or quantisation are described falsely"
)


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
