"""The settings of a tune flow in; the recipe that it is about, and its text as tokens, come out.

The same stages as those of a run choose the text, the tokenizer and the settings, once for all trials.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.architectures.presets import PRESETS, shaped
from homespun.config import TrainConfig, TuneConfig
from homespun.config.checked import flag
from homespun.data.corpus import survey
from homespun.data.prepare import check_folder
from homespun.engine import hardware, select
from homespun.engine.base import Machine
from homespun.errors import UserError
from homespun.forecast.forecast import forecast
from homespun.planning.memory import step_memory
from homespun.planning.recipe import SHAPE, step_limits
from homespun.planning.resolved import Plan
from homespun.terminal import Say, counted
from homespun.tokenizer import Tokenizer
from homespun.training.fine_tuning.initial_model import initial_model
from homespun.training.fine_tuning.lora_base import check_settings
from homespun.training.fine_tuning.replay import check_replay
from homespun.training.preferences.preparation import check_pairs, check_preferences
from homespun.training.reinforcement.policy import check_reward
from homespun.training.run import bytes_on_disk, keeps_base
from homespun.training.stages import choose, choose_batch

NOT_OF_A_TRIAL = (
    *("checkpoint_dir", "resume", "config", "dry_run", "auto_batch"),
    *("max_steps", "max_epochs", "time_budget", "vocab_size"),
)
"""Settings of the recipe that a tune replaces."""
OF_THE_TUNE = ("checkpoint_dir", "resume", "config", "dry_run")
"""Settings with another meaning for a tune; its file may name settings that a run does not have."""
PROCESS_BYTES = 600_000_000
"""Memory of a process that trains, besides its steps."""
PROCESSORS_PER_TRIAL = 2
MOST_ON_A_GPU = 4
"""More processes that take turns on one GPU gain nothing."""


@dataclass(frozen=True)
class Recipe:
    """The run that a tune starts from."""

    settings: dict[str, Any]
    """For `train`, all of them, without the length."""
    total_tokens: int
    data_sha256: str
    width: int
    """Of the model."""
    disk: int
    """Bytes that the checkpoints of a trial take."""
    plan: Plan
    tokenizer: Tokenizer | None
    """To be kept with the tune, so that no trial can find another one; None: that of the model to go on from."""
    has_answers: bool = False
    """It learns from answers, in conversations or pairs, or from those that it writes."""

    @property
    def total_steps(self) -> int:
        return max(1, round(self.total_tokens / tokens_per_step(self.settings)))


def tokens_per_step(settings: Mapping[str, Any]) -> int:
    """Tokens of a step with these settings."""
    sequences: int = settings["batch_size"] * settings["grad_accumulation_steps"]
    return sequences * int(settings["seq_len"])


def train_settings(config: TuneConfig) -> dict[str, Any]:
    """The settings of a run among those of a tune."""
    own = {field.name for field in dataclasses.fields(TrainConfig)} - set(OF_THE_TUNE)
    return {name: value for name, value in dataclasses.asdict(config).items() if name in own}


def _wanted(config: TuneConfig) -> TrainConfig:
    """The settings of a run among those of a tune, checked.

    Raises:
        UserError: some contradict each other.
    """
    wanted = TrainConfig(**train_settings(config))
    check_preferences(wanted)
    check_reward(wanted)
    check_settings(wanted)
    check_replay(wanted)
    return wanted


def prepare(config: TuneConfig, asked: Collection[str], say: Say) -> Recipe:
    """Choose text, tokenizer and settings, and tokenize the text. `asked` has the names of the settings that were
    given.

    Raises:
        UserError: text, tokenizer, settings and machine do not fit each other.
    """
    wanted = _wanted(config)
    check_folder(Path(wanted.tokens_dir))
    hardware.limit_workers(wanted.threads)
    initial = initial_model(wanted, say)
    found = choose(wanted, say, initial, None, asked)
    if found.sampler and not found.sampler.prompts.held_out:
        raise UserError(
            f"{found.corpus.path}: no prompt is held out, so trials with a reward cannot be compared: give more or "
            "shorter prompts"
        )
    tokenizer, samples = found.tokens.tokenizer, found.samples_per_pass
    planned = choose_batch(found.planned, tokenizer.eot_id, say, resumes=False)
    check_pairs(planned.config)
    steps = min(step_limits(planned.config, samples).values(), default=None)
    if planned.config.time_budget is not None:
        steps = _steps_in_time(wanted, asked, planned.config.time_budget, say)
    assert steps is not None  # every plan has a limit
    return _recipe(
        planned,
        steps,
        found.corpus.path,
        found.corpus.sha256,
        is_chat=found.corpus.is_chat,
        tokenizer=None if initial else tokenizer,
    )


def foresee(config: TuneConfig, asked: Collection[str], say: Say) -> tuple[Recipe, float]:
    """The recipe as `prepare` would choose it, and the seconds of a run with it, without writing anything.

    Raises:
        UserError: there is no text, or as `prepare`.
    """
    wanted = _wanted(config)
    if wanted.preferences is None:
        workspace.chosen_data(wanted.data_file)
    plan = forecast(_given(wanted, asked), say, wanted)
    assert plan.steps is not None  # there is a text
    assert plan.seconds is not None
    assert plan.data_file is not None
    planned = Plan(plan.model, plan.settings, plan.longest_row)
    is_chat = plan.text is not None and plan.text.conversations is not None
    recipe = _recipe(planned, plan.steps, plan.data_file, "", is_chat=is_chat, tokenizer=None)
    return recipe, plan.seconds


def _given(wanted: TrainConfig, asked: Collection[str]) -> dict[str, Any]:
    """The settings that were given."""
    return {name: value for name, value in dataclasses.asdict(wanted).items() if name in asked}


def _recipe(
    planned: Plan,
    steps: int,
    data: Path,
    sha256: str,
    *,
    is_chat: bool,
    tokenizer: Tokenizer | None,
) -> Recipe:
    config = planned.config
    return Recipe(
        settings=_settings(planned, data),
        total_tokens=steps * config.tokens_per_step,
        data_sha256=sha256,
        width=planned.model.d_model,
        disk=bytes_on_disk(
            planned.model,
            2,
            planned.lora,
            with_base=keeps_base(config),
            low_memory=config.memory == "low",
            averaging=config.averaging > 0,
        ),
        plan=planned,
        tokenizer=tokenizer,
        has_answers=is_chat or not config.learns_text,
    )


def check_text(settings: Mapping[str, Any], sha256: str) -> None:
    """Make sure that the text of a tune is still the same.

    Raises:
        UserError: it is another one, or it is gone.
    """
    pairs = settings.get("preferences")
    corpus = survey(
        Path(pairs or settings["data_file"]),
        None,
        Path(settings["tokens_dir"]),
        keeps=False,
        as_pairs=pairs is not None,
    )
    if corpus.sha256 != sha256:
        raise UserError(
            f"{corpus.path} is not the text of this tune any more: put the right one there, or start a new tune "
            "without --resume"
        )


def _steps_in_time(wanted: TrainConfig, asked: Collection[str], budget: str, say: Say) -> int:
    """The steps of a run with a time budget, from a measurement. Trials have steps, since their results must not depend
    on the clock."""
    steps = forecast(_given(wanted, asked), lambda text: None, wanted).steps
    assert steps is not None  # there is a text
    say(f"--time-budget {budget} is about {counted(steps, 'step')} of one run on this machine.")
    return steps


def _settings(planned: Plan, data: Path) -> dict[str, Any]:
    """The settings of the recipe with no gap, as far as a trial takes them."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    settings = {name: getattr(planned.config, name) for name in names if name not in NOT_OF_A_TRIAL}
    if planned.config.preferences is None:
        settings["data_file"] = str(data)
    settings["sample_prompts"] = list(planned.config.sample_prompts)
    if planned.config.init_from is None and planned.config.model_size is None:
        settings["model_size"] = _preset_of(planned)
    return {name: value for name, value in settings.items() if value is not None}


