"""Settings flow in; the tokens of a text flow out, made by several processes, where `train` finds them."""

import contextlib
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from homespun import workspace
from homespun.config import TOKENS_DIR, PrepareConfig
from homespun.data.cleaning.clean import Filters, clean, record_of
from homespun.data.conversations import holds_conversations
from homespun.data.corpus import Corpus
from homespun.data.encoding import EncodingProcesses
from homespun.data.prepare import (
    ENCODING_THREADS,
    Encoder,
    Prepared,
    already_prepared,
    check_folder,
    prepare,
)
from homespun.data.remote import write_record
from homespun.data.shards import Shard
from homespun.data.text_file import is_described
from homespun.engine import hardware
from homespun.errors import UserError
from homespun.terminal import Say, counted, duration, size
from homespun.tokenizer import Tokenizer
from homespun.training.text_stage import choose_text, choose_tokenizer


def prepare_text(config: PrepareConfig, say: Say) -> Prepared:
    """Make the tokens of a text, the same ones that `train` makes.

    Args:
        config: the text, the tokenizer, the number of processes.
        say: receives messages, and facts about the tokens.

    Raises:
        UserError: the text cannot be read or holds conversations, the tokenizer does not fit, or the tokens cannot be
            written. Finished parts stay.
    """
    workspace.check()
    folder = Path(config.tokens_dir)
    check_folder(folder)
    if config.tokenizer_path:
        Tokenizer.load(Path(config.tokenizer_path))  # a mistake is found before the work
    n_workers = config.workers or hardware.usable_cpus()
    path = workspace.chosen_data(config.data_file)
    if not is_described(path) and holds_conversations(path):
        raise UserError(
            f"{path} holds conversations, whose tokens depend on the model that learns from them: "
            "`homespun train --init-from MODEL` makes them"
        )
    if config.drops and is_described(path):
        raise UserError(
            f"{path} describes a text: leave documents out of the texts that it names, one by one"
        )
    if config.drops:
        path = _cleaned(config, path, n_workers, say)
    corpus = choose_text(str(path), say, folder, n_workers=n_workers)
    tokenizer = choose_tokenizer(config.tokenizer_path, config.vocab_size, corpus, say)
    prepared = already_prepared(corpus, tokenizer, folder, any_split=False)
    pace = "already there"
    if prepared is None:
        begun = time.monotonic()
        with encoder(tokenizer, n_workers) as encodes:
            n_threads = max(ENCODING_THREADS, n_workers)
            prepared = prepare(corpus, encodes, folder, say=say, threads=n_threads)
        seconds = time.monotonic() - begun
        pace = (
            f"{duration(seconds)} with {counted(n_workers, 'process', 'processes')}, "
            f"{corpus.n_bytes / 1e6 / max(seconds, 1e-3):,.1f} MB/s"
        )
    write_records(corpus, tokenizer, prepared)
    for name, fact in facts_in_words(config, corpus, prepared, pace).items():
        say(f"{name:<8}{fact}")
    return prepared


def write_records(corpus: Corpus, tokenizer: Tokenizer, prepared: Prepared) -> None:
    """Let folders of tokens tell all that a run elsewhere needs to know."""
    sources = zip(corpus.sources or (corpus,), prepared.sources or (prepared,), strict=True)
    for text, tokens in sources:
        if text.remote is None:
            facts = ("sha256", "n_documents", "n_bytes", "validation_bytes")
            streams = {"training": tokens.training, "validation": tokens.validation}
            sides = {
                side: [shard for shard in stream.shards if isinstance(shard, Shard)]
                for side, stream in streams.items()
            }
            write_record(
                tokens.folder, {name: getattr(text, name) for name in facts}, tokenizer, sides
            )


def _cleaned(config: PrepareConfig, path: Path, n_workers: int, say: Say) -> Path:
    """The folder with the documents that are kept, made now or earlier."""
    name = re.sub(r"[^\w.-]+", "-", path.name if path.is_dir() else path.name.partition(".")[0])
    output = Path(config.output or f"data/{name.strip('-') or 'text'}_clean")
    filters = Filters(
        poor=config.drop_poor,
        duplicates=config.drop_duplicates != "no",
        near_duplicates=config.drop_duplicates == "near",
        similarity=config.similarity,
    )
    report = clean(path, output, filters, n_workers)
    if report is None:
        say(f"{output}: already there, see {record_of(output)}")
    else:
        for line in report.table():
            say(line)
        say(f"{output}: {counted(report.kept.documents, 'document')}; report: {record_of(output)}")
    return output


@contextlib.contextmanager
def encoder(tokenizer: Tokenizer, n_workers: int) -> Iterator[Encoder]:
    """Encodes in this process, or in several others."""
    if n_workers == 1:
        yield tokenizer
        return
    with EncodingProcesses(tokenizer, n_workers) as processes:
        yield processes


def facts_in_words(
    config: PrepareConfig, corpus: Corpus, prepared: Prepared, pace: str | None = None
) -> dict[str, str]:
    """The tokens in words, by topic. `pace`: the time that they took, if it is to be told."""
    n_training, n_validation = len(prepared.training), len(prepared.validation)
    again = "homespun train"
    for flag, value in (
        ("--data-file", str(corpus.path) if config.data_file or config.drops else None),
        ("--tokenizer-path", config.tokenizer_path),
        ("--tokens-dir", config.tokens_dir if config.tokens_dir != TOKENS_DIR else None),
    ):
        if value:
            again += f" {flag} {shlex.quote(value)}"
    return {
        "text": f"{corpus.path}: {counted(corpus.n_documents, 'document')}, {size(corpus.n_bytes)}",
        "tokens": f"{n_training:,} for training and {n_validation:,} for validation",
        "folder": ", ".join(str(one.folder) for one in prepared.sources or (prepared,)),
        **({"time": pace} if pace else {}),
        "next": again,
    }
