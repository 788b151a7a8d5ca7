"""Models on the hub: downloaded, continued after an interruption, checked against their hashes, and imported."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from homespun.config import ImportConfig
from homespun.errors import UserError
from homespun.importing import import_model
from homespun.model_formats import huggingface
from homespun.model_formats.formats import open_model
from tests.data.hub import Hub
from tests.model_formats.conftest import small_config, small_model


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a small model; the working folder is empty."""
    folder = tmp_path / "original"
    folder.mkdir()
    huggingface.write_folder(small_model(small_config("llama")), folder, "float32")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def imported(lines: list[str] | None = None) -> Path:
    return import_model(ImportConfig("someone/small"), [].append if lines is None else lines.append)


def test_a_model_on_the_hub_is_downloaded_and_imported(files: dict[str, bytes], hub: Hub) -> None:
    hub.publish("someone/small", files)
    hub.fail("cut", at=10_000)
    folder = imported()
    assert folder == Path("small")
    original = dict(small_model(small_config("llama")).tensors())
    for name, values in open_model(folder).tensors():
        np.testing.assert_array_equal(values, original[name])
    assert not Path("small.download").exists()


def unfinished(content: bytes, whole: bytes) -> None:
    """Leave the beginning of the weights, as an interrupted download does."""
    etag = hashlib.sha256(whole).hexdigest()
    Path("small.download").mkdir()
    Path(f"small.download/model.safetensors.{etag[:40]}.partial").write_bytes(content)


def test_an_interrupted_download_is_continued(files: dict[str, bytes], hub: Hub) -> None:
    hub.publish("someone/small", files)
    weights = files["model.safetensors"]
    unfinished(weights[:100_000], weights)
    lines: list[str] = []
    imported(lines)
    assert lines[0].startswith("model.safetensors: continuing at")
    assert 100_000 in hub.ranges()


def test_damage_in_an_unfinished_download_is_found(files: dict[str, bytes], hub: Hub) -> None:
    hub.publish("someone/small", files)
    weights = files["model.safetensors"]
    begun = bytearray(weights[:100_000])
    begun[50_000] ^= 1
    unfinished(bytes(begun), weights)
    with pytest.raises(UserError, match="its hash differs"):
        imported()
    assert not Path("small").exists()
    imported()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "config.json", "tokenizer.json"], "pickled"),
        (["config.json", "tokenizer.json"], "no safetensors"),
        (["model.safetensors", "config.json"], "no tokenizer.json"),
        (["model.safetensors", "config.json", "tokenizer.json"], "config.json"),
    ],
)
def test_repositories_without_a_usable_model_are_refused(
    names: list[str], message: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.publish("someone/small", dict.fromkeys(names, b"{}"))
    with pytest.raises(UserError, match=message):
        imported()
    assert not Path("small").exists()


def test_a_name_that_nothing_has_is_refused(files: dict[str, bytes], hub: Hub) -> None:
    with pytest.raises(UserError, match="nor a model on the hub"):
        imported()
