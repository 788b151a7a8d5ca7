"""The public functions: what the command line does, from a script or a notebook."""

import dataclasses
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from homespun.checkpoint.names import METRICS
from homespun.config import (
    QUESTIONS,
    DownloadConfig,
    EvalConfig,
    PlanConfig,
    ReportConfig,
    TokenizerConfig,
    TrainConfig,
    TuneConfig,
)
from homespun.config.checked import checked, settings_of, shown, takes_settings_of
from homespun.data.download import download as run_download
from homespun.data.train_tokenizer import train_tokenizer as run_tokenizer_training
from homespun.errors import UserError
from homespun.evaluation.choices import ChoicesResult, evaluate_choices
from homespun.evaluation.evaluate import EvalResult
from homespun.evaluation.evaluate import evaluate as run_evaluation
from homespun.evaluation.questions import QuestionsResult, evaluate_questions
from homespun.forecast.forecast import forecast
from homespun.forecast.result import Forecast
from homespun.records.events import Listener, TrainResult
from homespun.records.reading import read_whole
from homespun.reporting.report import write_report
from homespun.terminal import occupy_standard_descriptors, say, silence
from homespun.tokenizer import Tokenizer
from homespun.training.interrupts import Interrupts, StoppedInSetUp
from homespun.training.reinforcement.rewards import Reward
from homespun.training.train import train as run_training
from homespun.tuning.result import TuneResult
from homespun.tuning.space import from_python
from homespun.tuning.tune import tune as run_tune

PathLike = str | os.PathLike[str]


@takes_settings_of(DownloadConfig)
def download(config: DownloadConfig | None = None, **settings: Any) -> Path:
    """Fetch a dataset into one text file, as `homespun download` does, and give its path.

    Args:
        config: the settings; `settings` replace some of them.

    Raises:
        UserError: no such data, no network, not allowed, or the file cannot be written.
    """
    occupy_standard_descriptors()
    return run_download(settings_of(DownloadConfig, config, settings), say)


@takes_settings_of(TokenizerConfig)
def train_tokenizer(config: TokenizerConfig | None = None, **settings: Any) -> Tokenizer:
    """Train a tokenizer and write its folder, as `homespun tokenizer` does.

    Args:
        config: the settings; `settings` replace some of them.

    Raises:
        UserError: no data, or too little for the vocabulary, or the folder cannot be written.
    """
    occupy_standard_descriptors()
    return run_tokenizer_training(settings_of(TokenizerConfig, config, settings), say)


@takes_settings_of(TrainConfig)
def train(
    config: TrainConfig | None = None,
    *,
    on_event: Listener | None = None,
    quiet: bool = False,
    **settings: Any,
) -> TrainResult:
    """Train a model, as `homespun train` does.

    Args:
        config: the settings; `settings` replace some of them. Without it, a resumed run keeps its own settings.
        on_event: is called with each event of the run (see `homespun.records.events`): steps, evaluations, samples,
            checkpoints, the end. When it raises `homespun.StopRun`, the step is finished and saved, the run ends, and
            `ended_by` names the reason. Any other exception is raised after the run has been saved.
        quiet: print nothing. The records of the result have everything that is usually printed.

    Raises:
        UserError: something that the user can fix: data, settings, folder, checkpoint.
        KeyboardInterrupt: Ctrl-C was pressed, and the run has been saved, unless it was before the first step. At a
            second Ctrl-C, it has not.
    """
    return _trained(settings, on_event, quiet, config)


@takes_settings_of(TrainConfig)
def reinforce(
    model: PathLike | None = None,
    *,
    reward: str | Reward | None = None,
    config: TrainConfig | None = None,
    on_event: Listener | None = None,
    quiet: bool = False,
    **settings: Any,
) -> TrainResult:
    """Let a model answer prompts, score its answers, and make good ones likelier, as `homespun reinforce` does.

    Args:
        model: the model to improve. Without it, a run is resumed.
        reward: a function `reward(prompt, answers) -> scores`, or a name as in `homespun reinforce --reward`; by
            default that of a resumed run, and `questions` for a new one. A prompt has `messages`, which end with the
            question, and the other fields of its record; the scores are a finite number for each answer, the higher
            the better.
        config: the settings; `settings` replace some of them: data_file, max_steps, group_size, ...
        on_event: as for `train`.
        quiet: as for `train`.

    Raises:
        UserError: something that the user can fix; a reward that fails, too. The last checkpoint is intact.
        KeyboardInterrupt: as `train`.
    """
    if reward is None and settings_of(TrainConfig, config, settings).resume == TrainConfig.resume:
        reward = (config and config.reward) or QUESTIONS
    if not (reward is None or isinstance(reward, str) or callable(reward)):
        raise UserError(f"reward is {shown(reward)}: a function or the name of one is expected")
    function = None if isinstance(reward, str) else reward
    if function is not None:
        name = getattr(function, "__qualname__", type(function).__name__)
        settings["reward"] = f"{getattr(function, '__module__', 'reward')}:{name}"
    elif reward is not None:
        settings["reward"] = reward
    if model is not None:
        settings["init_from"] = os.fspath(model)
    return _trained(settings, on_event, quiet, config, function)


