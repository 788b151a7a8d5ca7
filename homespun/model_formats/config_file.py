"""The `config.json` of a Hugging Face or MLX folder flows in, the shape of the model flows out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homespun.architectures.families import FAMILIES, family
from homespun.config import ModelConfig
from homespun.config.checked import shown
from homespun.errors import UserError

CONFIG = "config.json"
MAX_JSON = 100_000_000
"""Bytes. A longer file is no description of a model."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise UserError(f"{path}: too long to describe a model: name another folder")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): name another folder") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not readable as JSON: get it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object: get it again")
    return content


def model_config_of(path: Path, values: Mapping[str, Any]) -> ModelConfig:
    """The shape that a `config.json` describes.

    Args:
        path: the file, which begins messages.
        values: its content.

    Raises:
        UserError: a model that this project does not have, or an entry is missing.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            f"{path}: models of type {shown(kind)} are not supported: choose one of {', '.join(FAMILIES)}"
        )
    try:
        config = family(kind).from_huggingface_config(values)
        family(kind).check(config)
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing: get the file again") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{path}: does not describe a model ({error}): get it again") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config
