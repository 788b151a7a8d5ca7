"""Folders of weights that are damaged, incomplete or malicious are refused in one line."""

import contextlib
import json
import math
import random
import struct
from pathlib import Path

import pytest

from homespun.errors import UserError
from homespun.model_formats import huggingface, mlx
from homespun.model_formats.formats import open_model
from homespun.model_formats.safetensors_file import read_entries
from tests.model_formats.conftest import small_config, small_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    huggingface.write_folder(small_model(small_config("llama")), tmp_path, "float32")
    return tmp_path


def with_header(path: Path, change: dict[str, object]) -> None:
    """Replace entries in the header of a safetensors file; None removes one."""
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + length]) | change
    text = json.dumps({name: entry for name, entry in header.items() if entry is not None}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


NORM = "model.norm.weight"
HUGE = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
ENTRIES = [
    {NORM: HUGE},
    {NORM: {"dtype": "F32", "shape": [64]}},
    {NORM: {"dtype": "F32", "shape": [-64], "data_offsets": [0, 256]}},
    {NORM: {"dtype": "F32", "shape": "64", "data_offsets": [0, 256]}},
    {NORM: {"dtype": "F8_E5M2", "shape": [256], "data_offsets": [0, 256]}},
    {NORM: [1, 2]},
    {NORM: None},
    {"other.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    {"a\nb": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    {NORM: {"dtype": "F\n32", "shape": [64], "data_offsets": [0, 256]}},
]


@pytest.mark.parametrize("change", ENTRIES, ids=range(len(ENTRIES)))
def test_a_header_that_lies_is_refused(change: dict[str, object], folder: Path) -> None:
    with_header(folder / "model.safetensors", change)
    with pytest.raises(UserError, match=str(folder)) as raised:
        open_model(folder)
    assert "\n" not in str(raised.value)


def test_offsets_that_are_no_integers_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    first = min(read_entries(path).values(), key=lambda entry: entry.offset)
    [name] = [name for name, entry in read_entries(path).items() if entry == first]
    end = 4 * math.prod(first.shape)
    for offsets in ([0.0, end], [False, end], [0, float(end)]):
        stated = {"dtype": "F32", "shape": first.shape, "data_offsets": offsets}
        with_header(path, {name: stated})
        with pytest.raises(UserError, match="a tensor is not described"):
            open_model(folder)


def test_a_header_longer_than_the_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 50) + path.read_bytes()[8:])
    with pytest.raises(UserError, match="longer than the file"):
        read_entries(path)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        open_model(folder)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/model.safetensors", "x.bin", "missing.safetensors"],
)
def test_an_index_names_only_files_of_its_folder(name: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {NORM: "part.safetensors", "x": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=str(folder)):
        open_model(folder)


@pytest.mark.parametrize("content", ["", "[", "[]", "[" * 100_000, "{}", '{"model_type": []}'])
def test_a_config_that_is_none_is_refused(content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=str(folder)):
        open_model(folder)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(missing: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=str(folder)):
        open_model(folder)


def test_facts_of_an_earlier_export_may_be_damaged(folder: Path) -> None:
    for content in ("", "[]", '{"step": -1}', '{"step": true, "header": 3}'):
        (folder / "homespun.json").write_text(content)
        assert open_model(folder).step == 0


@pytest.mark.parametrize("bits", [3, 8.0, "8", None, True, 10**9])
def test_other_quantisations_are_refused(bits: object, tmp_path: Path) -> None:
    mlx.write_folder(small_model(small_config("llama")), tmp_path, "int8")
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["quantization"]["bits"] = bits
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=str(tmp_path)):
        open_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_flipped_or_cut_file_is_refused_or_taken(name: str, folder: Path) -> None:
    path = folder / name
    good = path.read_bytes()
    generator = random.Random(0)
    for n in range(100):
        data = bytearray(good)
        if n % 3:
            data[generator.randrange(min(len(data), 4000))] ^= 1 << generator.randrange(8)
        else:
            del data[generator.randrange(len(data)) :]
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            for _ in open_model(folder).tensors():
                pass
