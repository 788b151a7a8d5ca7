"""The facts that each family of models states: parameters, cost and Hugging Face layout, without any framework.

Parameters have the names of Hugging Face's model of the family. Matrices are stored [out, in].
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from homespun.config import ModelConfig

Group = Literal["matrix", "embedding", "head", "vector"]
"""How an optimizer treats a parameter: Muon updates the matrices, and AdamW all other groups, or all of them."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of a model."""

    name: str
    shape: tuple[int, ...]
    group: Group
    std: float = 0.0
    """Standard deviation of the initial values, which are normally distributed around `mean`."""
    mean: float = 0.0
    stacked: int = 1
    """Number of matrices that are stacked along the rows, such as one for each attention head. Muon orthogonalises each
    of them separately: this costs less than one large matrix, and the model learns as well."""

    @property
    def decay(self) -> bool:
        """Whether weight decay applies: to matrices and embeddings, not to biases and norms."""
        return self.group != "vector"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Activations:
    """How many numbers one block keeps for its backward pass, for each token."""

    float32: int
    """Kept in float32 in every precision: inputs of norms."""
    computed: int
    """Kept in the precision of the computation, without attention weights."""


class Family(ABC):
    """Models that have the same kind of block. Stateless: each method takes the shape of a model."""

    name: str
    huggingface_class: str
    """The class of `transformers` that runs these models."""
    block_prefix: str
    """Names of the parameters of block i begin with `block_prefix.i.`"""
    has_grouped_heads: bool
    """Whether several attention heads may share one key/value head."""

    @abstractmethod
    def check(self, config: ModelConfig) -> None:
        """Raise a UserError if this family has no model of this shape."""

    @abstractmethod
    def default_shape(self, n_layers: int, d_model: int, n_heads: int) -> ModelConfig:
        """The usual proportions at this depth and width. A family with a usual head size ignores `n_heads`."""

    @abstractmethod
    def default_d_ff(self, d_model: int) -> int:
        """The usual width inside the feed-forward layers."""

    @abstractmethod
    def parameters(self, config: ModelConfig) -> list[Parameter]:
        """All parameters of a model, in the order in which the model uses them. Tied weights appear once."""

    @abstractmethod
    def activations(self, config: ModelConfig) -> Activations:
        """How many numbers one block keeps for the backward pass."""

    @abstractmethod
    def huggingface_config(self, config: ModelConfig) -> dict[str, Any]:
        """The content of `config.json`, from which `transformers` builds the same model."""

    def is_transposed(self, name: str) -> bool:
        """Whether Hugging Face stores this matrix as [in, out]."""
        return False

    def active_parameters(self, config: ModelConfig) -> int:
        """Number of weights that one token uses."""
        return sum(p.size for p in self.parameters(config))

    def flops_per_token(self, config: ModelConfig) -> int:
        """Floating-point operations of training on one token: 6 per weight of a matrix product (2 forward, 4 backward),
        and attention over a full context (PaLM, Chowdhery et al., 2022, appendix B)."""
        in_products = sum(p.size for p in self.parameters(config) if p.group in ("matrix", "head"))
        if config.tie_embeddings:
            in_products += config.vocab_size * config.d_model
        attention = 12 * config.n_layers * config.n_heads * config.head_dim * config.seq_len
        return 6 * in_products + attention
