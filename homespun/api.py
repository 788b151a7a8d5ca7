"""The public functions: what the command line does, from a script or a notebook."""

from pathlib import Path
from typing import Any

from homespun.config import (
    DownloadConfig,
    TokenizerConfig,
    TrainConfig,
)
from homespun.config.checked import replaced
from homespun.data.download import download as run_download
from homespun.data.train_tokenizer import train_tokenizer as run_tokenizer_training
from homespun.records.events import Listener, TrainResult
from homespun.terminal import say
from homespun.tokenizer import Tokenizer
from homespun.training.interrupts import Interrupts
from homespun.training.resume import requested
from homespun.training.train import train as run_training


def download(config: DownloadConfig | None = None, **settings: Any) -> Path:
    """Fetch a dataset into one text file, as `homespun download` does, and give its path.

    Args:
        config: the settings; `settings` replace some of them.

    Raises:
        UserError: no such data, no network, not allowed, or the file cannot be written.
    """
    return run_download(replaced(config or DownloadConfig(), settings), say)


def train_tokenizer(config: TokenizerConfig | None = None, **settings: Any) -> Tokenizer:
    """Train a tokenizer and write its folder, as `homespun tokenizer` does.

    Args:
        config: the settings; `settings` replace some of them.

    Raises:
        UserError: no data, or too little for the vocabulary, or the folder cannot be written.
    """
    return run_tokenizer_training(replaced(config or TokenizerConfig(), settings), say)


def train(
    config: TrainConfig | None = None, *, on_event: Listener | None = None, **settings: Any
) -> TrainResult:
    """Train a model, as `homespun train` does.

    Args:
        config: the settings; `settings` replace some of them. Without it, a resumed run keeps its own settings.
        on_event: is called with each event of the run (see `homespun.records.events`): steps, evaluations, samples,
            checkpoints, the end. When it raises `homespun.StopRun`, the step is finished and saved, the run ends, and
            `ended_by` names the reason. Any other exception is raised after the run has been saved.

    Raises:
        UserError: something that the user can fix: data, settings, folder, checkpoint.
        KeyboardInterrupt: a signal before the first step. After that, the step is finished and saved, and the result
            says so.
    """
    with Interrupts() as interrupts:
        wanted, checkpoint = requested(settings, say, config)
        return run_training(wanted, checkpoint, say, interrupts, on_event)
