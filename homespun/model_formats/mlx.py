"""An MLX folder flows in, a stored model flows out, and back: mlx-lm reads and writes such folders.

It differs from a Hugging Face folder in some names, in matrices that are never transposed, and in weights that may be
quantised: groups of numbers in a row share a scale and a bias, and lie packed in 32-bit words.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.architectures.base import Family, Parameter, Part
from homespun.architectures.families import family, parameters
from homespun.config.checked import shown
from homespun.errors import UserError
from homespun.model_formats.huggingface import CARD, write_description
from homespun.model_formats.model_card import model_card
from homespun.model_formats.numbers import Floats, in_precision
from homespun.model_formats.parts import ReadTensor, joined, part_shape
from homespun.model_formats.safetensors_file import Described, Entry, write
from homespun.model_formats.stored_model import StoredModel, in_order
from homespun.model_formats.weights_folder import (
    WEIGHTS,
    WeightsFolder,
    read_tensor,
)

PRECISIONS = ("float32", "float16", "bfloat16", "int8")

QUANTIZATION = "quantization"
BITS = (2, 4, 8)
"""Bits whose numbers do not cross the words that hold them."""
GROUP = 32
"""Numbers that share a scale, in folders written here."""
SCALES_PRECISION = "float16"
"""Of the scales, and of all that is not quantised, beside 8-bit weights."""


def is_mlx(folder: WeightsFolder) -> bool:
    """Whether a folder has the names or the quantisation of mlx-lm and not those of Hugging Face."""
    kind = family(folder.config.architecture)
    names = {p.name for p in parameters(folder.config)}
    parts = [part for p in parameters(folder.config) for part in kind.merged_parts(p)]
    renamed = {kind.mlx_name(part.name) for part in parts} - names
    return QUANTIZATION in folder.values or bool(renamed & folder.entries.keys())


def read(folder: WeightsFolder) -> StoredModel:
    """The model in a folder; quantised weights become float32.

    Raises:
        UserError: tensors or the tokenizer do not fit the model, or another kind of quantisation.
    """
    kind = family(folder.config.architecture)
    layout = {p.name: _parts(kind, p) for p in parameters(folder.config)}
    reads: dict[str, ReadTensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    stated: dict[str, tuple[int, ...]] = {}
    used = set()
    for p in parameters(folder.config):
        for part in layout[p.name]:
            name = part.name
            stated[name] = part_shape(p, part)
            entry = folder.entries.get(name)
            if entry is None:
                continue
            used.add(name)
            stem = name.removesuffix(".weight")
            group, bits = _quantization(folder, stem)
            scales, biases = (folder.entries.get(f"{stem}.{kind}") for kind in ("scales", "biases"))
            if scales and biases and group:
                used |= {f"{stem}.scales", f"{stem}.biases"}
                shapes[name] = _shape(folder.path, name, entry, scales, biases, group, bits)
                reads[name] = _dequantised(entry, scales, biases, bits)
            else:
                shapes[name] = entry.shape
                reads[name] = read_tensor(entry, name, transposed=False)
    others = {name: folder.entries[name].shape for name in folder.entries.keys() - used}
    folder.check(shapes | others, stated)
    return folder.stored_model(
        {p.name: joined(p, layout[p.name], reads) for p in parameters(folder.config)}
    )


def _parts(kind: Family, p: Parameter) -> list[Part]:
    """The tensors of a parameter, under the names of mlx-lm."""
    return [part._replace(name=kind.mlx_name(part.name)) for part in kind.merged_parts(p)]


def _quantization(folder: WeightsFolder, stem: str) -> tuple[int, int]:
    """Group size and bits of a layer; zeros where nothing is quantised."""
    stated = folder.values.get(QUANTIZATION)
    if stated is None:
        return 0, 0
    if isinstance(stated, dict) and isinstance(stated.get(stem), dict):
        stated = stated[stem]  # mlx-lm quantises routers in a way of their own
    match stated:
        case {"group_size": int(group), "bits": int(bits)} if (
            group > 0 and bits in BITS and stated.get("mode", "affine") == "affine"
        ):
            return group, bits
    raise UserError(
        f"{folder.path}: its quantisation is {shown(stated)}: only groups with scales and biases of "
        f"{', '.join(map(str, BITS))} bits are supported"
    )


def _shape(
    path: Path, name: str, packed: Entry, scales: Entry, biases: Entry, group: int, bits: int
) -> tuple[int, ...]:
    """The shape of a quantised matrix.

    Raises:
        UserError: its parts do not fit each other.
    """
    if packed.dtype == "U32" and len(packed.shape) in (2, 3):
        rows, columns = packed.shape[:-1], packed.shape[-1] * (32 // bits)
        if scales.shape == biases.shape == (*rows, columns // group) and columns % group == 0:
            return *rows, columns
    raise UserError(f"{path}: the parts of {name} do not fit each other: get the files again")


def _dequantised(packed: Entry, scales: Entry, biases: Entry, bits: int) -> ReadTensor:
    def read() -> Floats:
        words, scale, bias = packed.read(), scales.read_floats(), biases.read_floats()
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        numbers = (words[..., None] >> shifts) & np.uint32(2**bits - 1)
        groups = numbers.reshape(*scale.shape, -1).astype(np.float32)
        with np.errstate(all="ignore"):  # a scale of a damaged file may be no number
            return (groups * scale[..., None] + bias[..., None]).reshape(*words.shape[:-1], -1)

    return read


def write_folder(model: StoredModel, folder: Path, precision: str) -> None:
    """Write a model into an empty folder.

    Args:
        model: the model.
        folder: the folder, which exists.
        precision: one of `PRECISIONS`.

    Raises:
        UserError: mlx-lm has no such model.
        OSError: the folder cannot be written.
        OverflowError: a number is too large for the precision.
    """
    config, kind = model.config, family(model.config.architecture)
    expected = parameters(config)
    kind.check_for_mlx(config)
    halves = precision == "int8"
    numbers = SCALES_PRECISION if halves else precision
    quantised = {p.name for p in expected if halves and _can_be_quantised(p, config.vocab_size)}
    described: dict[str, Described] = {}
    layout = {p.name: _parts(kind, p) for p in expected}
    for p in expected:
        for part in layout[p.name]:
            *rows, columns = shape = part_shape(p, part)
            if p.name in quantised:
                stem = part.name.removesuffix(".weight")
                described[part.name] = Described((*rows, columns // 4), "uint32")
                for more in ("scales", "biases"):
                    described[f"{stem}.{more}"] = Described((*rows, columns // GROUP), numbers)
            else:
                described[part.name] = Described(shape, numbers)

    def arrays() -> Iterator[npt.NDArray[Any]]:
        for name, tensor in in_order(model, [p.name for p in expected]):
            values = np.asarray(tensor, np.float32)
            for part in layout[name]:
                if name in quantised:
                    yield from _quantise(values[part.place])
                else:
                    yield in_precision(values[part.place], numbers)

    write(folder / WEIGHTS, described, arrays())
    values: Mapping[str, Any] = {"dtype": numbers}
    if halves:
        values = {**values, QUANTIZATION: {"group_size": GROUP, "bits": 8, "mode": "affine"}}
    write_description(model, folder, dict(values))
    durable.write_text(folder / CARD, model_card(model, precision))


def _can_be_quantised(p: Parameter, vocab_size: int) -> bool:
    """Matrices and the embedding of tokens; rows have to consist of whole groups."""
    of_tokens = p.group != "embedding" or p.shape[0] == vocab_size
    return len(p.shape) > 1 and of_tokens and not p.is_router and p.shape[-1] % GROUP == 0


def _quantise(values: Floats) -> Iterator[npt.NDArray[Any]]:
    """Packed words [..., out, in / 4], scales and biases [..., out, in / group]: value = scale * number + bias."""
    groups = values.reshape(*values.shape[:-1], -1, GROUP)
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    scale = in_precision((high - low) / 255, SCALES_PRECISION)
    bias = in_precision(low, SCALES_PRECISION)
    step = np.where(scale > 0, scale, 1).astype(np.float32)[..., None]
    numbers = np.rint((groups - bias.astype(np.float32)[..., None]) / step).clip(0, 255)
    yield numbers.astype(np.uint8).reshape(values.shape).view("<u4")
    yield scale
    yield bias
