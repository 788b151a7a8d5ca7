"""Adapters of LoRA flow out as a folder that PEFT reads, and back, merged into the model that they belong to.

The folder holds no base. PEFT takes it from the place that `adapter_config.json` names, or from the caller.
"""

from pathlib import Path
from typing import Any

import numpy as np

from homespun.architectures.families import family
from homespun.architectures.lora import Lora, adapters, merged, short_names
from homespun.errors import UserError
from homespun.model_formats.config_file import read_json
from homespun.model_formats.huggingface import write_object
from homespun.model_formats.numbers import in_precision
from homespun.model_formats.safetensors_file import Described, read_entries, write
from homespun.model_formats.stored_model import StoredAdapters, StoredModel

PRECISIONS = ("float32", "float16", "bfloat16")
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def write_folder(model: StoredModel, folder: Path, precision: str) -> None:
    """Write the adapters of a model into an empty folder.

    Args:
        model: the model.
        folder: the folder, which exists.
        precision: one of `PRECISIONS`.

    Raises:
        UserError: the model has no adapters.
        OSError: the folder cannot be written.
        OverflowError: a number is too large for the precision.
    """
    stored = _adapters_of(model)
    names = _their_names(model, stored.lora)
    values = dict(stored.tensors())
    write(
        folder / WEIGHTS,
        {theirs: Described(values[ours].shape, precision) for ours, theirs in names.items()},
        (in_precision(values[ours].astype(np.float32), precision) for ours in names),
    )
    write_object(folder / CONFIG, _config(model, stored.lora))


def read(folder: Path, original: StoredModel) -> StoredModel:
    """The model that the adapters in a folder make of the base of another model.

    Raises:
        UserError: the folder is damaged, or holds other adapters.
    """
    stored, entries = _adapters_of(original), read_entries(folder / WEIGHTS)
    config = read_json(folder / CONFIG)
    lora = Lora(config["r"], config["lora_alpha"], tuple(config["target_modules"]))
    names = _their_names(original, lora)
    if set(names.values()) != entries.keys():
        raise UserError(f"{folder / WEIGHTS}: holds other adapters than {CONFIG} describes")
    values = {ours: entries[theirs].read_floats() for ours, theirs in names.items()}
    base = stored.base

    return StoredModel(
        folder,
        base.config,
        base.tokenizer,
        lambda: merged(base.tensors(), values, base.config, lora),
        {},
        chat_template=original.chat_template,
    )


def _adapters_of(model: StoredModel) -> StoredAdapters:
    """The adapters of a model.

    Raises:
        UserError: it has none.
    """
    if model.adapters is None:
        raise UserError(
            f"{model.path} holds a whole model and no adapters, which --to peft writes: "
            "train some with --lora-rank, or choose another format"
        )
    return model.adapters


def _their_names(model: StoredModel, lora: Lora) -> dict[str, str]:
    """The names of the parameters of the adapters in PEFT, by their names here."""
    names: dict[str, str] = {}
    for adapter in adapters(model.config, lora):
        layer = f"base_model.model.{adapter.layer}"
        names |= {
            adapter.a.name: f"{layer}.lora_A.weight",
            adapter.b.name: f"{layer}.lora_B.weight",
        }
    return names


def _config(model: StoredModel, lora: Lora) -> dict[str, Any]:
    kind = family(model.config.architecture)
    matrices = [adapter.matrix.name for adapter in adapters(model.config, lora)]
    requested = model.header.get("requested")
    source = requested.get("init_from") if isinstance(requested, dict) else None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": source,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "target_modules": short_names(model.config, lora),
        "fan_in_fan_out": any(kind.is_transposed(name) for name in matrices),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "inference_mode": True,
    }
