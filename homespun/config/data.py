"""Settings for getting text and for training a tokenizer on it."""

from dataclasses import dataclass

from homespun.config.checked import Checked, PathName, setting

TOKENS_DIR = "data/tokens"
"""The default folder of tokens, in the working directory."""


@dataclass(frozen=True)
class DownloadConfig(Checked):
    """Download a dataset and write it as one local text file."""

    dataset: PathName = setting(
        "roneneldan/TinyStories",
        "A dataset on the Hugging Face hub with a text column (owner/name or owner/name:subset), `stories` for the "
        "built-in stories (no network needed), `stories-questions` for conversations about them, or a local file or "
        "folder of .txt, .jsonl or .parquet files.",
    )
    num_samples: int | None = setting(
        None, "Number of documents; if omitted, 10,000, or all of a local file.", at_least=1
    )
    output: PathName | None = setting(
        None, "Output file; if omitted, data/NAME_N.txt (or NAME_all.txt)."
    )
    seed: int = setting(0, "Random seed of the built-in stories.", at_least=0)
    plain: bool = setting(
        False,
        "Plain built-in stories, with fewer words, wordings and kinds of mishaps, which a small model learns sooner.",
    )
    questions: int = setting(
        6, "Questions about each story of `stories-questions`, at most.", at_least=1, at_most=100
    )


@dataclass(frozen=True)
class TokenizerConfig(Checked):
    """Train a byte-level BPE tokenizer on the training part of the data."""

    data_file: PathName | None = setting(None, "Text to train on; if omitted, the last download.")
    vocab_size: int = setting(
        8000,
        "Number of tokens, including the 256 bytes and the end-of-text token; fewer if the text does not support as "
        "many.",
        at_least=257,
        at_most=1_000_000,
    )
    output_dir: PathName = setting("tokenizer_model", "Output folder.")
