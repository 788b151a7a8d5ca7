"""Settings flow in, a run that is ready to start comes out, in four stages: text, tokens, plan, engine.

All mistakes in a user's settings are found here, before the first step, and the cheap checks come before the work.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from homespun.checkpoint.opening import open_base
from homespun.config import TrainConfig
from homespun.config.checked import flag
from homespun.data.chat_samples import ChatDataset
from homespun.data.corpus import Corpus
from homespun.data.mixture import MixedDataset
from homespun.data.pair_samples import PairDataset
from homespun.data.prepare import Prepared, check_folder, prepare
from homespun.data.samples import ORDER, Dataset, TextDataset
from homespun.engine import hardware, select
from homespun.engine.base import Engine, EngineOptions, Machine, OptimizerSettings, OutOfMemory
from homespun.model_formats.stored_model import StoredModel, learned_texts
from homespun.planning.auto_batch import fitting_batch
from homespun.planning.memory import (
    check_memory,
    memory_of_rank,
    n_ranks_here,
    out_of_memory,
    ranks_here,
    step_memory,
)
from homespun.planning.recipe import (
    plan,
    step_limits,
)
from homespun.planning.resolved import Plan, ResolvedConfig, lora_of
from homespun.planning.trained_model import Initial
from homespun.terminal import Say, bar
from homespun.tokenizer import ChatTemplate, Tokenizer
from homespun.training.checkpointing.resume import (
    ResumePoint,
    restore,
    resumed_corpus,
    resumed_plan,
    resumed_tokenizer,
)
from homespun.training.fine_tuning.conversations import (
    chat_template,
    encoder_of,
    for_conversations,
    kept_template,
    resumed_template,
)
from homespun.training.fine_tuning.initial_model import in_context, own_settings, take_weights
from homespun.training.fine_tuning.lora_base import load_base
from homespun.training.fine_tuning.replay import Replay, replay_of
from homespun.training.preferences.preparation import Preferences, check_pairs
from homespun.training.reinforcement.policy import check_answers, policy_of, sampler_of
from homespun.training.reinforcement.rewards import Reward
from homespun.training.reinforcement.rollouts import Sampler
from homespun.training.run import Run
from homespun.training.text_stage import check_sizes, choose_pairs, choose_text, choose_tokenizer


@dataclass(frozen=True)
class Tokens:
    """The text as the model reads it."""

    tokenizer: Tokenizer
    prepared: Prepared
    dataset: Dataset
    """Samples of the training tokens."""


def set_up(
    requested: TrainConfig,
    point: ResumePoint | None,
    say: Say,
    initial: StoredModel | None = None,
    reward: Reward | None = None,
    asked: Collection[str] = (),
) -> Run:
    """Make a new run ready, or one that goes on from an initial model, or a resumed one. `reward` is the function that
    the setting of this name stands for, where it was given from Python. `asked` has the names of the settings that were
    given, which are kept even where they are the defaults.

    Raises:
        UserError: text, tokenizer, settings, checkpoint and machine do not fit each other.
    """
    folder = Path(requested.tokens_dir)
    check_folder(folder)
    hardware.limit_workers(requested.threads)
    if point:
        stored = point.header
        planned = resumed_plan(requested, stored, say)
        corpus = resumed_corpus(requested, stored)
        tokenizer = resumed_tokenizer(requested, stored)
        template = resumed_template(corpus, tokenizer, stored)
        tokens = tokenize(
            corpus, tokenizer, planned.config.seq_len, folder, say, template, any_split=True
        )
        replay = replay_of(planned.config, tokenizer, template, stored, say)
        tokens = _with_replay(tokens, replay, planned.config)
        sampler = sampler_of(
            planned.config, corpus, tokenizer, template, planned.model.seq_len, reward, say
        )
        planned = _with_rows(planned, sampler, tokens.dataset)
    else:
        corpus, template, tokens, replay, sampler, planned = choose(
            requested, say, initial, reward, asked
        )
    tokenizer = tokens.tokenizer
    planned = choose_batch(planned, tokenizer.eot_id, say, resumes=point is not None)
    check_pairs(planned.config)
    engine, config = make_engine(planned, tokenizer.eot_id, say, is_new=point is None)
    if initial:
        with bar("Loading the model", None):
            take_weights(engine, initial, planned.lora)
    if point:
        with bar("Loading the checkpoint", None):
            if base := open_base(point.weights):
                load_base(engine, base)
            restore(engine, point, say)
        if stored.get("sample_order") != ORDER:
            say(
                "This run began with another version of homespun. From here on it takes its samples in a new order."
            )
    learned_before = [
        *(
            learned_texts(initial)
            if initial
            else point.header.get("learned_before", [])
            if point
            else []
        ),
        *(source.sha256 for source in corpus.sources),
        *(replay.learned if replay else ()),
    ]
    return Run(
        config=config,
        model=planned.model,
        engine=engine,
        tokenizer=tokens.tokenizer,
        tokens=tokens.prepared,
        dataset=tokens.dataset,
        header={
            "model": dataclasses.asdict(planned.model),
            "tokenizer": tokens.tokenizer.to_json(),
            "tokenizer_sha256": tokens.tokenizer.sha256,
            "data_file": str(corpus.path),
            "data_sha256": corpus.sha256,
            "requested": dataclasses.asdict(requested),
            "resolved": dataclasses.asdict(config),
            "facts": engine.facts,
            "sample_order": ORDER,
            "learned_before": list(dict.fromkeys(learned_before)),
            **(replay.header if replay else {}),
            **kept_template(template, initial, point),
        },
        limits=step_limits(config, _samples_per_pass(config, tokens, sampler)),
        chat=template,
        policy=policy_of(sampler, planned.model.seq_len, engine, tokenizer, template)
        if sampler
        else None,
        preferences=_preferences(tokens, config.seq_len),
        replay=replay,
        longest_row=planned.longest_row,
    )


class Chosen(NamedTuple):
    """A run that begins, before its engine is made."""

    corpus: Corpus
    template: ChatTemplate | None
    tokens: Tokens
    replay: Replay | None
    sampler: Sampler | None
    planned: Plan
    """With the micro-batch that the settings name."""

    @property
    def samples_per_pass(self) -> int:
        return _samples_per_pass(self.planned.config, self.tokens, self.sampler)


def choose(
    requested: TrainConfig,
    say: Say,
    initial: StoredModel | None,
    reward: Reward | None,
    asked: Collection[str],
) -> Chosen:
    """The data, the tokens and the plan of a run that begins. Arguments and errors as for `set_up`."""
    folder = Path(requested.tokens_dir)
    corpus = (
        choose_pairs(requested.preferences, say, folder)
        if requested.preferences
        else choose_text(requested.data_file, say, folder)
    )
    check_sizes(requested, corpus, initial)
    tokenizer = (
        initial.tokenizer
        if initial
        else choose_tokenizer(requested.tokenizer_path, requested.vocab_size, corpus, say)
    )
    template = chat_template(corpus, initial)
    wanted = in_context(requested, initial, say) if initial else requested
    if template and initial:
        wanted = for_conversations(wanted, asked, corpus, template, initial, folder, say)
    tokens = tokenize(corpus, tokenizer, wanted.seq_len, folder, say, template)
    replay = replay_of(wanted, tokenizer, template, None, say)
    tokens = _with_replay(tokens, replay, wanted)
    context = initial.config.seq_len if initial else wanted.seq_len
    sampler = sampler_of(wanted, corpus, tokenizer, template, context, reward, say)
    n_samples = _samples_per_pass(wanted, tokens, sampler)
    planned = choose_plan(
        wanted, tokenizer.vocab_size, n_samples, say, initial, is_chat=corpus.is_chat
    )
    check_answers(planned.config)
    planned = _with_rows(planned, sampler, tokens.dataset)
    return Chosen(corpus, template, tokens, replay, sampler, planned)


def _with_rows(planned: Plan, sampler: Sampler | None, dataset: Dataset) -> Plan:
    """The plan with the length of the rows of answers, if there are some."""
    answers = sampler or (dataset if isinstance(dataset, PairDataset) else None)
    return dataclasses.replace(planned, longest_row=answers.longest_row) if answers else planned


def _with_replay(tokens: Tokens, replay: Replay | None, config: TrainConfig) -> Tokens:
    """The tokens of a run, whose samples are mixed with those of an earlier text, if there is one. With a reward,
    answers take the place of samples, and each update has its own part of the earlier text."""
    if replay is None or config.reward is not None:
        return tokens
    mark = tokens.tokenizer.eot_id
    mixed = replay.mixed(tokens.dataset, config.replay_share, mark)
    return dataclasses.replace(tokens, dataset=mixed)


def _preferences(tokens: Tokens, seq_len: int) -> Preferences | None:
    """The pairs of a run with preferences, still without their reference; None for other runs."""
    if not isinstance(tokens.dataset, PairDataset):
        return None
    return Preferences(tokens.dataset, PairDataset(tokens.prepared.validation, seq_len))


def _samples_per_pass(config: TrainConfig, tokens: Tokens, sampler: Sampler | None) -> int:
    """Samples in a pass over the data; with prompts, one for each answer."""
    if sampler and len(sampler.prompts.training) > 1:
        return len(sampler.prompts.training) * config.group_size
    return tokens.dataset.samples_per_pass


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    seq_len: int,
    folder: Path,
    say: Say,
    template: ChatTemplate | None = None,
    *,
    any_split: bool = False,
) -> Tokens:
    """The text as tokens, from the folder of tokens if they are there; see `prepare` for `any_split`. Conversations are
    encoded by their template.

    Raises:
        UserError: the tokens cannot be written, or do not fill one sample.
    """
    encoder = encoder_of(corpus, template) if template else tokenizer
    prepared = prepare(corpus, encoder, folder, any_split=any_split, say=say)
    if prepared.sources:
        datasets = [TextDataset(source.training, seq_len) for source in prepared.sources]
        mixture = MixedDataset(datasets, prepared.weights)
        for line in mixture.described([str(source.path) for source in corpus.sources]):
            say(line)
        return Tokens(tokenizer, prepared, mixture)
    if template is None:
        return Tokens(tokenizer, prepared, TextDataset(prepared.training, seq_len))
    dataset = PairDataset if corpus.is_pairs else ChatDataset
    return Tokens(tokenizer, prepared, dataset(prepared.training, seq_len))


def choose_plan(
    requested: TrainConfig,
    vocab_size: int,
    n_samples: int,
    say: Say,
    initial: StoredModel | None = None,
    machine: Machine | None = None,
    *,
    is_chat: bool = False,
    n_ranks: int | None = None,
) -> Plan:
    """The settings of the user, and for all others those that suit the text, which may be of conversations, and the
    machine; None: this machine. `n_ranks` of them train together; None: as many as were started together.

    Raises:
        UserError: settings that contradict each other or the text.
    """
    with bar("Measuring the speed of this machine", None):  # and loading its engine
        machine = machine or select.machine(requested.engine)
        flops_per_second = machine.flops_per_second(requested.precision, requested.threads)
    n_ranks = n_ranks or n_ranks_here()
    if n_ranks > 1 and requested.averaging is None:  # one process alone averages
        requested = dataclasses.replace(requested, averaging=0.0)
    planned = plan(
        requested,
        vocab_size=vocab_size,
        n_samples=n_samples,
        flops_per_second=n_ranks * flops_per_second,
        compiles_at_once=machine.compiles_at_once(),
        initial=Initial(initial.config, own_settings(initial), is_chat) if initial else None,
    )
    if line := without_effect(planned):
        say(line)
    if initial:
        return planned
    if planned.config.max_epochs != requested.max_epochs and requested.model_size is None:
        say(
            "This text is short: a model that reads it too often memorizes it, so the run ends after "
            f"{planned.config.max_epochs:g} passes. With more text it could use the whole time."
        )
    return planned


def without_effect(planned: Plan) -> str | None:
    """A line about factors of the losses of routers that a run does not use, if they differ from their defaults."""
    c = planned.config
    names = [
        name for name in ("aux_loss", "z_loss") if getattr(c, name) != getattr(TrainConfig, name)
    ]
    if not names or (planned.model.experts and not planned.lora):
        return None
    have = "has" if len(names) == 1 else "have"
    reason = (
        "adapters are trained without the losses of the routers"
        if planned.model.experts
        else "the model has no experts"
    )
    return f"{' and '.join(map(flag, names))} {have} no effect: {reason}."


def choose_batch(planned: Plan, document_mark: int, say: Say, *, resumes: bool) -> Plan:
    """With --auto-batch, the plan with the micro-batch that fits; a resumed run keeps its own where that fits."""
    c, machine = planned.config, select.machine(planned.config.engine)
    free = memory_of_rank(machine.memory_available(), machine, ranks_here(planned, machine))
    fits = step_memory(planned, machine).total <= free
    if not c.auto_batch or (resumes and fits):
        return planned
    options = engine_options(c, document_mark, compiled=False)
    return fitting_batch(planned, machine, options, say)


def make_engine(
    planned: Plan, document_mark: int, say: Say, *, is_new: bool
) -> tuple[Engine, ResolvedConfig]:
    """The engine, and the config with the precision and compilation that it got, which a resumed run keeps.

    Raises:
        UserError: the model does not fit into memory.
    """
    check_memory(planned, say, is_new=is_new)
    c = planned.config
    machine = select.machine(c.engine)
    compiled = _compiled(c.compile == "on", machine, say)
    options = dataclasses.replace(
        engine_options(c, document_mark, compiled=compiled),
        sharded=ranks_here(planned, machine).sharded,
    )
    try:
        with bar("Making the model", None):
            engine = select.create(planned.model, options, name=c.engine)
    except OutOfMemory as error:
        raise out_of_memory(planned, saved=False, is_new=is_new) from error
    precision: Any = engine.facts["precision"]
    return engine, dataclasses.replace(c, precision=precision, compile="on" if compiled else "off")


def engine_options(c: ResolvedConfig, document_mark: int, *, compiled: bool) -> EngineOptions:
    """The settings of a run that its engine needs. With LoRA routers are frozen, and their losses are left out."""
    lora = lora_of(c)
    return EngineOptions(
        optimizer=OptimizerSettings(
            name=c.optimizer,
            weight_decay=c.weight_decay,
            beta1=c.beta1,
            beta2=c.beta2,
            max_grad_norm=c.max_grad_norm,
        ),
        precision=c.precision,
        compiled=compiled,
        gradient_checkpointing=c.gradient_checkpointing,
        low_memory=c.memory == "low",
        document_mark=document_mark,
        threads=c.threads,
        seed=c.seed,
        dropout=c.dropout,
        averaging=c.averaging,
        lora=lora,
        aux_loss=0.0 if lora else c.aux_loss,
        z_loss=0.0 if lora else c.z_loss,
    )


def _compiled(wanted: bool, machine: Machine, say: Say) -> bool:
    """Whether kernels are compiled: where that is wanted and possible."""
    if not wanted:
        return False
    at_once = machine.compiles_at_once()
    if not at_once:
        say("Trying the C++ compiler, which takes up to a minute or so ...")
    with bar("Trying the C++ compiler", None):
        possible = machine.can_compile()
    if not possible:
        say("Without compiled kernels: no C++ compiler works on this machine.")
    elif not at_once:
        say("It works: kernels are compiled in the first step, which takes up to a minute longer.")
    return possible
