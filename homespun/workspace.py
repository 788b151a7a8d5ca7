"""The places of a project: its newest download and its newest tokenizer, by name.

The names are kept in `.homespun.json` in the working directory. File times play no part, because copying or touching
a file must not change which text a run reads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from homespun import durable
from homespun.errors import UserError

RECORD = Path(".homespun.json")

Kind = Literal["data", "tokenizer"]


def check() -> None:
    """Check that there is a working directory.

    Raises:
        UserError: it was deleted, or it cannot be reached.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(
            f"the working directory cannot be used ({error.strerror}): change to another one"
        ) from None


def remember(kind: Kind, path: Path, say: Callable[[str], object]) -> None:
    """Record `path` as the newest one of its kind. Where the record cannot be written, `say` gets a line about it: the
    work is done, and the next command can name the path.

    Raises:
        UserError: the record is damaged, or cannot be read.
    """
    with _readable_record():
        known = durable.read_json(RECORD)
    try:
        durable.write_json(RECORD, known | {kind: str(path)})
    except OSError as error:
        flag = "--data-file" if kind == "data" else "--tokenizer-path"
        say(
            f"{RECORD} cannot be written ({error.strerror}), so this folder does not remember {path}: name it with "
            f"{flag}"
        )


def recall(kind: Kind) -> Path | None:
    """The newest path of its kind, or None if there is none.

    Raises:
        UserError: the record cannot be read.
    """
    with _readable_record():
        path = durable.read_json(RECORD).get(kind)
    return Path(path) if isinstance(path, str) else None


def chosen_data(named: str | None) -> Path:
    """The text of this name, or without a name the last download.

    Raises:
        UserError: there is no name and no download, or the record cannot be read.
    """
    path = Path(named) if named else recall("data")
    if path is None:
        raise UserError(
            "there is no text yet: name a file with --data-file, or get some with "
            "homespun download --dataset stories (needs no network)"
        )
    return path


@contextmanager
def _readable_record() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{RECORD} in this folder cannot be used ({error.strerror}): move it away"
        ) from None
    except durable.DamagedRecord as error:
        raise UserError(
            f"{error}: delete it, it only names the last download and the last tokenizer; "
            "--data-file and --tokenizer-path name others"
        ) from None
