"""The name of a dataset on the hub and the names of its files flow in; those that hold its training text flow out."""

import re
from collections.abc import Iterable

from homespun.data.text_formats.compression import suffix as suffix_of
from homespun.data.text_formats.formats import SUFFIXES
from homespun.errors import UserError

BEST_FILES = {"roneneldan/tinystories": "TinyStoriesV2-GPT4-train.txt"}
"""The file to take from a dataset that holds several versions of its text."""


def on_hub(dataset: str) -> tuple[str, str | None]:
    """Split `owner/name:subset` into repository and subset."""
    name = r"[A-Za-z0-9][\w.-]*"
    match = re.fullmatch(rf"({name}/{name})(?::(\S+))?", dataset)
    if not match or suffix_of(dataset) in SUFFIXES:
        raise UserError(
            f"--dataset {dataset}: not a local file or folder, and not a dataset on the hub "
            "(owner/name or owner/name:subset); `stories` is built in"
        )
    return match[1], match[2]


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
