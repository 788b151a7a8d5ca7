"""A tokenizer flows in, the files that `transformers` and mlx-lm read flow out."""

import json
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.model_formats.stored_model import StoredModel
from homespun.tokenizer import Tokenizer

SPECIFICATION = "tokenizer.json"
CONFIG = "tokenizer_config.json"


def write_tokenizer(model: StoredModel, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    A model that was trained here has seen the end-of-text token before every document. The files therefore put this
    token before a text, unless the tokenizer states already how texts begin.

    Raises:
        OSError: the folder cannot be written.
    """
    specification = json.loads(model.tokenizer.to_json())
    config = model.tokenizer.config() | {"model_max_length": model.config.seq_len}
    if begins_with_separator(model):
        specification["post_processor"] = _template(model.tokenizer, specification)
        config["add_bos_token"] = True
    durable.write(folder / SPECIFICATION, json.dumps(specification, ensure_ascii=False).encode())
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    durable.write(folder / CONFIG, text.encode())


def begins_with_separator(model: StoredModel) -> bool:
    """Whether other programs have to put the separator of documents before a text."""
    specification = json.loads(model.tokenizer.to_json())
    post_processor = specification.get("post_processor")
    return bool(model.step) and (post_processor is None or post_processor["type"] == "ByteLevel")


def separator_name(tokenizer: Tokenizer) -> str:
    """The spelling of the token that separates documents."""
    return str(tokenizer.config()["eos_token"])


def _template(tokenizer: Tokenizer, specification: dict[str, Any]) -> dict[str, Any]:
    """The separator and then the text, as the `tokenizers` library describes it."""
    name = separator_name(tokenizer)
    special = {"SpecialToken": {"id": name, "type_id": 0}}
    sequences = {n: {"Sequence": {"id": n, "type_id": int(n == "B")}} for n in ("A", "B")}
    return {
        "type": "TemplateProcessing",
        "single": [special, sequences["A"]],
        "pair": [special, sequences["A"], special, sequences["B"]],
        "special_tokens": {name: {"id": name, "ids": [tokenizer.eot_id], "tokens": [name]}},
    }
