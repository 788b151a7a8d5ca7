"""The name of a dataset flows in, one local file flows out: documents, each followed by a `<|endoftext|>` line.

A dataset of conversations becomes a .jsonl file instead, with a conversation on each line, see `conversations`.

The dataset is on the hub, built in, or a local file or folder. Only the needed part of a dataset on the hub is read.
An unfinished file is called OUTPUT.partial, and OUTPUT.partial.json beside it records the progress, so that another
process can continue after a kill. OUTPUT.json beside the finished file describes it.

A line of a document that is exactly `<|endoftext|>` gets a space in front, so that it stays text.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from homespun import durable, workspace
from homespun.config import DownloadConfig
from homespun.data import conversations, documents
from homespun.data.hub import Changed, Hub, Missing
from homespun.errors import UserError
from homespun.terminal import Say, bar, counted, say
from homespun.tokenizer import END_OF_TEXT

NUM_SAMPLES = 10_000
"""Default number of documents. All documents of a local source are taken."""
CHAT_SUFFIX = ".jsonl"
"""Of files of conversations."""
COMMIT = 1 << 20
"""Bytes of text between two records of the progress."""

BEST_FILES = {"roneneldan/tinystories": "TinyStoriesV2-GPT4-train.txt"}
"""The file to take from a dataset that holds several versions of its text."""

Position = dict[str, Any]
"""A place in a dataset on the hub: commit, file, etag of the file, offset in the file."""
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
    plan = _plan(config)
    workspace.recall("data")  # a record that cannot be used is named before the work
    try:
        if plan.kind == "hub" and config.output is None and _as_chat(plan).is_begun():
            plan = _as_chat(plan)
        finished = _finished(plan.output)
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
                _finished(plan.output)
                finished = _fetch(plan, say, sleep)
            if plan.left_out:
                say(
                    f"Left out: {counted(len(plan.left_out), 'conversation')} with an empty message or without an "
                    f"answer; the first is {plan.left_out[0]}."
                )
            say(f"{plan.output}: {_amount(finished)}")
            if plan.wanted and finished["documents"] < plan.wanted:
                say(f"{plan.config.dataset} has no more documents; {plan.wanted:,} were asked for")
        workspace.remember("data", plan.output)
    except OSError as error:
        place = error.filename or plan.output
        raise UserError(f"{place}: {error.strerror or error}; choose another --output") from None
    return plan.output


Kind = Literal["stories", "questions", "local", "hub"]


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
        return self.output.exists() or _beside(self.output, ".partial").exists()

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
        repository, subset = _on_hub(config.dataset)
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
    plan = _Plan(kind, config, wanted, output, request)
    _check_outside(output, plan)
    return plan


def _bare(path: Path) -> str:
    """The name of a file without its suffixes."""
    return Path(path.stem).stem if path.suffix.lower() in documents.COMPRESSIONS else path.stem


def _on_hub(dataset: str) -> tuple[str, str | None]:
    """Split `owner/name:subset` into repository and subset."""
    name = r"[A-Za-z0-9][\w.-]*"
    match = re.fullmatch(rf"({name}/{name})(?::(\S+))?", dataset)
    if not match or documents.suffix(dataset) in documents.SUFFIXES:
        raise UserError(
            f"--dataset {dataset}: not a local file or folder, and not a dataset on the hub "
            "(owner/name or owner/name:subset); `stories` is built in"
        )
    return match[1], match[2]


def is_as_downloaded(path: Path) -> bool | None:
    """Whether a text has the SHA-256 that was recorded at its download; None if there is no record of one.

    Raises:
        OSError: the text or its record cannot be read.
        DamagedRecord: the record is damaged.
    """
    sha256 = durable.read_json(record_of(path)).get("sha256")
    return None if sha256 is None else _sha256(path) == sha256


def record_of(output: Path) -> Path:
    """The file that describes a finished download."""
    return _beside(output, ".json")


def _finished(output: Path) -> dict[str, Any] | None:
    """The record of an earlier download, if its file is unchanged; None if there is no file.

    Raises:
        UserError: another file is in the way. It is not overwritten.
    """
    if not output.exists():
        return None
    try:
        record = durable.read_json(record_of(output))
    except durable.DamagedRecord as error:
        raise UserError(
            f"{output}: this file is in the way, and its record {error}; "
            "move both, or choose another --output"
        ) from None
    if output.is_file():
        sha256 = _sha256(output)
        if record.get("sha256") == sha256:
            return record
        if record.get("replaces") == sha256:
            return None  # a later download wrote its record and was killed before renaming its file
    raise UserError(
        f"{output}: this file is in the way and is not an unchanged earlier download; "
        "move it, or choose another --output"
    )


def _fetch(plan: _Plan, say: Say, sleep: Callable[[float], None]) -> dict[str, Any]:
    durable.make_folder(plan.output.parent)
    with _Partial(plan.output, plan.request, say) as partial:
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


def _take(source: Source, partial: "_Partial", wanted: int | None, say: Say) -> None:
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
            n, config.seed, plain=config.plain, per_story=config.questions
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
    repository, subset = _on_hub(plan.config.dataset)
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


def _documents_in(
    file: BinaryIO, name: str, start: int, plan: _Plan
) -> Iterator[documents.Located]:
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


def training_files(paths: Iterable[str], repository: str, subset: str | None) -> list[str]:
    """The files that hold the training text of a dataset, in order.

    A subset is named after its folder; `sample-10BT` also stands for `sample/10BT`. The default is the folder `data`,
    else the files outside of all folders, else the only folder.

    Raises:
        UserError: there is no such file, or the choice is ambiguous.
    """
    files = sorted(paths)
    best = BEST_FILES.get(repository.lower())
    if best in files and not subset:
        return [best]
    kinds = (".parquet", ".jsonl", ".txt")
    for suffix in kinds:
        if any(path.lower().endswith(suffix) for path in files):
            files = [path for path in files if path.lower().endswith(suffix)]
            break
    else:
        raise UserError(f"{repository}: none of its files is {', '.join(kinds)}")
    chosen = _chosen(files, repository, subset)
    files = [path for path in files if _folder(path) in chosen]
    training = [path for path in files if _mentions(path, "train|training")]
    others = "test|testing|valid|validation|val|dev|eval"
    training = training or [path for path in files if not _mentions(path, others)]
    if not training:
        raise UserError(f"{repository}: no training split; it has {_listed(files)}")
    return training


def _chosen(files: list[str], repository: str, subset: str | None) -> set[str]:
    """The folders of a subset."""
    folders = sorted({_folder(path) for path in files})
    if subset:
        chosen = {folder for folder in folders if _is_named(folder, subset)}
        if not chosen:
            raise UserError(f"{repository}: no subset '{subset}'; it has {_listed(folders)}")
        return chosen
    tops = sorted({folder.split("/")[0] for folder in folders})
    top = next((top for top in ("data", "") if top in tops), tops[0])
    if top not in ("data", "") and len(tops) > 1:
        raise UserError(
            f"{repository}: has subsets; choose one as {repository}:{folders[0]}; "
            f"it has {_listed(folders)}"
        )
    return {folder for folder in folders if folder.split("/")[0] == top}


def _is_named(folder: str, subset: str) -> bool:
    """Whether a part of the path equals the subset, with dashes for all separators."""
    spelled, wanted = (re.sub(r"[^a-z0-9]+", "-", name.lower()) for name in (folder, subset))
    return f"-{wanted}-" in f"-{spelled}-"


def _mentions(path: str, words: str) -> bool:
    return re.search(rf"(?<![a-z])({words})(?![a-z])", path.lower()) is not None


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _listed(names: list[str]) -> str:
    shown = ", ".join(name or "/" for name in names[:8])
    return shown + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


class _Partial:
    """The unfinished file, and the record of its progress.

    The record is written after the text that it covers is on the disk, and holds the SHA-256 of this text. Text beyond
    the record is cut off when another process continues. If record or text are damaged, the download starts over.
    """

    def __init__(self, output: Path, request: dict[str, Any], say: Say) -> None:
        self._output = output
        self._path = _beside(output, ".partial")
        self._record_path = _beside(output, ".partial.json")
        self._finished_path = record_of(output)
        self._request = request
        self._file = self._path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._path.exists():  # renamed by another download, which has just finished
                raise BlockingIOError
        except BlockingIOError:
            self._file.close()
            raise UserError(f"{output}: is being written by another download") from None
        ours = (self._record_path.name, self._finished_path.name)
        durable.remove_leftovers(output.parent, lambda name: name in ours)
        try:
            record = self._resumable()
        except durable.DamagedRecord as error:
            say(f"{output}: starting over, because {error}")
            record = None
        if record:
            self._file.truncate(record["bytes"])
            self._record = record
        else:
            self.start_over()
        self.was_resumed = self.position is not None
        self.n_documents: int = self._record["documents"]
        self._n_bytes = self._n_bytes_recorded = self._record["bytes"]

    def _resumable(self) -> dict[str, Any] | None:
        """The record of an earlier start of this download, and its text hashed; None if there is none.

        Raises:
            DamagedRecord: the record or its text is damaged.
        """
        record = durable.read_json(self._record_path)
        if record.get("request") != self._request:
            return None
        self._digest = _digest(self._path, record["bytes"])
        if self._digest.hexdigest() != record.get("sha256"):
            raise durable.DamagedRecord(f"{self._path} is damaged (its SHA-256 differs)")
        return record

    @property
    def position(self) -> Position | None:
        """The position after the documents in the file."""
        position: Position | None = self._record["position"]
        return position

    def start_over(self) -> None:
        """Empty the file."""
        self._record_path.unlink(missing_ok=True)
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self._record = {"request": self._request, "position": None, "documents": 0, "bytes": 0}
        self.n_documents = self._n_bytes = self._n_bytes_recorded = 0
        self.was_resumed = False

    def add(self, document: str, position: Position | None) -> None:
        """Append a document and its separator, or a conversation as a line."""
        mark = END_OF_TEXT
        if self._output.suffix == CHAT_SUFFIX:
            encoded = f"{document}\n".encode()
        else:
            if mark in document:
                document = re.sub(rf"^(?={re.escape(mark)}$)", " ", document, flags=re.MULTILINE)
            encoded = f"{document}\n{mark}\n".encode()
        self._n_bytes += self._file.write(encoded)
        self._digest.update(encoded)
        self.n_documents += 1
        if position is not None:
            self._record["position"] = position
            self._record["documents"] = self.n_documents
            self._record["bytes"] = self._n_bytes
            self._record["sha256"] = self._digest.hexdigest()
            if self._n_bytes - self._n_bytes_recorded >= COMMIT:
                self._commit()

    def _commit(self) -> None:
        durable.sync(self._file)
        durable.write_json(self._record_path, self._record)
        self._n_bytes_recorded = self._n_bytes

    def finish(self) -> dict[str, Any]:
        """Give the file its final name, and return the record beside it.

        Raises:
            UserError: the file is not as it was written.
        """
        durable.sync(self._file)
        sha256 = self._digest.hexdigest()
        if _sha256(self._path) != sha256:
            self.start_over()
            raise UserError(f"{self._path}: damaged while it was being written; run this again")
        finished = {
            "request": self._request,
            "source": self.position,
            "documents": self.n_documents,
            "bytes": self._n_bytes,
            "sha256": sha256,
            "replaces": _sha256(self._output) if self._output.exists() else None,
        }
        durable.write_json(self._finished_path, finished)
        self._path.replace(self._output)
        self._record_path.unlink(missing_ok=True)
        durable.sync_folder(self._output.parent)
        return finished

    def __enter__(self) -> "_Partial":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with contextlib.suppress(OSError):  # such as a full disk, which `error` reports already
            if error and self.position:
                self._commit()
            elif error:
                self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path, n_bytes: int) -> "hashlib._Hash":
    """The SHA-256 of the first bytes of a file, ready to be updated with the bytes that follow."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while n_bytes > 0 and (block := file.read(min(n_bytes, COMMIT))):
            digest.update(block)
            n_bytes -= len(block)
    return digest


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
