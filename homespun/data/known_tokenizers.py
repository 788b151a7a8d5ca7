"""A text flows in, the tokenizer of this working directory that was trained on it flows out, if there is one.

The choice depends on the tokenizers that are there and on their reports, so an earlier tokenizer is found again after
others were trained. The last one trained only comes first if several fit.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from homespun import durable, workspace
from homespun.config import TokenizerConfig
from homespun.data.corpus import Corpus
from homespun.errors import UserError
from homespun.terminal import Say
from homespun.tokenizer import SPECIFICATION, Tokenizer, read_report


@dataclass(frozen=True)
class Origin:
    """How a tokenizer was trained, as far as its folder states it."""

    data_file: str | None = None
    data_sha256: str | None = None
    vocab_size: int = 0
    requested_vocab_size: int = 0
    """Larger than `vocab_size` if the text has no more pairs to merge."""

    def has_size(self, vocab_size: int | None) -> bool:
        """Whether training for a vocabulary of this size, or of any size for None, gives this tokenizer."""
        if vocab_size is None or vocab_size == self.vocab_size:
            return True
        return self.vocab_size < min(vocab_size, self.requested_vocab_size)


def origin(path: Path) -> Origin:
    """How the tokenizer in a folder, or in a `tokenizer.json`, was trained.

    Raises:
        UserError: its report is damaged or cannot be read.
    """
    stated = read_report(path)
    kinds = {"data_file": str, "data_sha256": str, "vocab_size": int, "requested_vocab_size": int}
    return Origin(
        **{name: stated[name] for name, kind in kinds.items() if type(stated.get(name)) is kind}
    )


def main_tokenizers() -> list[Path]:
    """The last tokenizer that was trained, and the one in the default folder, as far as they exist.

    Raises:
        UserError: the record of the last one cannot be read.
    """
    default = Path(TokenizerConfig.output_dir)
    places = dict.fromkeys([workspace.recall("tokenizer") or default, default])
    return [place for place in places if _is_there(place)]


def fitting_tokenizer(
    corpus: Corpus, vocab_size: int | None, say: Say
) -> tuple[Path, Tokenizer] | None:
    """A tokenizer that was trained on this text, and has this vocabulary if one is requested.

    First choice are the main tokenizers, then the others in this folder and beside the last one, such as those that
    were set aside.

    Args:
        corpus: the text.
        vocab_size: the requested vocabulary; None for any.
        say: gets a line for each of the others that is damaged.

    Raises:
        UserError: no other one fits, and a main tokenizer is damaged, so that a new one would take its place.
    """
    main = main_tokenizers()
    damaged: UserError | None = None
    for path in [*main, *_others(main)]:
        try:
            trained = origin(path)
            if trained.data_sha256 == corpus.sha256 and trained.has_size(vocab_size):
                return path, Tokenizer.load(path)
        except UserError as error:
            if path in main:
                damaged = damaged or error
            else:
                say(f"Left out: {error}")
    if damaged:
        raise damaged
    return None


def _others(main: list[Path]) -> list[Path]:
    """Further tokenizers in this folder and beside the main ones. Those with the highest numbers come first."""
    folders = dict.fromkeys([Path(), *(path.parent for path in main)])
    found = {path.parent for folder in folders for path in folder.glob(f"*/{SPECIFICATION}")}
    whole = {path for path in found if not durable.TEMPORARY.fullmatch(path.name)}
    return sorted(whole - {*main}, key=_by_number, reverse=True)


def _by_number(path: Path) -> tuple[str, int]:
    name, _, number = str(path).rpartition(".")
    return (name, int(number)) if re.fullmatch("[0-9]{1,9}", number) else (str(path), 0)


def _is_there(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return (path / SPECIFICATION).exists()
    return False
