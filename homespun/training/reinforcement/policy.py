"""Settings and data of a run with a reward flow in; what its steps need besides the engine comes out: a sampler of
scored answers, and the frozen model to which the run stays close.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun.checkpoint.archive import CheckpointError, read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BASE, LORA
from homespun.config import TrainConfig
from homespun.config.reinforcement import QUESTIONS
from homespun.data.corpus import Corpus
from homespun.engine import select
from homespun.engine.base import Engine, EngineOptions
from homespun.errors import UserError
from homespun.generation.session import Session
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import header_of
from homespun.planning.resolved import Plan, ResolvedConfig
from homespun.terminal import Say
from homespun.tokenizer import ChatTemplate, Tokenizer
from homespun.training.checkpointing.resume import ResumePoint, place_of, with_file
from homespun.training.reinforcement.rewards import Reward, reward_named
from homespun.training.reinforcement.rollouts import (
    Prompts,
    Sampler,
    of_beginnings,
    of_conversations,
    of_nothing,
)

REFERENCE = "reference_sha256"
"""The entry of a header with the hash of the reference model, which lies beside the checkpoints as `base.npz`."""


@dataclass(frozen=True)
class Policy:
    """The needs of a step of reinforcement besides the engine."""

    sampler: Sampler
    session: Session
    """Of the engine in training."""
    reference: Engine | None = None
    """The initial model; None without a divergence in the loss."""

    @property
    def prompts(self) -> Prompts:
        return self.sampler.prompts


def as_training(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, from those of `homespun reinforce`.

    Raises:
        UserError: no model is named, or two.
    """
    settings = with_file({name: value for name, value in given.items() if name != "model"})
    settings = {name: settings[name] for name in settings if name in given or name == "reward"}
    model = given.get("model")
    if model is not None:
        if given.get("init_from") is not None:
            raise UserError("MODEL and --init-from both name the model: leave one of them out")
        settings["init_from"] = model
    resumes = given.get("resume", TrainConfig.resume) != TrainConfig.resume
    if resumes:
        return settings
    return {"reward": QUESTIONS} | settings


def check_reward(config: TrainConfig, point: ResumePoint | None = None) -> None:
    """Refuse settings of a run with a reward that have no meaning, before the data are read.

    Args:
        config: the settings.
        point: the point from which the run is resumed, if it is.

    Raises:
        UserError: there are some.
    """
    if point is not None:
        _check_kind(config, point)
    if config.reward is None:
        return
    if config.init_from is None:
        raise UserError(
            "a reward improves a model that exists: name it with --init-from, or as in `homespun reinforce MODEL`"
        )
    if config.dropout:
        raise UserError(
            "--dropout would change the probabilities of answers: leave it out with --reward"
        )
    if config.averaging:
        raise UserError(
            "--averaging would change the probabilities of answers: leave it out with --reward"
        )


def _check_kind(config: TrainConfig, point: ResumePoint) -> None:
    """Make sure that a run learns from a reward to its end, or never.

    Raises:
        UserError: it has begun in the other way.
    """
    begun = point.header["resolved"].get("reward")
    if begun is None and config.reward is not None:
        raise UserError(
            f"the run in {point.path.parent} has no reward: `homespun train --resume` goes on with it, and "
            f"`homespun reinforce {point.path.parent}` begins a run with a reward from its model"
        )
    if begun is not None and config.reward is None:
        raise UserError(f"this run has the reward {begun}: name it, with --reward {begun}")


def check_answers(config: ResolvedConfig) -> None:
    """Make sure that a micro-batch has whole groups of answers.

    Raises:
        UserError: it has not.
    """
    if config.reward is not None and config.batch_size % config.group_size:
        raise UserError(
            f"a micro-batch has {config.batch_size} answers (--batch-size), which is no multiple of --group-size "
            f"{config.group_size}"
        )


