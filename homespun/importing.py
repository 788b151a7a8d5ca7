"""A model of other programs flows in, the folder of an ordinary checkpoint flows out."""

import shlex
import shutil
from pathlib import Path

from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BEST
from homespun.config import ImportConfig
from homespun.data.hub_model import NAME, download_model
from homespun.errors import UserError
from homespun.model_formats.formats import model_name, open_model
from homespun.model_formats.stored_model import StoredModel, header_of
from homespun.terminal import Say, bar, counted


def import_model(config: ImportConfig, say: Say) -> Path:
    """Write a model as `best.npz` into a folder, from which `generate`, `export` and `load` read it.

    Args:
        config: the model and the folder.
        say: receives messages.

    Returns:
        The folder.

    Raises:
        UserError: there is no such model, it is damaged or not supported, or the folder cannot be written. Nothing is
            written then.
    """
    source = Path(config.source)
    folder = CheckpointFolder(Path(config.output or model_name(source)))
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"{folder.path}: this file is in the way: choose another --output")
    if source.exists() or not NAME.fullmatch(config.source):
        _write(source, folder, say)
        return folder.path
    downloads = folder.path.with_name(f"{folder.path.name}.download")
    download_model(config.source, downloads, say)
    _write(downloads, folder, say)
    shutil.rmtree(downloads, ignore_errors=True)
    return folder.path


def _write(source: Path, folder: CheckpointFolder, say: Say) -> None:
    """Write the model at a path into a folder.

    Raises:
        UserError: see `import_model`.
    """
    if not source.exists():
        raise UserError(f"{source}: there is no such file or folder")
    stored = open_model(source, report=say)
    if folder.path.exists() and source.resolve().is_relative_to(folder.path.resolve()):
        raise UserError(f"{folder.path} holds the model itself: choose another --output")
    with folder.lock() as lock:
        if earlier := lock.set_aside():
            say(f"An earlier run is now {earlier}.")
        with bar(f"Writing {folder.path / BEST[0]}", None):
            folder.save_best(stored.step, stored.tensors(), header_of(stored))
    say(f"Written: {folder.path / BEST[0]}, {describe(stored)}.")
    answers = stored.chat_template is not None
    place = shlex.quote(str(folder.path))
    say(f"Try it: homespun {'chat' if answers else 'generate --checkpoint'} {place}")


def describe(stored: StoredModel) -> str:
    """The shape of a model in words."""
    c = stored.config
    return (
        f"{c.architecture}, {counted(c.n_layers, 'layer')} x {c.d_model}, {c.vocab_size:,} tokens, "
        f"context {c.seq_len:,}"
    )
