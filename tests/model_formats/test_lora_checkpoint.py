"""A checkpoint of adapters reads as an ordinary model, as long as its base lies beside it."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homespun import exporting
from homespun.architectures.families import FAMILIES
from homespun.architectures.lora import Lora, adapter_parameters, merged
from homespun.checkpoint.archive import read_archive, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BASE, BEST
from homespun.config import ExportConfig, ImportConfig
from homespun.errors import UserError
from homespun.importing import import_model
from homespun.language_model import load
from homespun.model_formats import peft
from homespun.model_formats.checkpoint import from_checkpoint, lora_entry
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel, header_of
from homespun.verify import verify
from tests.model_formats.conftest import small_config, small_model
from tests.reference import Arrays

LORA = Lora(4, 6.0, ("attention",))
EACH = pytest.mark.parametrize("name", FAMILIES)


def adapters(model: StoredModel, lora: Lora = LORA) -> Arrays:
    rng = np.random.default_rng(1)
    return {
        p.name: 0.3 * rng.standard_normal(p.shape, np.float32)
        for p in adapter_parameters(model.config, lora)
    }


def saved(model: StoredModel, folder: Path, lora: Lora = LORA, **changes: Any) -> Path:
    """The folder of a run with LoRA after its fifth step."""
    folder.mkdir(exist_ok=True)
    run = CheckpointFolder(folder)
    sha256 = run.save_base(0, model.tensors(), header_of(model))
    header = header_of(model) | {"lora": lora_entry(lora, sha256) | changes}
    run.save_best(5, adapters(model, lora).items(), header)
    return folder


@EACH
def test_it_reads_as_the_merged_model(name: str, tmp_path: Path) -> None:
    model = small_model(small_config(name))
    stored = open_model(saved(model, tmp_path / "run"))
    found = dict(stored.tensors())
    expected = dict(merged(model.tensors(), adapters(model), model.config, LORA))
    assert list(found) == list(expected)
    for parameter, array in found.items():
        np.testing.assert_array_equal(array, expected[parameter])
    assert stored.adapters is not None
    assert stored.adapters.lora == LORA
    assert dict(stored.adapters.tensors()).keys() == adapters(model).keys()
    ids = np.arange(20)
    assert np.abs(load(tmp_path / "run")(ids) - load(tmp_path / "run" / BASE)(ids)).max() > 0.1


def test_what_is_saved_again_is_whole(tmp_path: Path) -> None:
    model = small_model(small_config("llama"))
    run = saved(model, tmp_path / "run")
    load(run).save_weights(tmp_path / "copy.npz")
    import_model(ImportConfig(source=str(run), output=str(tmp_path / "imported")), str)
    exporting.export_model(
        ExportConfig("huggingface", str(run), output=str(tmp_path / "exported")), str
    )
    expected = load(run)(np.arange(20))
    for copy in ("copy.npz", "imported", "exported"):
        np.testing.assert_array_equal(load(tmp_path / copy)(np.arange(20)), expected)
    assert open_model(tmp_path / "copy.npz").adapters is None


def test_a_missing_or_another_base_is_named(tmp_path: Path) -> None:
    model = small_model(small_config("llama"))
    run = saved(model, tmp_path / "run")
    alone = tmp_path / BEST[0]
    shutil.copy(run / BEST[0], alone)
    with pytest.raises(UserError, match=rf"{alone} holds adapters alone, and .*{BASE} is missing"):
        load(alone)
    with pytest.raises(UserError, match=f"{BASE} is missing"):
        list(verify(alone))
    another = dataclasses.replace(model, tensors=lambda: ((n, -a) for n, a in model.tensors()))
    CheckpointFolder(tmp_path).save_base(0, another.tensors(), header_of(model))
    with pytest.raises(UserError, match=f"holds adapters of another model than .*{BASE}"):
        load(alone)
    # A base that is itself made of adapters would have no end.
    shutil.copy(alone, tmp_path / BASE)
    with pytest.raises(UserError, match=f"holds adapters of another model than .*{BASE}"):
        load(alone)
    with pytest.raises(UserError):
        load(tmp_path / BASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 3},
        {"rank": 0},
        {"rank": 2**40},
        {"alpha": 0.0},
        {"alpha": "much"},
        {"targets": ["all"]},
        {"targets": ["nothing"]},
        {"targets": "attention"},
        {"targets": []},
        {"more": 1},
    ],
    ids=str,
)
def test_adapters_that_are_not_as_described_are_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    run = saved(small_model(small_config("llama")), tmp_path / "run", **changes)
    with pytest.raises(UserError):
        load(run)


@pytest.mark.parametrize("entry", [None, 3, [], {}, {"base_sha256": None}], ids=str)
def test_a_header_without_a_description_is_refused(entry: object, tmp_path: Path) -> None:
    model = small_model(small_config("llama"))
    run = saved(model, tmp_path / "run")
    write_archive(
        run / BEST[0], adapters(model).items(), header_of(model) | {"lora": entry}, step=5
    )
    with pytest.raises(UserError, match="holds adapters of another model"):
        load(run)


def test_verify_reads_the_base(tmp_path: Path) -> None:
    run = saved(small_model(small_config("llama")), tmp_path / "run")
    lines = list(verify(run))
    assert any(BASE in line and "whole" in line for line in lines)
    content = bytearray((run / BASE).read_bytes())
    content[len(content) // 2] ^= 1
    (run / BASE).write_bytes(content)
    with pytest.raises(UserError, match="1 of 2 cannot be used"):
        list(verify(run))
    with pytest.raises(UserError, match=f"{BASE} is damaged"):
        dict(open_model(run).tensors())
    (run / BASE).unlink()
    with pytest.raises(UserError, match="cannot be used"):
        list(verify(run))


@EACH
@pytest.mark.parametrize("lora", [LORA, Lora(8, 16.0)], ids=["attention", "all"])
def test_peft_files_come_back(name: str, lora: Lora, tmp_path: Path) -> None:
    run = saved(small_model(small_config(name)), tmp_path / "run", lora)
    said: list[str] = []
    exporting.export_model(
        ExportConfig("peft", str(run), output=str(tmp_path / "adapter")), said.append
    )
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert "Read back and compared" in said[0]
    described = json.loads((tmp_path / "adapter" / peft.CONFIG).read_text())
    assert (described["r"], described["lora_alpha"]) == (lora.rank, lora.alpha)
    assert described["fan_in_fan_out"] is (name == "gpt2")
    back = dict(peft.read(tmp_path / "adapter", open_model(run)).tensors())
    for parameter, array in open_model(run).tensors():
        np.testing.assert_array_equal(back[parameter], array)


def test_peft_takes_no_whole_model(tmp_path: Path) -> None:
    run = saved(small_model(small_config("llama")), tmp_path / "run")
    with pytest.raises(UserError, match=f"{BASE} holds a whole model and no adapters"):
        exporting.export_model(
            ExportConfig("peft", str(run / BASE), output=str(tmp_path / "adapter")), str
        )
    assert not (tmp_path / "adapter").exists()


def test_a_copy_with_swapped_adapters_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved(small_model(small_config("gpt2")), tmp_path / "run")
    usual = peft._their_names
    calls: list[int] = []

    def swapped(model: StoredModel, lora: Lora) -> dict[str, str]:
        calls.append(1)
        names = usual(model, lora)
        first, second = (f"transformer.h.{i}.attn.c_proj.lora_a" for i in (0, 1))
        if len(calls) == 1:
            names[first], names[second] = names[second], names[first]
        return names

    monkeypatch.setattr(peft, "_their_names", swapped)
    with pytest.raises(UserError, match="computes other numbers"):
        exporting.export_model(
            ExportConfig("peft", str(run), output=str(tmp_path / "adapter")), str
        )
    assert not (tmp_path / "adapter").exists()


def test_the_description_of_adapters_is_read_back(tmp_path: Path) -> None:
    model = small_model(small_config("qwen3"))
    archive = read_archive(saved(model, tmp_path / "run") / BEST[0])
    stored = from_checkpoint(archive)
    assert stored.step == 5
    assert "lora" not in stored.header
