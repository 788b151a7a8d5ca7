"""homespun's own format: an archive of weights with its header flows in, a stored model comes out."""

from collections.abc import Mapping
from pathlib import Path

from homespun.architectures.families import model_config, parameters
from homespun.checkpoint.archive import Archive
from homespun.config import ModelConfig
from homespun.errors import UserError
from homespun.model_formats.stored_model import StoredModel
from homespun.tokenizer import Tokenizer


def from_checkpoint(archive: Archive) -> StoredModel:
    """The model in an archive of weights.

    Raises:
        UserError: the archive does not describe its model, or holds other tensors than it describes.
    """
    header = archive.header
    try:
        config = model_config(header["model"])
        tokenizer = Tokenizer.from_json(header["tokenizer"], where=str(archive.path))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{archive.path} does not describe its model ({error}): name another file"
        ) from None
    shapes = {name: info.shape for name, info in archive.arrays.items()}
    _check_shapes(archive.path, config, shapes)
    return StoredModel(archive.path, config, tokenizer, archive.tensors, header, archive.step)


def _check_shapes(path: Path, config: ModelConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes before memory is allocated for the model that a file claims to hold.

    Raises:
        UserError: they differ.
    """
    expected = {p.name: p.shape for p in parameters(config)}
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path} does not fit its own description: {name} is {found.get(name)}, "
                f"not {expected.get(name)}: name another file"
            )
