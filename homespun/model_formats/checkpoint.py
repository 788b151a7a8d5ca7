"""homespun's own format: an archive of weights with its header flows in, a stored model comes out.

An archive of a run with LoRA holds adapters alone. They are merged into the base beside it as it is read.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from homespun.architectures.base import Parameter
from homespun.architectures.families import model_config, parameters
from homespun.architectures.lora import Lora, adapter_parameters, merged
from homespun.checkpoint.archive import Archive, check_structure
from homespun.checkpoint.names import LORA
from homespun.checkpoint.opening import open_base
from homespun.checkpoint.stored_values import restored
from homespun.config import ModelConfig
from homespun.errors import UserError
from homespun.model_formats.stored_model import CHAT_TEMPLATE, StoredAdapters, StoredModel
from homespun.named_array import NamedArray
from homespun.tokenizer import Tokenizer

TOKENIZER_STRUCTURE = 1 << 16, 256
"""Characters of a tokenizer outside of its strings that are always allowed, and more for each token. A file has about
20 for each token, and twice as many for each of its merges."""


@dataclass(frozen=True)
class _StoredLora:
    """The entry `LORA` of a header."""

    rank: int
    alpha: float
    targets: list[str]
    base_sha256: str


def lora_entry(lora: Lora, base_sha256: str) -> dict[str, Any]:
    """The entry `LORA` of the header of adapters that belong to this base."""
    return dataclasses.asdict(_StoredLora(lora.rank, lora.alpha, list(lora.targets), base_sha256))


def from_checkpoint(archive: Archive) -> StoredModel:
    """The model in an archive of weights. All that the archive claims is compared with what it holds before it costs
    memory or time.

    Raises:
        UserError: the archive does not describe its model, or holds other tensors than it describes.
    """
    header, path = archive.header, archive.path
    try:
        config = model_config(header["model"])
        if base := open_base(archive):
            return _with_adapters(archive, from_checkpoint(base), config)
        _check_shapes(archive, config)
        text = restored(str, header["tokenizer"], "the tokenizer")
        fixed, per_token = TOKENIZER_STRUCTURE
        check_structure(text, fixed + per_token * config.vocab_size)
        template = _template(header)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not describe its model ({error}): name another file"
        ) from None
    tokenizer = Tokenizer.from_json(text, where=str(path))
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path} does not fit its own description: its tokenizer has {tokenizer.vocab_size:,} tokens, its model "
            f"{config.vocab_size:,}: name another file"
        )
    return StoredModel(
        path, config, tokenizer, archive.tensors, header, archive.step, chat_template=template
    )


def _template(header: dict[str, Any]) -> dict[str, str] | None:
    """The template of conversations in a header.

    Raises:
        ValueError: it has another type.
    """
    stored = header.get(CHAT_TEMPLATE)
    template = None if stored is None else restored(dict[str, str], stored, CHAT_TEMPLATE)
    if template is not None and "source" not in template:
        raise ValueError(f"{CHAT_TEMPLATE} has no source")
    return template


def _with_adapters(archive: Archive, base: StoredModel, config: ModelConfig) -> StoredModel:
    """The model that adapters and their base make.

    Raises:
        UserError: they do not fit each other.
        LookupError, ValueError: the header does not describe adapters.
    """
    if config != base.config:
        raise UserError(
            f"{archive.path} does not fit {base.path}, which has another shape: name another file"
        )
    stated = restored(_StoredLora, archive.header[LORA], LORA)
    lora = Lora(stated.rank, stated.alpha, tuple(stated.targets))
    _compare(archive, adapter_parameters(config, lora))

    def tensors() -> Iterator[NamedArray]:
        return merged(base.tensors(), dict(archive.tensors()), config, lora)

    header = {name: fact for name, fact in archive.header.items() if name != LORA}
    adapters = StoredAdapters(lora, base, archive.tensors)
    return StoredModel(
        archive.path,
        config,
        base.tokenizer,
        tensors,
        header,
        archive.step,
        adapters,
        _template(header),
    )


def _check_shapes(archive: Archive, config: ModelConfig) -> None:
    """Compare names and shapes before memory is allocated for the model that a file claims to hold.

    Raises:
        UserError: they differ.
    """
    wrong = f"{archive.path} does not fit its own description"
    if config.n_layers > len(archive.arrays):
        raise UserError(
            f"{wrong}: it has {len(archive.arrays):,} arrays for {config.n_layers:,} layers: name another file"
        )
    _compare(archive, parameters(config))


def _compare(archive: Archive, spec: Iterable[Parameter]) -> None:
    """Compare names and shapes in an archive with those of parameters.

    Raises:
        UserError: they differ.
    """
    wrong = f"{archive.path} does not fit its own description"
    expected = {p.name: p.shape for p in spec}
    found = {name: info.shape for name, info in archive.arrays.items()}
    for name in (*expected, *found):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{wrong}: {name} is {found.get(name)}, not {expected.get(name)}: name another file"
            )
