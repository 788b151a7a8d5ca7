"""A model and how it is trained in, the bytes that a step takes out: what does not fit is refused before it is tried.

The estimate follows what the engines keep, so the two limits that they share with it stand here.
"""

from homespun.config import ModelConfig
from homespun.model.spec import count_parameters, parameters

LONGEST_IN_FULL = 512
"""Up to this context a CPU that computes in bfloat16 is faster with all attention weights in memory: the backward pass
of its flash kernel makes many small products (benchmarks/attention.py)."""
HEAD_ROWS = 512
"""Positions whose logits exist at a time."""


def training_bytes(
    config: ModelConfig, batch_size: int, optimizer: str, *, half: bool, checkpointing: bool
) -> int:
    """Estimated memory of a training step above that of the bare process."""
    c = config
    weights = count_parameters(c)
    number = 2 if half else 4  # bytes of what is computed, while what is trained has 4
    tokens = batch_size * c.seq_len

    # Weights, gradients and two moments, of which Muon has one for the matrices.
    matrices = sum(p.size for p in parameters(c) if p.group == "matrix")
    trained = 4 * (4 * weights - (matrices if optimizer == "muon" else 0))

    # For the backward pass each token leaves in a block the inputs of every product and norm, and where attention is
    # computed in full, its weights; with checkpointing the block's input alone, and the rest of one block at a time.
    heads = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim
    wide = (3 if c.architecture == "qwen3" else 2) * c.d_ff
    in_full = c.n_heads * c.seq_len if half and c.seq_len <= LONGEST_IN_FULL else 0
    block = 4 * c.d_model + 2 * heads + c.n_heads * c.head_dim + wide + in_full
    blocks = c.n_layers * c.d_model + block if checkpointing else c.n_layers * block
    kept = number * tokens * blocks

    # Some rows of logits with their derivative, and the gradient of the matrix that they come from.
    head = min(tokens, HEAD_ROWS) * c.vocab_size * (4 + number) + 4 * c.vocab_size * c.d_model

    # A product casts the weights that it uses.
    cast = number * weights if half else 0
    return trained + kept + head + cast