def _trained(
    settings: dict[str, Any],
    on_event: Listener | None,
    quiet: bool,
    config: TrainConfig | None,
    reward: Reward | None = None,
) -> TrainResult:
    """A run from Python; raises as `train`."""
    occupy_standard_descriptors()
    if on_event is not None and not callable(on_event):
        raise UserError(f"on_event is {shown(on_event)}: a function is expected")
    if settings_of(TrainConfig, config, settings).dry_run:
        raise UserError("--dry-run trains nothing: call homespun.plan instead")
    try:
        with silence(checked("quiet", quiet, bool)), Interrupts() as interrupts:
            result = run_training(settings, say, interrupts, on_event, config, reward)
    except StoppedInSetUp as stop:
        signal.raise_signal(stop.number)
        raise
    if result.stopped_by in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The signal was meant for the whole program, which may be a sweep of many runs.
        signal.raise_signal(result.stopped_by)
    return dataclasses.replace(result, records=read_whole(result.checkpoint_dir / METRICS))


def report(runs: PathLike | Sequence[PathLike], output: PathLike | None = None) -> Path:
    """Write an HTML page about one or several runs, as `homespun report` does, and give its path.

    Args:
        runs: the folder of a run, or several.
        output: the file. Without it, `report.html` in the folder of the run, or in the current folder for several.

    Raises:
        UserError: there is no such run, or the page cannot be written.
    """
    named = [runs] if isinstance(runs, str | os.PathLike) else runs
    config = ReportConfig(runs=tuple(named), output=output)  # type: ignore[arg-type]
    page = Path(config.output) if config.output else None
    return write_report([Path(run) for run in config.runs], page)


@overload
def evaluate(
    config: EvalConfig | None = None,
    *,
    choices: None = None,
    questions: None = None,
    **settings: Any,
) -> list[EvalResult]: ...
@overload
def evaluate(
    config: EvalConfig | None = None,
    *,
    choices: str | Path,
    questions: None = None,
    **settings: Any,
) -> list[ChoicesResult]: ...
@overload
def evaluate(
    config: EvalConfig | None = None,
    *,
    choices: None = None,
    questions: str | Path,
    **settings: Any,
) -> list[QuestionsResult]: ...
@takes_settings_of(EvalConfig)
def evaluate(
    config: EvalConfig | None = None,
    *,
    choices: str | Path | None = None,
    questions: str | Path | None = None,
    **settings: Any,
) -> list[EvalResult] | list[ChoicesResult] | list[QuestionsResult]:
    """Score a text with one or more models, as `homespun eval` does: a result for each model, in their order.

    Args:
        config: the settings; `settings` replace some of them: models, data_file, stride, ...
        choices: compare pairs of texts instead, as `homespun eval --choices`: a file of pairs, or "stories" for those
            of the built-in stories. The results are then of type `ChoicesResult`.
        questions: count exact answers instead, as `homespun eval --questions`: a file of conversations, or "stories"
            for questions about unseen built-in stories. The results are then of type `QuestionsResult`.

    Raises:
        UserError: a model or the text cannot be read, a setting does not fit a model, or memory does not suffice.
    """
    occupy_standard_descriptors()
    tests = {"choices": choices, "questions": questions}
    given = settings | {name: file for name, file in tests.items() if file is not None}
    chosen = settings_of(EvalConfig, config, given)
    if chosen.questions is not None:
        return list(evaluate_questions(chosen, say))
    if chosen.choices is not None:
        return list(evaluate_choices(chosen, say))
    return list(run_evaluation(chosen, say))


@takes_settings_of(TrainConfig)
def plan(
    config: TrainConfig | None = None,
    *,
    machine: str | None = None,
    ranks: int | None = None,
    interconnect: float | None = None,
    **settings: Any,
) -> Forecast:
    """Estimate the cost and the loss of a run with these settings, as `homespun plan` does; nothing is written.

    Args:
        config: the settings; `settings` replace some of them.
        machine: plan for another machine by its data sheet, such as "M1 Max 32GB".
        ranks: plan for so many GPUs or machines that train together.
        interconnect: the speed at which each of them sends to the others, in GB/s.

    Raises:
        UserError: something that the user can fix: data, settings, checkpoint, or the name of the machine.
    """
    occupy_standard_descriptors()
    own = PlanConfig(machine=machine, ranks=ranks, interconnect=interconnect)
    return forecast(settings, say, config, own.machine, own.ranks, own.interconnect)


@takes_settings_of(TuneConfig)
def tune(
    space: Mapping[str, Any] | None = None,
    config: TuneConfig | None = None,
    *,
    quiet: bool = False,
    **settings: Any,
) -> TuneResult:
    """Search for better settings than those of the recipe, as `homespun tune` does. Each trial has its own process.

    Args:
        space: the settings to vary, by name: a list of values, or a tuple with the ends of a range and, if wanted,
            "log": `{"learning_rate": (1e-4, 6e-4, "log"), "batch_size": [8, 16, 32]}`. None: as `search` says.
        config: the settings; `settings` replace some of them.
        quiet: print nothing.

    Raises:
        UserError: something that the user can fix: data, settings, folder, or Optuna is not installed.
        KeyboardInterrupt: Ctrl-C was pressed, and all trials have been saved; `resume="latest"` goes on.
    """
    occupy_standard_descriptors()
    if space is not None:
        if settings.get("search"):
            raise UserError("space and search both name the settings to vary: give one of them")
        settings["search"] = from_python(space)
    try:
        with silence(checked("quiet", quiet, bool)), Interrupts() as interrupts:
            result = run_tune(settings, say, interrupts, config)
    except StoppedInSetUp as stop:
        signal.raise_signal(stop.number)
        raise
    if result.stopped_by in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(result.stopped_by)
    return result
