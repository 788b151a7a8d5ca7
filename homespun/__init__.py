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
    from homespun.api import (
        download,
        evaluate,
        plan,
        reinforce,
        report,
        train,
        train_tokenizer,
        tune,
    )
    from homespun.data.samples import TextDataset
    from homespun.evaluation.choices import ChoicesResult
    from homespun.evaluation.evaluate import EvalResult
    from homespun.forecast.result import Forecast
    from homespun.language_model import LanguageModel, load
    from homespun.records.events import StopRun, TrainResult
    from homespun.steps.gradients import (
        accumulate_gradients,
        clip_gradients,
        compute_gradients,
        gradient_norm,
        reset_gradients,
    )
    from homespun.steps.new_model import new_model
    from homespun.steps.optimizer import AdamW
    from homespun.steps.schedule import cosine_schedule
    from homespun.steps.trainable_model import TrainableModel
    from homespun.tokenizer import Tokenizer
    from homespun.tuning.result import TuneResult

__version__ = "0.1.0"

__all__ = [
    "AdamW",
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
    "TrainableModel",
    "TuneConfig",
    "TuneResult",
    "UserError",
    "accumulate_gradients",
    "clip_gradients",
    "compute_gradients",
    "cosine_schedule",
    "download",
    "evaluate",
    "gradient_norm",
    "load",
    "new_model",
    "plan",
    "reinforce",
    "report",
    "reset_gradients",
    "train",
    "train_tokenizer",
    "tune",
]

_HOMES = {
    "AdamW": "homespun.steps.optimizer",
    "ChoicesResult": "homespun.evaluation.choices",
    "EvalResult": "homespun.evaluation.evaluate",
    "Forecast": "homespun.forecast.result",
    "LanguageModel": "homespun.language_model",
    "StopRun": "homespun.records.events",
    "TextDataset": "homespun.data.samples",
    "Tokenizer": "homespun.tokenizer",
    "TrainResult": "homespun.records.events",
    "TrainableModel": "homespun.steps.trainable_model",
    "accumulate_gradients": "homespun.steps.gradients",
    "clip_gradients": "homespun.steps.gradients",
    "compute_gradients": "homespun.steps.gradients",
    "cosine_schedule": "homespun.steps.schedule",
    "TuneResult": "homespun.tuning.result",
    "download": "homespun.api",
    "evaluate": "homespun.api",
    "gradient_norm": "homespun.steps.gradients",
    "load": "homespun.language_model",
    "new_model": "homespun.steps.new_model",
    "plan": "homespun.api",
    "reinforce": "homespun.api",
    "report": "homespun.api",
    "reset_gradients": "homespun.steps.gradients",
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