def _preset_of(planned: Plan) -> str:
    """The preset that the recipe has chosen."""
    overrides = {name: getattr(planned.config, name) for name in SHAPE}
    overrides |= {"vocab_size": planned.model.vocab_size, "seq_len": planned.model.seq_len}
    for name, preset in PRESETS.items():
        try:
            if shaped(preset, overrides) == planned.model:
                return name
        except UserError:  # the shape of the user does not fit this preset
            continue
    raise UserError(f"this model has no {flag('model_size')}: name one")


def most_parallel(config: TuneConfig, recipe: Recipe, largest_batch: int) -> tuple[int, int | None]:
    """How many trials run at the same time, and with how many threads each.

    On a processor every trial has two cores, since small steps gain little from more. On a GPU, as many as fit into its
    memory, up to four; Apple's share their memory, and run one at a time.
    """
    machine = select.machine(config.engine)
    processors = hardware.usable_cpus()
    on_gpu = machine.has_own_memory() or machine.compiles_at_once()
    if config.parallel is not None:
        count = config.parallel
    else:
        count = processors // (config.threads or PROCESSORS_PER_TRIAL)
        if on_gpu:
            count = min(count, MOST_ON_A_GPU if machine.has_own_memory() else 1)
        count = max(1, min(count, fitting(recipe, machine, largest_batch)))
    count = min(count, config.trials)
    threads = config.threads
    if threads is None and not on_gpu and count > 1:
        threads = max(1, processors // count)
    return count, threads


def fitting(recipe: Recipe, machine: Machine, batch_size: int) -> int:
    """How many trials fit into memory at once, by the planner's estimate."""
    needed = step_memory(recipe.plan, machine, batch_size).total
    if not machine.has_own_memory():
        needed += PROCESS_BYTES
    return machine.memory_available() // needed


def has_room(recipe: Recipe, batch_size: int, engine: Any) -> bool:
    """Whether a step of this micro-batch fits into memory at all."""
    machine = select.machine(engine)
    return step_memory(recipe.plan, machine, batch_size).total <= machine.memory_capacity()
