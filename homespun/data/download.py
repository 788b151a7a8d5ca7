"""The name of a dataset flows in, one local file flows out: documents, each followed by a `<|endoftext|>` line.

A dataset of conversations becomes a .jsonl file instead, with a conversation on each line, see `conversations`.

The dataset is on the hub, built in, or a local file or folder. Only the needed part of a dataset on the hub is read.
Another process can continue an unfinished download, see `download_file`.
"""

import contextlib
import dataclasses
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from homespun import durable, workspace
from homespun.config import DownloadConfig
from homespun.data import conversations, documents
from homespun.data.dataset_files import on_hub, training_files
from homespun.data.download_file import CHAT_SUFFIX, Partial, Position, beside, finished_record
from homespun.data.hub import Changed, Hub, Missing
from homespun.data.text_formats.compression import COMPRESSIONS
from homespun.data.text_formats.cutting import Located
from homespun.errors import UserError
from homespun.terminal import Say, bar, counted, say

NUM_SAMPLES = 10_000
"""Default number of documents. All documents of a local source are taken."""
Source = Iterator[tuple[str, Position | None]]
"""Documents, each with the position after it, or None if reading cannot continue there."""


def download(
    config: DownloadConfig,
    say: Say = say,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch a dataset into one text file, and remember it as the newest data of this folder.

    Args:
        config: the dataset, the number of documents and the output file.
        say: receives each line of the report.
        sleep: waits a number of seconds before the hub is asked again.

    Raises:
        UserError: no such data, no network, not allowed, or the file cannot be written.
    """
    workspace.check()
    _check(config)
    plan = _plan(config)
    workspace.recall("data")  # a record that cannot be used is named before the work
    try:
        if plan.kind == "hub" and config.output is None and _as_chat(plan).is_begun():
            plan = _as_chat(plan)
        finished = finished_record(plan.output)
        if plan.kind == "hub" and finished and finished.get("request") == plan.request:
            say(f"{plan.output}: already there, {_amount(finished)}")
        else:
            try:
                finished = _fetch(plan, say, sleep)
            except _OtherSuffix as other:
                if config.output is not None:
                    raise UserError(
                        f"--output {plan.output}: {other.holds} are written as {other.suffix}: name it so"
                    ) from None
                plan = _as_chat(plan)
                finished_record(plan.output)
                finished = _fetch(plan, say, sleep)
            if plan.left_out:
                say(
                    f"Left out: {counted(len(plan.left_out), 'conversation')} with an empty message or without an "
                    f"answer; the first is {plan.left_out[0]}."
                )
            say(f"{plan.output}: {_amount(finished)}")
            if plan.wanted and finished["documents"] < plan.wanted:
                say(f"{plan.config.dataset} has no more documents; {plan.wanted:,} were asked for")
        workspace.remember("data", plan.output, say)
    except OSError as error:
        place = error.filename or plan.output
        raise UserError(f"{place}: {error.strerror or error}; choose another --output") from None
    return plan.output


Kind = Literal["stories", "questions", "local", "hub"]

OF_DATASETS = {
    "seed": ("stories", "stories-questions"),
    "plain": ("stories", "stories-questions"),
    "questions": ("stories-questions",),
    "difficulty": ("stories-questions",),
}
"""The datasets for which a setting has a meaning."""


@dataclass(frozen=True)
class _Plan:
    kind: Kind
    config: DownloadConfig
    wanted: int | None
    """Number of documents; None for all."""
    output: Path
    request: dict[str, Any]
    """The settings that two equal downloads share."""
    left_out: list[str] = dataclasses.field(default_factory=list)
    """Places of conversations that are left out."""

    def is_begun(self) -> bool:
        """Whether there is such a file, finished or not."""
        return self.output.exists() or beside(self.output, ".partial").exists()

    def check_suffix(self, is_chat: bool) -> None:
        """Make sure that the name of the file fits what the dataset holds.

        Raises:
            _OtherSuffix: it does not.
        """
        if is_chat != (self.output.suffix == CHAT_SUFFIX):
            raise _OtherSuffix(is_chat)


class _OtherSuffix(Exception):
    """The dataset holds something else than the name of the file says."""

    def __init__(self, is_chat: bool) -> None:
        super().__init__()
        self.holds = "conversations" if is_chat else "texts"
        self.suffix = CHAT_SUFFIX if is_chat else ".txt"


def _as_chat(plan: _Plan) -> _Plan:
    """The same for a dataset of conversations."""
    output = plan.output.with_suffix(CHAT_SUFFIX)
    _check_outside(output, plan)
    return dataclasses.replace(plan, output=output)


def _check_outside(output: Path, plan: _Plan) -> None:
    path = Path(plan.config.dataset).resolve()
    if plan.kind == "local" and path in (output.resolve(), output.resolve().parent):
        raise UserError(f"{output}: lies inside its own source; choose another --output")


def _check(config: DownloadConfig) -> None:
    """Refuse settings of built-in data where other data are asked for.

    Raises:
        UserError: there are some.
    """
    for name, datasets in OF_DATASETS.items():
        is_given = getattr(config, name) != getattr(DownloadConfig, name)
        if is_given and config.dataset not in datasets:
            raise UserError(
                f"--{name} goes with --dataset {' or '.join(datasets)}, not with {config.dataset}: leave it out"
            )


def _plan(config: DownloadConfig) -> _Plan:
    path = Path(config.dataset)
    kind: Kind
    wanted: int | None = config.num_samples or NUM_SAMPLES
    if config.dataset == "stories":
        kind, name = "stories", "stories"
    elif config.dataset == "stories-questions":
        kind, name = "questions", config.dataset
    elif path.exists():
        path = path.resolve()
        kind, name = "local", path.name if path.is_dir() else _bare(path)
        wanted = config.num_samples
    else:
        repository, subset = on_hub(config.dataset)
        kind, name = "hub", repository.split("/")[1].lower()
        name += f"-{subset.lower()}" if subset else ""
    name = re.sub(r"[^\w.-]+", "-", name)
    suffix = CHAT_SUFFIX if kind == "questions" else ".txt"
    output = Path(config.output or f"data/{name}_{wanted or 'all'}{suffix}")
    request = {"dataset": config.dataset, "num_samples": wanted}
    if kind in ("stories", "questions"):
        request |= {"seed": config.seed, "plain": config.plain}
    if kind == "questions":
        request["questions"] = config.questions
        if config.difficulty:
            request["difficulty"] = " ".join(config.difficulty)
    plan = _Plan(kind, config, wanted, output, request)
    _check_outside(output, plan)
    return plan


def _bare(path: Path) -> str:
    """The name of a file without its suffixes."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem


def _fetch(plan: _Plan, say: Say, sleep: Callable[[float], None]) -> dict[str, Any]:
    durable.make_folder(plan.output.parent)
    with Partial(plan.output, plan.request, say) as partial:
        if partial.position:
            say(f"{plan.output}: continuing after {counted(partial.n_documents, 'document')}")
        try:
            _take(_source(plan, partial.position, sleep), partial, plan.wanted, say)
        except (Changed, Missing) as error:
            was_resumed = partial.was_resumed
            partial.start_over()
            if not was_resumed:
                raise
            say(f"{plan.output}: starting over, because the dataset has changed ({error})")
            _take(_source(plan, None, sleep), partial, plan.wanted, say)
        if not partial.n_documents:
            raise UserError(f"{plan.config.dataset}: there is no text in it")
        return partial.finish()


def _take(source: Source, partial: Partial, wanted: int | None, say: Say) -> None:
    missing = None if wanted is None else wanted - partial.n_documents
    with _progress(partial.n_documents, wanted, say) as show:
        for document, position in itertools.islice(source, missing):
            partial.add(document, position)
            show()


def _source(plan: _Plan, position: Position | None, sleep: Callable[[float], None]) -> Source:
    if plan.kind == "stories":
        from homespun.stories import stories

        n, config = plan.wanted or NUM_SAMPLES, plan.config
        return ((story, None) for story in stories(n, config.seed, config.plain))
    if plan.kind == "questions":
        from homespun.stories import questions

        plan.check_suffix(is_chat=True)
        n, config = plan.wanted or NUM_SAMPLES, plan.config
        records = questions.conversations(
            n,
            config.seed,
            plain=config.plain,
            per_story=config.questions,
            difficulties=config.difficulty,
        )
        return ((json.dumps(record, ensure_ascii=False), None) for record in records)
    if plan.kind == "local":
        return ((document, None) for document in _local_documents(plan))
    return _hub_documents(Hub(sleep), plan, position)


def _local_documents(plan: _Plan) -> Iterator[str]:
    path = Path(plan.config.dataset)
    is_chat = conversations.holds_conversations(path)
    plan.check_suffix(is_chat)
    if is_chat:
        return conversations.documents_of(path, plan.left_out.append)
    return documents.documents(path)


def _hub_documents(hub: Hub, plan: _Plan, position: Position | None) -> Source:
    repository, subset = on_hub(plan.config.dataset)
    # A continued download keeps the commit that it started from.
    commit = position["commit"] if position else hub.commit(repository)
    files = training_files(hub.files(repository, commit), repository, subset)
    if position and position["file"] not in files:
        raise Changed(f"{position['file']} is no longer a part of it")
    if position:
        files = files[files.index(position["file"]) :]
    for path in files:
        start = 0
        with hub.open(repository, commit, path) as file:
            if position and path == position["file"]:
                if file.etag != position["etag"]:
                    raise Changed(f"{path} has changed")
                start = position["offset"]
            place = {"commit": commit, "file": path, "etag": file.etag}
            for document, offset in _documents_in(file.buffered(), path, start, plan):
                yield document, None if offset is None else {**place, "offset": offset}


def _documents_in(file: BinaryIO, name: str, start: int, plan: _Plan) -> Iterator[Located]:
    """The documents of a file, or its conversations."""
    is_chat = plan.output.suffix == CHAT_SUFFIX
    if not start:
        is_chat = conversations.begins_with_conversation(file, name)
        plan.check_suffix(is_chat)
    if not is_chat:
        yield from documents.read(file, name, start=start)
        return
    for conversation, place, position in conversations.read(file, name, start=start):
        if conversation:
            yield conversations.document_of(conversation.messages), position
        else:
            plan.left_out.append(place)


def _amount(record: dict[str, Any]) -> str:
    return f"{counted(record['documents'], 'document')}, {counted(record['bytes'], 'byte')}"


@contextlib.contextmanager
def _progress(n_documents: int, wanted: int | None, say: Say) -> Iterator[Callable[[], None]]:
    """Show the number of documents, as a bar on a terminal and otherwise in lines.

    Args:
        n_documents: fetched before.
        wanted: the number to reach; None if it is unknown.
        say: receives the lines.

    Yields:
        A function to be called after each document.
    """
    every = max(wanted // 10, 1_000) if wanted else 10 * NUM_SAMPLES
    total = f" of {wanted:,}" if wanted else ""
    in_lines = not sys.stderr.isatty()
    with bar("Fetching documents", wanted) as advance:
        advance(n_documents)

        def show() -> None:
            nonlocal n_documents
            n_documents += 1
            advance(1)
            if in_lines and n_documents % every == 0 and n_documents != wanted:
                say(f"{n_documents:,}{total} documents")

        yield show
