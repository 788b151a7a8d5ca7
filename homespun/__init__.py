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
    TuneConfig,
)
from homespun.errors import UserError

if TYPE_CHECKING:
    from homespun.api import download, evaluate, plan, train, train_tokenizer, tune
    from homespun.data.samples import TextDataset
    from homespun.evaluation.evaluate import EvalResult
    from homespun.forecast import Forecast
    from homespun.language_model import LanguageModel, load
    from homespun.records.events import StopRun, TrainResult
    from homespun.tokenizer import Tokenizer
    from homespun.tuning.result import TuneResult

__version__ = "0.1.0"

__all__ = [
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
    "TuneConfig",
    "TuneResult",
    "UserError",
    "download",
    "evaluate",
    "load",
    "plan",
    "train",
    "train_tokenizer",
    "tune",
]

_HOMES = {
    "EvalResult": "homespun.evaluation.evaluate",
    "Forecast": "homespun.forecast",
    "LanguageModel": "homespun.language_model",
    "StopRun": "homespun.records.events",
    "TextDataset": "homespun.data.samples",
    "Tokenizer": "homespun.tokenizer",
    "TrainResult": "homespun.records.events",
    "TuneResult": "homespun.tuning.result",
    "download": "homespun.api",
    "evaluate": "homespun.api",
    "load": "homespun.language_model",
    "plan": "homespun.api",
    "train": "homespun.api",
    "train_tokenizer": "homespun.api",
    "tune": "homespun.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'homespun' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
