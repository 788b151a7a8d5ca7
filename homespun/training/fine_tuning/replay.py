"""The settings of replay flow in; the samples of the earlier text, and its part for evaluations, come out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun.config import TrainConfig
from homespun.data.chat_samples import ChatDataset, ChatEncoder
from homespun.data.corpus import Corpus, survey
from homespun.data.files import is_pattern
from homespun.data.mixture import MixedDataset
from homespun.data.prepare import Prepared, prepare
from homespun.data.replay import ReplayDataset
from homespun.data.samples import Dataset, TextDataset
from homespun.errors import UserError
from homespun.terminal import Say
from homespun.tokenizer import ChatTemplate, Tokenizer

REPLAY_FILE, REPLAY_SHA256 = "replay_file", "replay_sha256"
"""The entries of a header with the earlier text: its place, and its hash."""


@dataclass(frozen=True)
class Replay:
    """The earlier text of a run."""

    corpus: Corpus
    tokens: Prepared
    dataset: Dataset
    """Of the training tokens."""

    @property
    def header(self) -> dict[str, str]:
        """Stored with the run."""
        return {REPLAY_FILE: str(self.corpus.path), REPLAY_SHA256: self.corpus.sha256}

    @property
    def learned(self) -> list[str]:
        """Hashes of the texts that the model learns from again."""
        return [source.sha256 for source in self.corpus.sources] + [self.corpus.sha256]

    def mixed(self, new: Dataset, share: float, document_mark: int) -> ReplayDataset:
        """The samples of a run: those of the new text with these."""
        return ReplayDataset(new, self.dataset, share, document_mark)


def check_replay(config: TrainConfig) -> None:
    """Refuse settings of replay that have no meaning, before the data are read.

    Raises:
        UserError: there are some.
    """
    if config.replay is None:
        if config.replay_share != TrainConfig.replay_share:
            raise UserError(
                "--replay-share is that of --replay: name a text with it, or leave it out"
            )
        return
    if config.preferences is not None:
        raise UserError(
            "--replay goes with a text, with conversations or with a reward, not with --preferences: leave one of them "
            "out"
        )
    if config.init_from is None:
        raise UserError(
            "--replay repeats a text that a model has learned already: name the model with --init-from"
        )
    path = Path(config.replay)
    if not path.exists() and not is_pattern(path):
        raise UserError(f"--replay {path}: there is no such file or folder")


def replay_of(
    config: TrainConfig,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    stored: Mapping[str, Any] | None,
    say: Say,
) -> Replay | None:
    """The earlier text of a run; None for a run without one.

    Args:
        config: the settings, with the length of the samples.
        tokenizer: of the model.
        template: of the conversations of the run; None if it learns a text.
        stored: the header of a run that is resumed.
        say: gets messages about the text.

    Raises:
        UserError: there is no such text, it is too short, or not that of the resumed run.
    """
    path = config.replay
    if stored is not None:
        path = path if path is not None else stored.get(REPLAY_FILE)
        if path is not None and REPLAY_SHA256 not in stored:
            raise UserError("this run has no --replay: leave it out, or start a new run")
    if path is None:
        return None
    folder = Path(config.tokens_dir)
    corpus = survey(Path(path), say if stored is None else None, folder)
    if stored is not None and corpus.sha256 != stored[REPLAY_SHA256]:
        raise UserError(
            f"{corpus.path} is not the text that this run replays: name the right one with --replay"
        )
    if not corpus.is_chat:
        tokens = prepare(corpus, tokenizer, folder, any_split=stored is not None, say=say)
        if tokens.sources:
            texts = [TextDataset(source.training, config.seq_len) for source in tokens.sources]
            return Replay(corpus, tokens, MixedDataset(texts, tokens.weights))
        return Replay(corpus, tokens, TextDataset(tokens.training, config.seq_len))
    if template is None:
        raise UserError(
            f"{corpus.path} holds conversations: a run that learns a text can only replay a text"
        )
    tokens = prepare(corpus, ChatEncoder(template), folder, any_split=stored is not None, say=say)
    return Replay(corpus, tokens, ChatDataset(tokens.training, config.seq_len))
