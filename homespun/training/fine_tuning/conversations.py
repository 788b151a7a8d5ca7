"""A text of conversations and a trained model flow in; their template, and settings that suit them, flow out."""

import dataclasses
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from homespun.config import TrainConfig
from homespun.data.chat_samples import ChatDataset, ChatEncoder, lengths_of
from homespun.data.conversations import messages_of
from homespun.data.corpus import Corpus
from homespun.data.pair_samples import PairDataset, PairEncoder
from homespun.data.preferences import pair_of
from homespun.data.prepare import prepare
from homespun.model_formats.stored_model import CHAT_TEMPLATE, StoredModel
from homespun.terminal import Say, counted
from homespun.tokenizer import ChatTemplate, Message, Tokenizer
from homespun.tokenizer.messages import USER
from homespun.training.checkpointing.resume import ResumePoint

LONGEST_SAMPLE = 1024
"""Tokens. Longer samples are only taken if they are asked for, since their cost grows faster than their length."""
STEP = 64
"""Samples are a multiple of so many tokens long."""


def chat_template(corpus: Corpus, initial: StoredModel | None) -> ChatTemplate | None:
    """The template of a new run: that of its model, or ours; None if the text is not of conversations.

    Raises:
        UserError: the template of the model cannot be used.
    """
    if not corpus.is_chat or initial is None:
        return None
    return initial.template() or ChatTemplate(initial.tokenizer)


def resumed_template(
    corpus: Corpus, tokenizer: Tokenizer, stored: dict[str, Any]
) -> ChatTemplate | None:
    """The template of a resumed run of conversations."""
    if not corpus.is_chat:
        return None
    return ChatTemplate.from_stored(stored[CHAT_TEMPLATE], tokenizer)


def kept_template(
    template: ChatTemplate | None, initial: StoredModel | None, point: ResumePoint | None
) -> dict[str, Any]:
    """The template in the header of a run: that of its conversations, or the one that its model had before."""
    if template:
        return {CHAT_TEMPLATE: template.stored()}
    before = initial.chat_template if initial else point and point.header.get(CHAT_TEMPLATE)
    return {CHAT_TEMPLATE: dict(before)} if before else {}


def for_conversations(
    wanted: TrainConfig,
    asked: Collection[str],
    corpus: Corpus,
    template: ChatTemplate,
    initial: StoredModel,
    folder: Path,
    say: Say,
) -> TrainConfig:
    """The settings of a run of conversations: samples that have room for the longest of them, and questions of
    conversations that are held out as prompts of the sample texts, except for settings that were asked for by name.

    Raises:
        UserError: no conversation fits into a sample.
    """
    prepared = prepare(corpus, encoder_of(corpus, template), folder, say=say)
    longest = int(lengths_of(prepared.training).max())
    wanted = with_room(wanted, asked, longest, initial.config.seq_len, say)
    if corpus.is_pairs:
        report_long_pairs(PairDataset(prepared.training, wanted.seq_len), say)
    else:
        report_long_ones(ChatDataset(prepared.training, wanted.seq_len), say)
    if wanted.sample_prompts == TrainConfig.sample_prompts and "sample_prompts" not in asked:
        as_messages = messages_of_pair if corpus.is_pairs else messages_of
        held_out = map(as_messages, islice(corpus.validation(), len(wanted.sample_prompts)))
        prompts = [next(m["content"] for m in one if m["role"] == USER) for one in held_out]
        wanted = dataclasses.replace(wanted, sample_prompts=tuple(prompts))
    return wanted


def with_room(
    wanted: TrainConfig, asked: Collection[str], longest: int, context: int, say: Say
) -> TrainConfig:
    """The settings with samples that have room for the longest conversation, unless their length was asked for.

    Args:
        wanted: the settings.
        asked: the names of those that were asked for.
        longest: tokens of the longest conversation.
        context: of the model.
        say: gets a line if they become longer.
    """
    if wanted.seq_len != TrainConfig.seq_len or "seq_len" in asked:
        return wanted
    seq_len = min(LONGEST_SAMPLE, context, -(-(longest - 1) // STEP) * STEP)
    if seq_len <= wanted.seq_len:
        return wanted
    say(f"The training samples have {seq_len} tokens, since conversations are that long.")
    return dataclasses.replace(wanted, seq_len=seq_len)


def messages_of_pair(document: str) -> list[Message]:
    """The messages that the answers of a pair follow."""
    return pair_of(document).messages


def encoder_of(corpus: Corpus, template: ChatTemplate) -> ChatEncoder:
    """The encoder of conversations, or of pairs."""
    return PairEncoder(template) if corpus.is_pairs else ChatEncoder(template)


def report_long_pairs(dataset: PairDataset, say: Say) -> None:
    """Say how many pairs are left out."""
    if dataset.n_left_out:
        say(
            f"{counted(dataset.n_left_out, 'pair')} left out: one of the answers ends after more than "
            f"{dataset.seq_len + 1:,} tokens; a larger --seq-len takes more."
        )


def report_long_ones(dataset: ChatDataset, say: Say) -> None:
    """Say which conversations are longer than a sample."""
    if dataset.n_cut:
        say(
            f"{counted(dataset.n_cut, 'conversation')} of more than {dataset.seq_len + 1:,} tokens: cut after the last "
            "answer that fits; a larger --seq-len takes more."
        )
    if dataset.n_left_out:
        say(
            f"{counted(dataset.n_left_out, 'conversation')} left out: the first answer ends after more than "
            f"{dataset.seq_len + 1:,} tokens; a larger --seq-len takes more."
        )
