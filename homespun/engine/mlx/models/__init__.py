"""The models, one file a family, under the family's name; each file defines `Model`."""

from importlib import import_module

from homespun.architectures.families import family
from homespun.engine.mlx.model import DecoderModel


def model_class(architecture: str) -> type[DecoderModel]:
    """The model of a family.

    Raises:
        UserError: there is no such family.
    """
    module = import_module(f"{__name__}.{family(architecture).name}")
    found: type[DecoderModel] = module.Model
    return found
