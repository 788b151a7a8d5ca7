"""A Hugging Face folder flows in, a stored model flows out, and back: `transformers` reads and writes such folders."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.architectures.base import Part
from homespun.architectures.families import family, parameters
from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.model_formats.config_file import CONFIG
from homespun.model_formats.model_card import model_card
from homespun.model_formats.numbers import in_precision
from homespun.model_formats.parts import joined, part_shape
from homespun.model_formats.safetensors_file import Described, write
from homespun.model_formats.stored_model import StoredModel, in_order, other_facts
from homespun.model_formats.tokenizer_files import turn_end, write_tokenizer
from homespun.model_formats.weights_folder import (
    FACTS,
    WEIGHTS,
    WeightsFolder,
    read_tensor,
)

PRECISIONS = ("float32", "float16", "bfloat16")
GENERATION = "generation_config.json"
CARD = "README.md"

HEAD = "lm_head.weight"


def read(folder: WeightsFolder) -> StoredModel:
    """The model in a folder.

    Raises:
        UserError: tensors or the tokenizer do not fit the model.
    """
    kind = family(folder.config.architecture)
    expected = {p.name: p for p in parameters(folder.config)}
    found, shapes = {}, {}
    for stored_name, entry in folder.entries.items():
        name = kind.canonical_name(stored_name)
        if name is None or (name == HEAD and HEAD not in expected and _is_tied_copy(folder)):
            continue
        if name in found:
            raise UserError(f"{folder.path}: {name} occurs twice: get the files again")
        turned = kind.is_transposed(name)
        found[name], shapes[name] = entry, entry.shape[::-1] if turned else entry.shape
    layout = {
        p.name: [Part(p.name)] if p.name in found else kind.huggingface_parts(p)
        for p in expected.values()
    }
    stated = {
        part.name: part_shape(expected[name], part)
        for name, parts in layout.items()
        for part in parts
    }
    folder.check(shapes, stated)
    reads = {
        name: read_tensor(entry, name, transposed=kind.is_transposed(name))
        for name, entry in found.items()
    }
    return folder.stored_model(
        {name: joined(expected[name], parts, reads) for name, parts in layout.items()}
    )


def _is_tied_copy(folder: WeightsFolder) -> bool:
    """Whether the head is stored although it is the embedding.

    Raises:
        UserError: it differs from the embedding.
    """
    kind = family(folder.config.architecture)
    embedding = parameters(folder.config)[0].name
    for name, entry in folder.entries.items():
        if kind.canonical_name(name) == embedding:
            head = folder.entries[HEAD]
            if head.shape == entry.shape and np.array_equal(head.read(), entry.read()):
                return True
    raise UserError(
        f"{folder.path}: {HEAD} differs from the embedding, although {CONFIG} says that they are one: "
        "correct tie_word_embeddings there"
    )


def write_folder(model: StoredModel, folder: Path, precision: str) -> None:
    """Write a model into an empty folder.

    Args:
        model: the model.
        folder: the folder, which exists.
        precision: one of `PRECISIONS`.

    Raises:
        OSError: the folder cannot be written.
        OverflowError: a number is too large for the precision.
    """
    config, kind = model.config, family(model.config.architecture)
    expected = {p.name: p for p in parameters(config)}
    layout = {name: kind.huggingface_parts(p) for name, p in expected.items()}
    described = {}
    for name, parts in layout.items():
        for part in parts:
            shape = part_shape(expected[name], part)
            described[part.name] = Described(
                shape[::-1] if kind.is_transposed(name) else shape, precision
            )

    def arrays() -> Iterator[npt.NDArray[Any]]:
        for name, values in in_order(model, list(expected)):
            stored = in_precision(np.asarray(values, np.float32), precision)
            for part in layout[name]:
                yield stored.T if kind.is_transposed(name) else stored[part.place]

    write(folder / WEIGHTS, described, arrays())
    write_description(model, folder, {"dtype": precision})
    durable.write_text(folder / CARD, model_card(model, precision))


def write_description(model: StoredModel, folder: Path, values: dict[str, Any]) -> None:
    """Write everything but the weights: shape, settings of generation, tokenizer, and the facts of the training.

    Args:
        values: more entries of `config.json`.
    """
    kind = family(model.config.architecture)
    mark, end = model.tokenizer.eot_id, turn_end(model)
    ids = {"bos_token_id": mark, "eos_token_id": mark if end == mark else [end, mark]}
    write_object(folder / CONFIG, kind.huggingface_config(model.config) | ids | values)
    drawn = {"temperature": SamplingConfig.temperature, "min_p": SamplingConfig.min_p}
    write_object(folder / GENERATION, ids | {"do_sample": True} | drawn)
    write_object(folder / FACTS, {"step": model.step, "header": other_facts(model)})
    write_tokenizer(model, folder)


def write_object(path: Path, content: dict[str, Any]) -> None:
    durable.write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
