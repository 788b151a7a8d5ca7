"""A path flows in, a line for each of its files flows out: a summary of the content, or the fault.

Every byte is read and checked against the stored hashes, and the files of a folder are checked against each other.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.checkpoint.archive import Archive, CheckpointError, read_archive
from homespun.checkpoint.folder import Checkpoint, CheckpointFolder
from homespun.checkpoint.names import BEST, METRICS, OF_THE_START
from homespun.checkpoint.opening import open_base
from homespun.data.download_file import is_as_downloaded, record_of
from homespun.data.prepare import INDEX, folder_name, read_index
from homespun.data.remote import RECORD
from homespun.data.shards import open_shard
from homespun.errors import UserError
from homespun.records.reading import read_lines
from homespun.terminal import counted
from homespun.tokenizer import REPORT, Tokenizer, read_report

Check = Callable[[], str]
"""Reads a file and returns a summary; raises a UserError if the file is damaged."""

SHARD = ".tokens"
TOKENIZER = "tokenizer.json"
UNFINISHED = ".partial"


def verify(path: Path) -> Iterator[str]:
    """Check a checkpoint or the folder of a run, a token shard or a folder of shards, a tokenizer, or a download or a
    folder of downloads.

    Yields:
        A line for each file.

    Raises:
        UserError: the file is damaged. For a folder it is raised after all lines, if a file in it is damaged.
    """
    if not path.is_dir():
        yield _result(partial(_file, path))
        return
    checked = damaged = 0
    for check in _folder_checks(path):
        checked += 1
        try:
            yield _result(check)
        except UserError as error:
            damaged += 1
            yield str(error)
    if damaged:
        raise UserError(f"{path}: {damaged} of {checked} cannot be used, see above")


def _result(check: Check) -> str:
    """The summary of a file.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    try:
        return check()
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _file(path: Path) -> str:
    if path.suffix == SHARD:
        return _shard(path)
    if path.name == METRICS:
        return _metrics(path, _openable(CheckpointFolder(path.parent)))
    if path.name == TOKENIZER:
        return _tokenizer(path.parent)
    if path.exists() and record_of(path).exists():
        return _download(path)
    return _archive(path)


def _archive(path: Path) -> str:
    return _whole(read_archive(path))


def _folder_checks(path: Path) -> Iterator[Check]:
    """The checks for a folder, which depend on its kind.

    Raises:
        UserError: there is nothing in the folder to check, or it cannot be read.
    """
    folder = CheckpointFolder(path)
    if folder.steps() or any((path / name).exists() for name in (*BEST, *OF_THE_START, METRICS)):
        return _run_checks(folder)
    if (path / INDEX).exists() or any(path.glob(f"*{SHARD}")):
        return _shard_checks(path)
    if (path / TOKENIZER).exists():
        return iter([partial(_tokenizer, path)])
    entries = set(path.glob("*"))
    texts = sorted(entry for entry in entries if record_of(entry) in entries)
    if finished := [text for text in texts if text.suffix != UNFINISHED]:
        return (partial(_download, text) for text in finished)
    raise UserError(
        f"{path}: there is no run, no tokens, no tokenizer and no download: name the folder of one, or a file"
    )


def _run_checks(folder: CheckpointFolder) -> Iterator[Check]:
    whole: list[Checkpoint] = []

    def checkpoint(step: int) -> str:
        found = folder.open(step)
        line = _whole(found)
        whole.append(found)
        return line

    for name in OF_THE_START:
        if (folder.path / name).exists():
            yield partial(_archive, folder.path / name)
    for step in folder.steps():
        yield partial(checkpoint, step)
    best = [folder.path / name for name in BEST if (folder.path / name).exists()]
    if best or (whole and _best_val_loss(whole[0]) is not None):
        yield partial(_best, best[0] if best else folder.path / BEST[0], whole)
    if (folder.path / METRICS).exists():
        yield partial(_metrics, folder.path / METRICS, whole)


def _openable(folder: CheckpointFolder) -> list[Checkpoint]:
    """The checkpoints in a folder whose headers are whole."""
    found = []
    for step in folder.steps():
        with contextlib.suppress(CheckpointError):
            found.append(folder.open(step))
    return found


def _whole(found: Archive | Checkpoint) -> str:
    found.verify()
    open_base(found if isinstance(found, Archive) else found.weights)
    return f"{found.path}: step {found.step:,}, whole"


def _best_val_loss(checkpoint: Checkpoint) -> float | None:
    """The lowest validation loss of the run up to this checkpoint; None if it is not stored."""
    try:
        loss = checkpoint.state.header["position"]["guard"]["best_val_loss"]
    except (LookupError, TypeError):
        return None
    return loss if isinstance(loss, float) else None


