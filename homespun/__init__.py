"""homespun: spin your own language model, from data to generation, on the machine you own.

Nothing heavy is loaded until it is used.
"""

from typing import TYPE_CHECKING, Any

from homespun.config import (
    DownloadConfig,
    GenerateConfig,
    ModelConfig,
    SamplingConfig,
    TokenizerConfig,
    TrainConfig,
)
from homespun.errors import UserError

if TYPE_CHECKING:
    from homespun.api import download, plan, train, train_tokenizer
    from homespun.data.samples import TextDataset
    from homespun.language_model import LanguageModel, load
    from homespun.records.events import StopRun, TrainResult
    from homespun.tokenizer import Tokenizer
    from homespun.training.forecast import Forecast

__version__ = "0.1.0"

__all__ = [
    "DownloadConfig",
    "Forecast",
    "GenerateConfig",
    "LanguageModel",
    "ModelConfig",
    "SamplingConfig",
    "StopRun",
    "TextDataset",
    "Tokenizer",
    "TokenizerConfig",
    "TrainConfig",
    "TrainResult",
    "UserError",
    "download",
    "load",
    "plan",
    "train",
    "train_tokenizer",
]

_HOMES = {
    "Forecast": "homespun.training.forecast",
    "LanguageModel": "homespun.language_model",
    "StopRun": "homespun.records.events",
    "TextDataset": "homespun.data.samples",
    "Tokenizer": "homespun.tokenizer",
    "TrainResult": "homespun.records.events",
    "download": "homespun.api",
    "load": "homespun.language_model",
    "plan": "homespun.api",
    "train": "homespun.api",
    "train_tokenizer": "homespun.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'homespun' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
