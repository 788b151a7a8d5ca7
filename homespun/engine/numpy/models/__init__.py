"""Tokens flow in, the normed hidden states flow out: one file for each family of models, named after it.

A model file has two public names: `FUSED`, the matrices that are stored as one, and `Model`.
"""

from collections.abc import Mapping
from typing import Protocol

from homespun.config import ModelConfig
from homespun.data.batch import Tokens
from homespun.engine.base import Floats
from homespun.engine.numpy.layers import Apart, Matrix, Positions, Watch, Weights
from homespun.engine.numpy.narrow import Cache
from homespun.engine.numpy.products import Products


class Model(Protocol):
    """The forward pass of one model, without the head."""

    embedding: Matrix
    """[V, D]"""

    def __call__(
        self,
        tokens: Tokens,
        positions: Positions,
        cache: Cache,
        apart: Apart | None = None,
        watch: Watch | None = None,
    ) -> Floats:
        """Read tokens [B, T] at `positions` and add their keys and values to the cache [layers, B, 2 * K, S, C].

        `apart` as in `layers.attention`. `watch` keeps what is computed on the way.

        Returns the normed hidden states [B, T, D].
        """

    def normed(self, x: Floats) -> Floats:
        """The last norm, [N, D] -> [N, D]."""


class ModelFile(Protocol):
    """The public names of a family's file."""

    FUSED: Mapping[str, str]
    """Matrices that are applied to the same vector, and the name of the one matrix that they form."""

    def Model(self, config: ModelConfig, weights: Weights, own: Products | None = None) -> Model:
        """The model with these weights, which it reads but does not change, and compiled functions if there are any."""