def _best(path: Path, whole: list[Checkpoint]) -> str:
    """Check the best weights.

    Their loss must not be above the lowest loss that the newest checkpoint states, unless that one evaluates otherwise.
    """
    archive = read_archive(path)
    line = _whole(archive)
    if not whole or _evaluation(archive) != _evaluation(whole[0].weights):
        return line
    loss, known = archive.header.get("val_loss"), _best_val_loss(whole[0])
    if known is not None and isinstance(loss, float) and loss > known:
        raise CheckpointError(
            f"{path}: its validation loss is {loss:.4f}, but {whole[0].path.name} states {known:.4f}: "
            "it is older, or belongs to another run"
        )
    return line


def _evaluation(weights: Archive) -> list[Any]:
    """The settings on which a validation loss depends."""
    resolved = weights.header.get("resolved")
    settings = resolved if isinstance(resolved, dict) else {}
    return [settings.get(name) for name in ("eval_tokens", "precision")]


def _metrics(path: Path, whole: list[Checkpoint]) -> str:
    """Check the record of a run.

    Steps must ascend. For each checkpoint, a line must end at the stored length, and all lines up to there must have
    the stored hash; steps up to the checkpoint must be before that place, and later steps after it.
    """
    ends, steps, hashes = [0], [0], [""]
    for end, sha256, record in read_lines(path):
        if record["step"] < steps[-1]:
            raise UserError(
                f"{path}, line {len(ends)}: step {record['step']} after step {steps[-1]}"
            )
        ends.append(end)
        steps.append(record["step"])
        hashes.append(sha256)
    for checkpoint in reversed(whole):
        stored, step = checkpoint.state.header, checkpoint.step
        length, hash_then = stored.get("metrics_length"), stored.get("metrics_sha256")
        n = ends.index(length) if length in ends else len(ends)
        if n == len(ends) or steps[n] > step or any(later < step for later in steps[n + 1 :]):
            raise UserError(
                f"{path}: not the record that {checkpoint.path.name} was saved with, "
                f"which had {length} bytes up to step {step:,}"
            )
        if hash_then not in (None, hashes[n]):  # earlier versions stored none
            raise UserError(
                f"{path}: not the record that {checkpoint.path.name} was saved with: "
                f"a line up to step {step:,} has changed"
            )
    return f"{path}: {counted(len(ends) - 1, 'record')} up to step {steps[-1]:,}, whole"


def _shard_checks(path: Path) -> Iterator[Check]:
    def index() -> str:
        n_shards = sum(map(len, read_index(path).values()))
        return f"{path / INDEX}: {counted(n_shards, 'shard')}"

    def record() -> str:
        n_bytes = durable.read_json(path / RECORD).get("n_bytes", 0)
        return f"{path / RECORD}: tokens of {counted(n_bytes, 'byte')} of text, whole"

    yield index
    if (path / RECORD).exists():
        yield record
    try:
        listed = {
            name: sha256 for side in read_index(path).values() for name, sha256 in side.items()
        }
    except (OSError, UserError):
        listed = {}
    for name in sorted({*listed, *(shard.name for shard in path.glob(f"*{SHARD}"))}):
        yield partial(_shard, path / name, listed.get(name), path.name)


def _shard(path: Path, text_sha256: str | None = None, folder: str | None = None) -> str:
    """Check a shard against its header and, if they are known, against the index and the name of its folder."""
    try:
        header = open_shard(path).header
    except UserError as error:
        raise UserError(
            f"{error}; without this file the next run with its text makes it again"
        ) from None
    home = folder_name(header.data_sha256, header.tokenizer_sha256)
    if folder not in (None, home):
        raise UserError(
            f"{path}: made from another text or by another tokenizer: it belongs into {home}"
        )
    if text_sha256 not in (None, header.text_sha256):
        raise UserError(f"{path}: holds other documents than {INDEX} states")
    n_tokens = counted(header.n_tokens, "token")
    return f"{path}: {n_tokens} of {counted(header.n_documents, 'document')}, whole"


def _tokenizer(folder: Path) -> str:
    tokenizer = Tokenizer.load(folder)
    line = f"{folder / TOKENIZER}: {tokenizer.vocab_size:,} tokens"
    if "sha256" not in read_report(folder):
        return f"{line}; not checked, because {REPORT} has no hash"
    return f"{line}, whole"


def _download(path: Path) -> str:
    try:
        is_whole = is_as_downloaded(path)
        documents = durable.read_json(record_of(path)).get("documents")
    except durable.DamagedRecord as error:
        raise UserError(f"{path}: not checked, because {error}: download it again") from None
    if is_whole is None:
        return f"{path}: not checked, because {record_of(path).name} has no hash"
    if not is_whole:
        raise UserError(f"{path}: changed since its download: move it away and download it again")
    size = counted(documents, "document") if type(documents) is int else "unknown size"
    return f"{path}: {size}, whole"
