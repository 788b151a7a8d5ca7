"""homespun: spin your own language model, from data to generation, on the machine you own.

Nothing heavy is loaded until it is used.
"""

from typing import TYPE_CHECKING, Any

from homespun.config import (
    DownloadConfig,
    EvalConfig,
    GenerateConfig,
    ModelConfig,
    SamplingConfig,
    TokenizerConfig,
    TrainConfig,
)
from homespun.errors import UserError

if TYPE_CHECKING:
    from homespun.api import download, evaluate, plan, train, train_tokenizer
    from homespun.data.samples import TextDataset
    from homespun.evaluation.choices import ChoicesResult
    from homespun.evaluation.evaluate import EvalResult
    from homespun.forecast import Forecast
    from homespun.language_model import LanguageModel, load
    from homespun.records.events import StopRun, TrainResult
    from homespun.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "ChoicesResult",
    "DownloadConfig",
    "EvalConfig",
    "EvalResult",
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
    "evaluate",
    "load",
    "plan",
    "train",
    "train_tokenizer",
]

_HOMES = {
    "ChoicesResult": "homespun.evaluation.choices",
    "EvalResult": "homespun.evaluation.evaluate",
    "Forecast": "homespun.forecast",
    "LanguageModel": "homespun.language_model",
    "StopRun": "homespun.records.events",
    "TextDataset": "homespun.data.samples",
    "Tokenizer": "homespun.tokenizer",
    "TrainResult": "homespun.records.events",
    "download": "homespun.api",
    "evaluate": "homespun.api",
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
