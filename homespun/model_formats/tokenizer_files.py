"""A tokenizer flows in, the files that `transformers` and mlx-lm read flow out."""

import contextlib
import json
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.errors import UserError
from homespun.model_formats.stored_model import StoredModel
from homespun.tokenizer import Tokenizer
from homespun.tokenizer.jinja import MAX_SOURCE

SPECIFICATION = "tokenizer.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
"""Where newer versions of `transformers` keep the template of conversations, instead of in the other file."""
NAMES = ("bos_token", "eos_token")
"""Special tokens that a template may name."""
DEFAULT = "default"
"""The name of the template that answers, where a file has several."""


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
    if model.chat_template is not None:
        names = {name: text for name, text in model.chat_template.items() if name in NAMES}
        config |= {"chat_template": model.chat_template["source"], **names}
    durable.write_text(folder / SPECIFICATION, json.dumps(specification, ensure_ascii=False))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    durable.write_text(folder / CONFIG, text)


def read_chat_template(folder: Path, tokenizer: Tokenizer) -> dict[str, str] | None:
    """The template of conversations in a folder, as `ChatTemplate.stored` gives it; None if there is none."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = {}
    config = config if isinstance(config, dict) else {}
    source = config.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = [one for one in source if isinstance(one, dict) and one.get("name") == DEFAULT]
        source = named[0].get("template") if named else None
    with (
        contextlib.suppress(OSError, UnicodeDecodeError),
        (folder / TEMPLATE).open(encoding="utf-8") as file,
    ):
        source = file.read(MAX_SOURCE + 1)  # a longer one is refused when it is used
    if not isinstance(source, str):
        return None
    names = {}
    for name in NAMES:
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in tokenizer.special_ids:
            names[name] = token
    return {"source": source, **names}


def turn_end(model: StoredModel) -> int:
    """The token that ends an answer; without a template that can be used, the separator of documents."""
    try:
        template = model.template()
    except UserError:
        template = None
    return template.end_id if template else model.tokenizer.eot_id


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
