"""The name of a model on the hub flows in, a folder with its files flows out: weights as safetensors, shape, tokenizer.

A file that is not complete is called NAME.ETAG.partial, and another run continues it. It gets its name once its hash
is that of the hub.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from homespun import durable
from homespun.data.hub import Changed, Hub, Missing, RemoteFile
from homespun.errors import UserError, cannot_write
from homespun.terminal import Say, bar, size

NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""A repository: its owner and its name."""

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
OTHERS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors.index.json",
)
PICKLED = re.compile(r"pytorch_model.*\.bin")

PIECE = 1 << 20
"""Bytes that are read at a time."""


def download_model(
    name: str, folder: Path, say: Say, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Fetch the files of a model, or those that are still missing.

    Args:
        name: OWNER/NAME.
        folder: the place of the files, which is made.
        say: receives messages.
        sleep: waits for some seconds between attempts.

    Raises:
        UserError: the hub cannot be reached, there is no such model, it has no safetensors, or the folder cannot be
            written. What has arrived stays.
    """
    hub = Hub(sleep, "models")
    try:
        commit = hub.commit(name)
    except Missing:
        raise UserError(
            f"{name}: there is no such file or folder, nor a model on the hub"
        ) from None
    wanted = _wanted(name, hub.files(name, commit))
    try:
        durable.make_folder(folder)
        for path in wanted:
            if not (folder / path).exists():
                _fetch(hub.open(name, commit, path), folder / path, say)
    except OSError as error:
        raise cannot_write(
            error, f"{folder} cannot be written", "choose another --output"
        ) from error


def _wanted(name: str, paths: Iterable[str]) -> list[str]:
    """The files that a model needs, small ones first.

    Raises:
        UserError: a kind of file is missing.
    """
    paths = list(paths)
    weights = sorted(path for path in paths if WEIGHTS.fullmatch(path))
    others = [path for path in OTHERS if path in paths]
    if not weights and any(PICKLED.fullmatch(path) for path in paths):
        raise UserError(
            f"{name}: its weights are pickled, which can run any program: choose a model with safetensors"
        )
    for needed, found in (
        ("safetensors", weights),
        ("config.json", others),
        ("tokenizer.json", others),
    ):
        if not found or (needed in OTHERS and needed not in found):
            raise UserError(f"{name}: has no {needed}: choose another model")
    return others + weights


def _fetch(remote: RemoteFile, path: Path, say: Say) -> None:
    """Download a file, from the place where an earlier download stopped.

    Raises:
        Changed: the hash of the content is not that of the hub.
        OSError: the file cannot be written.
    """
    etag = remote.etag or ""
    partial = path.with_name(f"{path.name}.{re.sub('[^0-9a-zA-Z]', '', etag)[:40]}.partial")
    with remote, partial.open("ab") as file, bar(path.name, remote.size) as advance:
        begun = min(file.tell(), remote.size)
        if begun:
            say(f"{path.name}: continuing at {size(begun)} of {size(remote.size)}.")
            advance(begun)
        remote.seek(begun)
        while piece := remote.read(PIECE):
            file.write(piece)
            advance(len(piece))
        durable.sync(file)
    if partial.stat().st_size != remote.size or not _has_hash(partial, etag):
        partial.unlink()
        raise Changed(f"{path.name}: damaged in transfer (its hash differs); run this again")
    partial.rename(path)
    durable.sync_folder(path.parent)


def _has_hash(path: Path, etag: str) -> bool:
    """Whether an ETag belongs to a file: the SHA-256 of a large one, the name that git gives to a small one."""
    if re.fullmatch("[0-9a-f]{64}", etag):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", etag):
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return True  # a mirror that states no hash
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest() == etag


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