def sampler_of(
    config: TrainConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    context: int,
    reward: Reward | None,
    say: Say,
) -> Sampler | None:
    """The sampler of a run with a reward; None for other runs.

    Args:
        config: the settings.
        corpus: the data.
        tokenizer: of the model.
        template: of conversations; None where the data are texts. Then the model goes on from their first words, or
            begins by itself.
        context: of the model. A prompt and its answer have to fit into it.
        reward: the function, where it was given from Python.
        say: gets a line about prompts that are left out.

    Raises:
        UserError: there is no such reward, or it does not fit the data.
    """
    if config.reward is None:
        return None
    function = reward or reward_named(config.reward)
    room = context - config.answer_tokens
    if room < 1:
        raise UserError(
            f"--answer-tokens {config.answer_tokens} leaves no room for a prompt in the context of {context:,} tokens"
        )
    if template is not None:
        prompts = of_conversations(corpus, template, room, say)
    elif config.reward == QUESTIONS:
        raise UserError(
            f"{corpus.path}: --reward {QUESTIONS} needs conversations; `homespun download --dataset stories-questions` "
            "makes some"
        )
    elif config.prompt_words:
        prompts = of_beginnings(corpus, tokenizer, config.prompt_words, room, say)
    else:
        prompts = of_nothing(tokenizer.eot_id)
    return Sampler(
        prompts,
        function,
        config.reward,
        seed=config.seed,
        group_size=config.group_size,
        max_tokens=config.answer_tokens,
        reward_seconds=config.reward_seconds,
    )


def policy_of(
    sampler: Sampler,
    context: int,
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
) -> Policy:
    """The policy of a run, still without its reference model."""
    ends = [] if template is None else [template.end_id]
    return Policy(sampler, Session(engine.decoder, tokenizer, context, ends))


def with_reference(
    policy: Policy,
    plan: Plan,
    header: dict[str, Any],
    document_mark: int,
    point: ResumePoint | None,
    folder: CheckpointFolder,
    moved_to: Path | None,
) -> tuple[Policy, dict[str, Any]]:
    """Keep the initial model in the folder of the run, and load it as the reference.

    Args:
        policy: of the run.
        plan: of the run.
        header: of its files.
        document_mark: as in `EngineOptions`.
        point: the point from which it is resumed, if it is.
        folder: of the run.
        moved_to: the place to which an earlier run in the folder has been moved just now, if one was.

    Returns:
        The policy with its reference, and the header that names it.

    Raises:
        UserError: the initial model is missing or another one, or it cannot be written.
    """
    config = plan.config
    if not config.kl_factor:
        return policy, header
    if LORA in header:  # the model that the adapters belong to is there
        pass
    elif point and point.is_in(folder.path):
        header = header | {REFERENCE: point.header.get(REFERENCE)}
    elif point:
        source = read_archive(place_of(point.path, folder.path, moved_to).with_name(BASE))
        header = header | {
            REFERENCE: folder.save_base(source.step, source.tensors(), source.header)
        }
    else:
        assert config.init_from is not None
        model = open_model(place_of(Path(config.init_from), folder.path, moved_to))
        header = header | {
            REFERENCE: folder.save_base(model.step, model.tensors(), header_of(model))
        }
    path = folder.path / BASE
    try:
        archive = read_archive(path)
        archive.verify()
    except CheckpointError as error:
        raise UserError(
            f"the initial model, which this run stays close to, cannot be read: {error}"
        ) from None
    if LORA not in header and archive.sha256 != header[REFERENCE]:
        raise UserError(f"{path} is not the model from which this run began: put that one there")
    options = EngineOptions(
        precision=config.precision, document_mark=document_mark, threads=config.threads, seed=None
    )
    reference = select.create(plan.model, options, name=config.engine)
    try:
        reference.load(archive.tensors())
    except ValueError as error:
        raise UserError(f"{path} does not fit this model: {error}") from error
    return dataclasses.replace(policy, reference=reference), header
