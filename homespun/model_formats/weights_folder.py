"""A folder with `config.json`, safetensors and a tokenizer: the parts that Hugging Face and MLX folders share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.architectures.families import parameters
from homespun.config import ModelConfig
from homespun.errors import UserError
from homespun.model_formats.config_file import CONFIG, model_config_of, read_json
from homespun.model_formats.numbers import Floats
from homespun.model_formats.parts import ReadTensor
from homespun.model_formats.safetensors_file import FLOATS, Entry, read_entries
from homespun.model_formats.stored_model import StoredModel
from homespun.model_formats.tokenizer_files import read_chat_template
from homespun.named_array import NamedArray
from homespun.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FACTS = "homespun.json"
"""Facts about the training of a model, which other programs do not read."""
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class WeightsFolder:
    """A folder whose files are open, but whose tensors are still on disk."""

    path: Path
    values: dict[str, Any]
    """The content of `config.json`."""
    config: ModelConfig
    entries: dict[str, Entry]
    """The tensors of all files, by their names in the files."""

    def stored_model(self, tensors: Mapping[str, ReadTensor]) -> StoredModel:
        """The model, of which `tensors` has every parameter.

        Raises:
            UserError: the tokenizer is missing, or does not fit the model.
        """
        tokenizer = Tokenizer.load(self.path)
        if tokenizer.vocab_size > self.config.vocab_size:
            raise UserError(
                f"{self.path}: its tokenizer has {tokenizer.vocab_size:,} tokens, its model only "
                f"{self.config.vocab_size:,}: get the files again"
            )
        order = [p.name for p in parameters(self.config)]

        def read() -> Iterator[NamedArray]:
            for name in order:
                yield name, tensors[name]()

        header, step = _facts(self.path)
        template = read_chat_template(self.path, tokenizer)
        return StoredModel(
            self.path, self.config, tokenizer, read, header, step, chat_template=template
        )

    def check(
        self, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Compare the shapes of tensors with those that the model has, before memory is allocated for it.

        Args:
            found: shapes by name.
            expected: the same of the model.

        Raises:
            UserError: a tensor is missing or has another shape, or there are others.
        """
        for name, shape in expected.items():
            if name not in found:
                raise UserError(f"{self.path}: the weights {name} are missing: get the files again")
            if found[name] != shape:
                raise UserError(
                    f"{self.path}: {name} is {list(found[name])}, {CONFIG} describes {list(shape)}: "
                    "get the files again"
                )
        for name in found.keys() - expected.keys():
            raise UserError(f"{self.path}: models of this family have no {name}: not supported")


def open_folder(path: Path) -> WeightsFolder:
    """Read the description of a model, and of its tensors.

    Raises:
        UserError: a file is missing, damaged, or describes a model that is not supported.
    """
    values = read_json(path / CONFIG)
    config = model_config_of(path / CONFIG, values)
    entries: dict[str, Entry] = {}
    for file in _weight_files(path):
        entries |= read_entries(file)
    return WeightsFolder(path, values, config, entries)


def _weight_files(path: Path) -> list[Path]:
    """The files of weights.

    Raises:
        UserError: there are none, or only pickled ones.
    """
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    if (path / INDEX).exists():
        names = read_json(path / INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise UserError(f"{path / INDEX}: names no files: get it again")
        files = sorted({str(name) for name in names.values()})
        for name in files:
            if name != Path(name).name or not name.endswith(".safetensors"):
                raise UserError(f"{path / INDEX}: {name!r} is not a file of this folder")
            if not (path / name).is_file():
                raise UserError(f"{path / name}: this part of the weights is missing: get it again")
        return [path / name for name in files]
    if any((path / name).exists() for name in PICKLED):
        raise UserError(
            f"{path}: its weights are pickled, which can run any program: get the same model as safetensors"
        )
    raise UserError(f"{path}: there is no {WEIGHTS}: name another folder")


def read_tensor(entry: Entry, name: str, *, transposed: bool) -> ReadTensor:
    """A function that reads the numbers of a tensor.

    Raises:
        UserError: the tensor does not hold floating-point numbers.
    """
    if entry.dtype not in FLOATS:
        raise UserError(f"{entry.path}: {name} has numbers of type {entry.dtype}: not supported")

    def read() -> Floats:
        values = entry.read_floats()
        return values.T.copy() if transposed else values

    return read


def _facts(path: Path) -> tuple[dict[str, Any], int]:
    """Header and step of a model that was exported here; an empty header and 0 for others."""
    try:
        facts = durable.read_json(path / FACTS)
    except (OSError, durable.DamagedRecord):
        return {}, 0
    header, step = facts.get("header"), facts.get("step")
    return (header if isinstance(header, dict) else {}), (
        step if type(step) is int and step >= 0 else 0
    )
