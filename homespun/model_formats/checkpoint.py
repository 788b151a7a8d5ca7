"""homespun's own format: an archive of weights with its header flows in, a stored model comes out."""

from homespun.architectures.families import model_config, parameters
from homespun.checkpoint.archive import Archive, check_structure
from homespun.checkpoint.stored_values import restored
from homespun.config import ModelConfig
from homespun.errors import UserError
from homespun.model_formats.stored_model import StoredModel
from homespun.tokenizer import Tokenizer

TOKENIZER_STRUCTURE = 1 << 16, 256
"""Characters of a tokenizer outside of its strings that are always allowed, and more for each token. A file has about
20 for each token, and twice as many for each of its merges."""


def from_checkpoint(archive: Archive) -> StoredModel:
    """The model in an archive of weights. All that the archive claims is compared with what it holds before it costs
    memory or time.

    Raises:
        UserError: the archive does not describe its model, or holds other tensors than it describes.
    """
    header, path = archive.header, archive.path
    try:
        config = model_config(header["model"])
        _check_shapes(archive, config)
        text = restored(str, header["tokenizer"], "the tokenizer")
        fixed, per_token = TOKENIZER_STRUCTURE
        check_structure(text, fixed + per_token * config.vocab_size)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not describe its model ({error}): name another file"
        ) from None
    tokenizer = Tokenizer.from_json(text, where=str(path))
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path} does not fit its own description: its tokenizer has {tokenizer.vocab_size:,} tokens, its model "
            f"{config.vocab_size:,}: name another file"
        )
    return StoredModel(path, config, tokenizer, archive.tensors, header, archive.step)


def _check_shapes(archive: Archive, config: ModelConfig) -> None:
    """Compare names and shapes before memory is allocated for the model that a file claims to hold.

    Raises:
        UserError: they differ.
    """
    wrong = f"{archive.path} does not fit its own description"
    if config.n_layers > len(archive.arrays):
        raise UserError(
            f"{wrong}: it has {len(archive.arrays):,} arrays for {config.n_layers:,} layers: name another file"
        )
    expected = {p.name: p.shape for p in parameters(config)}
    found = {name: info.shape for name, info in archive.arrays.items()}
    for name in (*expected, *found):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{wrong}: {name} is {found.get(name)}, not {expected.get(name)}: name another file"
            )
