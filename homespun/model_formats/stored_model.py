"""A trained model as a file describes it: shape, tokenizer, and tensors that are still on disk.

Every format turns its files into this. `language_model` loads it into an engine.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun.architectures.lora import Lora
from homespun.config import ModelConfig
from homespun.errors import UserError
from homespun.named_array import NamedArray
from homespun.tokenizer import ChatTemplate, Tokenizer

CHAT_TEMPLATE = "chat_template"
"""The entry of a header that holds the template of conversations."""


@dataclass(frozen=True)
class StoredModel:
    """A model on disk, with everything that is needed to run it."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    tensors: Callable[[], Iterator[NamedArray]]
    """Reads the weights, one array at a time, under the names and in the order of `architectures.parameters`."""
    header: dict[str, Any]
    """Facts that are kept when the model is saved again."""
    step: int = 0
    """Training steps behind the weights; 0 where the source does not say."""
    adapters: "StoredAdapters | None" = None
    """The adapters of LoRA that `tensors` merges into the weights."""
    chat_template: Mapping[str, str] | None = None
    """The template of conversations, as `ChatTemplate.stored` gives it; None for a model that only continues texts."""

    def template(self) -> ChatTemplate | None:
        """The template of conversations, if there is one.

        Raises:
            UserError: it cannot be used.
        """
        if self.chat_template is None:
            return None
        try:
            return ChatTemplate.from_stored(self.chat_template, self.tokenizer)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


@dataclass(frozen=True)
class StoredAdapters:
    """Adapters on disk, and the model that they belong to."""

    lora: Lora
    base: StoredModel
    tensors: Callable[[], Iterator[NamedArray]]
    """Reads the parameters of the adapters."""


def in_order(model: StoredModel, names: list[str]) -> Iterator[NamedArray]:
    """The tensors of a model, which are stored in the order of `names`.

    Raises:
        UserError: they are stored in another order.
    """
    for expected, (name, values) in zip(names, model.tensors(), strict=True):
        if name != expected:
            raise UserError(f"{model.path}: {name} is stored where {expected} belongs")
        yield name, values


def header_of(model: StoredModel) -> dict[str, Any]:
    """The header of a checkpoint of this model: shape and tokenizer, and its other facts."""
    described: dict[str, Any] = {
        "model": dataclasses.asdict(model.config),
        "tokenizer": model.tokenizer.to_json(),
        "tokenizer_sha256": model.tokenizer.sha256,
    }
    if model.chat_template is not None:
        described[CHAT_TEMPLATE] = dict(model.chat_template)
    return described | {name: fact for name, fact in model.header.items() if name not in described}


def other_facts(model: StoredModel) -> dict[str, Any]:
    """The facts in a header that neither shape nor tokenizer state."""
    described = header_of(dataclasses.replace(model, header={}))
    return {name: fact for name, fact in model.header.items() if name not in described}


def learned_texts(model: StoredModel) -> list[str]:
    """Hashes of the texts that a model has learned from, as far as it is known, the last one at the end."""
    earlier, last = model.header.get("learned_before"), model.header.get("data_sha256")
    known = [*(earlier if isinstance(earlier, list) else []), last]
    return [sha256 for sha256 in known if isinstance(sha256, str)]
