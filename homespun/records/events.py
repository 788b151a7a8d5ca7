"""The events of a run, typed: the training loop emits them, and listeners turn them into records, console lines, or
anything else. The loop and the listeners depend on this module and not on each other.
"""

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homespun.records.frame import data_frame


class StopRun(Exception):
    """Raised by a listener to end the run: the step is finished and saved, and `ended_by` names the reason."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened in a run; these fields give the position of the run."""

    step: int
    """Optimizer steps done."""
    tokens: int
    """Target tokens in these steps."""
    epoch: float = 0.0
    """Passes over the training text in these steps."""
    progress: float
    """Fraction of the run that is done, from 0 to 1."""
    seconds_left: float | None
    """Estimate; None until the first step since the start is done."""


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The run is set up. Not emitted by a resumed run that has nothing left to do."""

    title: str
    facts: Mapping[str, str]
    """The run in words: model, text, length, optimizer, engine, ..."""
    total_steps: int | None
    """None where only time ends the run."""
    best_val_loss: float | None
    """Of the evaluations before a resumed run was stopped."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """The run as data: `model`, `text`, `machine`, `settings`, ...; see `training.run`."""


@dataclass(frozen=True)
class Router:
    """How the router of one block has spread the tokens over its experts: means over steps."""

    balance_loss: float
    z_loss: float
    entropy: float
    """Of the probabilities for a token, in nats."""
    load: Sequence[float]
    """The share of each expert in all that the experts were given; the sum is 1."""


@dataclass(frozen=True)
class Answers:
    """Sampled answers of a run with a reward: means over those since the last line of the log."""

    reward: float
    reward_deviation: float
    """Standard deviation."""
    tokens: float
    """Of an answer."""
    unfinished: float
    """Fraction of the answers that were cut off."""
    distinct: float
    """Fraction of the answers that is left if equal answers to a prompt count once; of built-in stories, those with the
    same course of events."""
    entropy: float | None
    """Of the next token, in nats: the mean of minus its log-probability. This and the divergence are over the groups
    that were not skipped; None where all were."""
    divergence: float | None
    """From the initial model for a token, in nats; 0 where none is kept."""
    skipped: float
    """Fraction of the groups whose answers all have the same score, so that nothing can be learned from them."""
    clipped: float
    """Fraction of the tokens that an update left out, since their probability had changed enough."""


@dataclass(frozen=True)
class Pairs:
    """Preference pairs: means over those since the last line of the log, or over those of an evaluation. The reward of
    an answer is beta times its log-probability minus that in the initial model."""

    accuracy: float
    """Fraction of the pairs whose better answer has the higher reward; a tie counts half."""
    margin: float
    """Reward of the better answer minus that of the other."""
    chosen_reward: float
    """Of the better answers."""
    rejected_reward: float
    """Of the others."""


@dataclass(frozen=True)
class LoggedSteps:
    """The steps since the last line of the log, and what the machine needed for them."""

    loss: float
    """Mean over those that were applied, in nats; where none was, the loss of the last one."""
    clipped: float
    """Fraction of the steps whose gradients were clipped."""
    refused: int
    """Refused steps since the beginning of the run."""
    tokens_per_second: float
    """Of training alone, without evaluations, samples and checkpoints."""
    memory_bytes: int
    """Peak of the process on its device."""
    active_memory_bytes: int | None
    """None where only the peak is known."""
    training_seconds: float
    """Since the beginning of the run, steps alone."""
    routers: Sequence[Router] = ()
    """Of the blocks that have experts."""
    auxiliary_loss: float | None = 0.0
    """The losses of the routers, each times its factor: they are minimised together with the loss. None: with LoRA,
    which leaves routers as they are."""
    answers: Answers | None = None
    """In a run with a reward."""
    pairs: Pairs | None = None
    """In a run with preferences."""


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """An optimizer step is done."""

    loss: float
    """Mean over the targets of this step alone, in nats; may be infinite or NaN."""
    grad_norm: float
    """Global L2 norm before clipping."""
    applied: bool
    """False where the step was refused and changed nothing."""
    rates: Mapping[str, float]
    """Learning rate by optimizer: `adamw`, and `muon` where it is used."""
    batch: str
    """CRC-32 of the input tokens, the same for any split into micro-batches."""
    log: LoggedSteps | None
    """Set every `log_interval` steps."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """The model was measured on the validation text."""

    loss: float
    """Nats per token; with preferences the mean loss of the pairs that are held out."""
    bits_per_byte: float | None
    """None with preferences."""
    best: bool
    """The lowest validation loss so far, or the highest reward; its weights are saved."""
    reward: float | None = None
    """In a run with a reward: the mean over answers to prompts that are held out."""
    replay_loss: float | None = None
    """In a run with replay: nats per token of the part of that text that is held out."""
    replay_bits_per_byte: float | None = None
    """The same in bits per byte."""
    pairs: Pairs | None = None
    """In a run with preferences: of the pairs that are held out."""


@dataclass(frozen=True, kw_only=True)
class Remeasured(Event):
    """A resumed run evaluates on other tokens or in another precision, so that later losses do not compare with earlier
    ones. The best weights have been measured again."""

    eval_tokens: int
    """Tokens of an evaluation from now on."""
    best_val_loss: float | None
    """Of the best weights, in nats per token; None where they are missing, so that the next evaluation is the best."""
    best_step: int | None
    """The step of the best weights."""


@dataclass(frozen=True, kw_only=True)
class Sample(Event):
    """The model continued a prompt."""

    prompt: str
    text: str
    """Without the prompt."""


@dataclass(frozen=True, kw_only=True)
class Advice(Event):
    """Something is wrong with a step or with the run."""

    cause: str
    """One or two words, the same for the same cause."""
    text: str
    """The observation, and a remedy."""
    ends_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A checkpoint is complete on the disk. It is written while the run continues: `step` is the step that it holds."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class Activity(Event):
    """An activity other than a step begins, which may take some time."""

    name: str
    """'evaluating', 'saving', ..."""


@dataclass(frozen=True, kw_only=True)
class Message(Event):
    """A line for the reader of the console."""

    text: str


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    checkpoint_dir: Path
    best: Path
    """The weights with the lowest validation loss; written by the first evaluation."""
    steps: int
    ended_by: str
    """`max_epochs`, `max_steps`, `time_budget`, `patience`, the name of a signal, or `on_event: REASON`."""
    val_loss: float | None
    """Of the last evaluation, in nats per token; None where there was none since the start."""
    best_val_loss: float | None
    """None in a run with a reward, which looks for the best of that."""
    stopped_by: signal.Signals | None
    saved_step: int | None = None
    """The step from which --resume continues; None if there is no checkpoint."""
    best_reward: float | None = None
    """In a run with a reward: the highest mean over answers to prompts that are held out."""
    records: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """From Python: the lines of `metrics.jsonl`, with those before a resume; see `records.record`."""

    def frame(self) -> Any:
        """The records as a `pandas.DataFrame`, a row each; a cell is empty where a record has no such value.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.records, "records")


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """The run has ended, and all its files are written."""

    result: TrainResult
    title: str
    facts: Mapping[str, str]
    """The result in words, and the commands that may follow."""


Listener = Callable[[Event], object]
"""Gets every event, in the thread that trains, between two steps."""


def perplexity(loss: float) -> float:
    """exp(loss); infinite where a float cannot hold that."""
    return math.inf if loss >= 700 else math.exp(loss)
