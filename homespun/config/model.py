"""The shape of a model, which is stored with its weights."""

from dataclasses import dataclass

from homespun.config.checked import REQUIRED, Checked, setting
from homespun.errors import UserError

LONGEST_CONTEXT = 1 << 17
"""Tokens."""


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The shape of a model: all that is needed, with the weights, to run it."""

    architecture: str = setting(REQUIRED, "Model family.")
    """`architectures.families.model_config` checks the shape against the family."""
    vocab_size: int = setting(50257, "Tokens in the vocabulary.", at_least=2)
    seq_len: int = setting(256, "Context length in tokens.", at_least=2, at_most=LONGEST_CONTEXT)
    n_layers: int = setting(8, "Number of blocks.", at_least=1, at_most=10_000)
    d_model: int = setting(512, "Width of the residual stream.", at_least=2)
    n_heads: int = setting(8, "Attention heads.", at_least=1)
    n_kv_heads: int = setting(8, "Key/value heads.", at_least=1)
    head_dim: int = setting(64, "Width of one attention head.", at_least=1)
    d_ff: int = setting(2048, "Width of the feed-forward layers.", at_least=1)
    experts: int = setting(
        0, "Experts of a mixture; 0 where the family has none.", at_least=0, at_most=4096
    )
    experts_per_token: int = setting(0, "Experts that a token uses.", at_least=0)
    d_expert: int = setting(0, "Width of the feed-forward layer of one expert.", at_least=0)
    dense_layers: int = setting(0, "First blocks that have no experts.", at_least=0)
    tie_embeddings: bool = setting(True, "The output layer shares the token embeddings.")
    norm_eps: float = setting(1e-5, "Epsilon of the normalisation layers.", above=0, at_most=1)
    rope_theta: float = setting(10000.0, "Base of the rotary frequencies.", at_least=1, at_most=1e9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"{self.n_heads} attention heads cannot share {self.n_kv_heads} key/value heads: "
                "--n-heads has to be a multiple of --n-kv-heads"
            )
