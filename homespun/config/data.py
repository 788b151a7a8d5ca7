"""Settings for getting text and for training a tokenizer on it."""

import re
from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import Checked, PathName, setting
from homespun.errors import UserError

Duplicates = Literal["no", "exact", "near"]
Difficulty = Literal["easy", "medium", "hard"]

LEAST_VOCAB_SIZE = 257
"""Every tokenizer has all bytes and the mark that separates documents."""
TOKENS_DIR = "data/tokens"
"""The default folder of tokens, in the working directory."""


@dataclass(frozen=True)
class DownloadConfig(Checked):
    """Download a dataset and write it as one local text file."""

    dataset: PathName = setting(
        "roneneldan/TinyStories",
        "A dataset of texts or conversations on the Hugging Face hub (owner/name or owner/name:subset), `stories` for "
        "the built-in stories (no network needed), `stories-questions` for conversations about them, or a local file "
        "or folder of .txt, .md, .jsonl or .parquet files.",
    )
    num_samples: int | None = setting(
        None, "Number of documents; if omitted, 10,000, or all of a local file.", at_least=1
    )
    output: PathName | None = setting(
        None,
        "Output file; if omitted, data/NAME_N.txt (or NAME_all.txt), .jsonl for conversations.",
    )
    seed: int = setting(0, "Random seed of the built-in stories.", at_least=0)
    plain: bool = setting(
        False,
        "Plain built-in stories, with fewer words, wordings and kinds of mishaps, which a small model learns sooner.",
    )
    questions: int = setting(
        6, "Questions about each story of `stories-questions`, at most.", at_least=1, at_most=100
    )
    difficulty: tuple[Difficulty, ...] = setting(
        (),
        "With `stories-questions`: the questions about a story are all easy, medium or hard, as drawn from these; a "
        "story without such questions is left out.",
        if_omitted="all questions",
    )


@dataclass(frozen=True)
class TokenizerConfig(Checked):
    """Train a byte-level BPE tokenizer on the training part of the data."""

    data_file: PathName | None = setting(None, "Text to train on; if omitted, the last download.")
    vocab_size: int = setting(
        8000,
        "Number of tokens, including the 256 bytes and the end-of-text token; fewer if the text does not support as "
        "many.",
        at_least=LEAST_VOCAB_SIZE,
        at_most=1_000_000,
    )
    output_dir: PathName = setting("tokenizer_model", "Output folder.")


@dataclass(frozen=True)
class PrepareConfig(Checked):
    """Turn a text into tokens before training, in several processes. The next run with this text starts at once."""

    data_file: PathName | None = setting(
        None,
        "Text: a .txt, .md, .jsonl or .parquet file, a folder of them, or a pattern in quotes, such as "
        "'web/**/*.parquet'; if omitted, the last download.",
    )
    workers: int | None = setting(
        None,
        "Number of processes. The result does not depend on it.",
        if_omitted="one for each usable processor",
        at_least=1,
        at_most=1024,
    )
    tokenizer_path: PathName | None = setting(
        None,
        "Tokenizer: a folder or a tokenizer.json; if omitted, one here that was trained on this text, or else a new "
        "one.",
    )
    vocab_size: int | None = setting(
        None,
        "Number of tokens, if a tokenizer is trained.",
        if_omitted="4,096",
        at_least=LEAST_VOCAB_SIZE,
        at_most=1_000_000,
    )
    tokens_dir: PathName = setting(
        TOKENS_DIR, "Folder for the tokens, which `homespun train` uses."
    )
    drop_duplicates: Duplicates = setting(
        "no",
        "Leave out documents that equal an earlier one (exact), or also those that are nearly the same (near), which "
        "needs pip install 'homespun[clean]'.",
    )
    similarity: float = setting(
        0.8,
        "Near duplicates have at least this share of their runs of five words in common.",
        at_least=0.5,
        at_most=0.95,
    )
    drop_poor: bool = setting(
        False,
        "Leave out documents that are very short, mostly digits and symbols, repetitive or random.",
    )
    output: PathName | None = setting(
        None,
        "With --drop-duplicates or --drop-poor: the folder for the documents that are kept.",
        if_omitted="data/NAME_clean",
    )

    part: str | None = setting(
        None,
        "Do one of several parts of the work, such as 1/4. Start each part on a machine of its own that reads the same "
        "text and shares --tokens-dir.",
        if_omitted="the whole",
    )
    cluster: PathName | None = setting(
        None,
        "Let a cluster do the work: a TOML file with its kind and its settings; needs pip install 'homespun[cluster]'.",
        if_omitted="this machine does the work",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part is not None:
            _ = self.part_and_parts  # refuses other values
        for flag, value in (("--part", self.part), ("--cluster", self.cluster)):
            if value is not None and self.drops:
                raise UserError(
                    f"{flag} divides the work on a finished text: first leave documents out on one machine, then name "
                    "the new folder with --data-file"
                )
        if self.part is not None and self.cluster is not None:
            raise UserError("--cluster starts all parts by itself: leave --part out")
        if self.similarity != PrepareConfig.similarity and self.drop_duplicates != "near":
            raise UserError(
                "--similarity is that of near duplicates: add --drop-duplicates near, or leave it out"
            )
        if self.output is not None and not self.drops:
            raise UserError(
                "--output is the folder of the documents that are kept: add --drop-duplicates or --drop-poor, or leave "
                "it out"
            )

    @property
    def part_and_parts(self) -> tuple[int, int]:
        """The part, from 0, and the number of parts.

        Raises:
            UserError: `part` is not written as K/N.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.part or "1/1")
        part, n_parts = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= part <= n_parts:
            raise UserError(
                f"--part is {self.part!r}: write the number of the part and the number of all parts, such as 1/4"
            )
        return part - 1, n_parts

    @property
    def drops(self) -> bool:
        """Whether documents are left out."""
        return self.drop_poor or self.drop_duplicates != "no"
