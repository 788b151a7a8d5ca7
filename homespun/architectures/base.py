"""The facts that each family of models states: parameters, cost and Hugging Face layout, without any framework.

Parameters have the names of Hugging Face's model of the family. Matrices are stored [out, in].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from homespun.config import ModelConfig
from homespun.errors import UserError

Group = Literal["matrix", "embedding", "head", "vector", "adapter"]
"""How an optimizer treats a parameter: Muon updates the matrices, and AdamW all other groups, or all of them. Adapters
are those of LoRA."""


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
    is_router: bool = False
    """Whether it chooses the experts of a token. Formats do not quantise it, since rounding would change the choice."""

    @property
    def decay(self) -> bool:
        """Whether weight decay applies: to matrices and embeddings, not to biases and norms."""
        return self.group != "vector"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of one of the stacked matrices."""
        columns = self.shape[-1]
        return self.size // columns // self.stacked, columns


class Part(NamedTuple):
    """A tensor of a file that holds a parameter, or a part of it."""

    name: str
    place: tuple[int | slice, ...] = ()
    """Where in the parameter: `values[place]`."""


@dataclass(frozen=True)
class Activations:
    """How many numbers one block keeps for its backward pass, for each token."""

    float32: int
    """Kept in float32 in every precision: inputs of norms."""
    computed: int
    """Kept in the precision of the computation, without attention weights."""


@dataclass(frozen=True)
class GGUFLayout:
    """The differences between families in a GGUF file."""

    norm_eps: str
    """Its key, after the name of the family."""
    has_rotary_positions: bool
    interleaves_rotary_pairs: bool = False
    """Whether rows of queries and keys that turn together are neighbours, not half a head apart."""
    architecture: str = ""
    """The family's name there, if it is another one."""
    numbers: tuple[tuple[str, str], ...] = ()
    """More keys, after the name of the family, each with the field of `ModelConfig` that it states."""


class Family(ABC):
    """Models that have the same kind of block. Stateless: each method takes the shape of a model."""

    name: str
    huggingface_class: str
    """The class of `transformers` that runs these models."""
    block_prefix: str
    """Names of the parameters of block i begin with `block_prefix.i.`"""
    has_grouped_heads: bool
    """Whether several attention heads may share one key/value head."""
    expert_family: str = ""
    """The family that has this block with experts as its feed-forward layer; this one if it has experts itself."""
    gguf: GGUFLayout
    """How llama.cpp stores these models."""

    @abstractmethod
    def check(self, config: ModelConfig) -> None:
        """Raise a UserError if this family has no model of this shape."""

    @abstractmethod
    def default_shape(self, n_layers: int, d_model: int, n_heads: int) -> ModelConfig:
        """The usual proportions at this depth and width. A family with a usual head size ignores `n_heads`."""

    @abstractmethod
    def default_d_ff(self, d_model: int) -> int:
        """The usual width inside the feed-forward layers."""

    def with_experts(self, config: ModelConfig) -> ModelConfig:
        """The shape with usual values for open settings of experts; a family without experts returns it as it is."""
        return config

    @abstractmethod
    def parameters(self, config: ModelConfig) -> list[Parameter]:
        """All parameters of a model, in the order in which the model uses them. Tied weights appear once."""

    @abstractmethod
    def activations(self, config: ModelConfig) -> Activations:
        """How many numbers one block keeps for the backward pass."""

    @abstractmethod
    def huggingface_config(self, config: ModelConfig) -> dict[str, Any]:
        """The content of `config.json`, from which `transformers` builds the same model."""

    @abstractmethod
    def from_huggingface_config(self, values: Mapping[str, Any]) -> ModelConfig:
        """The shape that a `config.json` describes; the inverse of `huggingface_config`.

        Raises:
            UserError: the file asks for something that this family does not have.
            KeyError: an entry is missing.
        """

    def is_transposed(self, name: str) -> bool:
        """Whether Hugging Face stores this matrix as [in, out]."""
        return False

    def canonical_name(self, name: str) -> str | None:
        """The name here of a tensor in a Hugging Face file; None for constants that such files may hold."""
        return None if name.endswith(".rotary_emb.inv_freq") else name

    def huggingface_parts(self, parameter: Parameter) -> list[Part]:
        """The tensors of a parameter in a published Hugging Face folder, named as there."""
        return [Part(parameter.name)]

    def merged_parts(self, parameter: Parameter) -> list[Part]:
        """The tensors of a parameter in GGUF files and MLX folders, before they are renamed for the format."""
        return [Part(parameter.name)]

    def check_for_gguf(self, config: ModelConfig) -> None:  # noqa: B027 - most families have no limits
        """Raise a UserError if llama.cpp has no model of this shape."""

    def check_for_mlx(self, config: ModelConfig) -> None:  # noqa: B027 - most families have no limits
        """Raise a UserError if mlx-lm has no model of this shape."""

    def mlx_name(self, name: str) -> str:
        """The name of a parameter in mlx-lm."""
        return name

    def active_size(self, parameter: Parameter, config: ModelConfig) -> int:
        """Number of weights of a parameter that one token uses, and is multiplied with."""
        return parameter.size

    def active_parameters(self, config: ModelConfig) -> int:
        """Number of weights that one token uses."""
        return sum(self.active_size(p, config) for p in self.parameters(config))

    def flops_per_token(self, config: ModelConfig) -> int:
        """Floating-point operations of training on one token: 6 per weight of a matrix product (2 forward, 4 backward),
        and attention over a full context (PaLM, Chowdhery et al., 2022, appendix B)."""
        in_products = sum(
            self.active_size(p, config)
            for p in self.parameters(config)
            if p.group in ("matrix", "head")
        )
        if config.tie_embeddings:
            in_products += config.vocab_size * config.d_model
        attention = 12 * config.n_layers * config.n_heads * config.head_dim * config.seq_len
        return 6 * in_products + attention


def refuse_other_settings(
    values: Mapping[str, Any], supported: Mapping[str, Collection[Any]]
) -> None:
    """Refuse a `config.json` in which a setting has a value that a family does not have.

    Args:
        values: the content of the file.
        supported: by setting, the values that the family has. A setting may be missing in the file.

    Raises:
        UserError: another value.
    """
    for name, known in supported.items():
        if name in values and not any(values[name] == value for value in known):
            raise UserError(f"its {name} is {values[name]!r}, which is not supported")
