"""A model and how it is trained in, the bytes that a step takes out: what does not fit is refused before it is tried.

The estimate follows what the engines keep, so the two limits that they share with it stand here.
"""

from homespun.architectures.families import count_parameters, family, parameters
from homespun.config import ModelConfig
from homespun.engine.base import HEAD_ROWS, LONGEST_IN_FULL


def training_bytes(
    config: ModelConfig, batch_size: int, optimizer: str, *, half: bool, checkpointing: bool
) -> int:
    """Estimated memory of a training step above that of the bare process; within 15% of what it takes on a CPU
    (benchmarks/memory.py)."""
    c = config
    weights = count_parameters(c)
    number = 2 if half else 4  # bytes of what is computed, while what is trained has 4
    tokens = batch_size * c.seq_len

    # Weights, gradients and two moments, of which Muon has one for the matrices.
    matrices = sum(p.size for p in parameters(c) if p.group == "matrix")
    trained = 4 * (4 * weights - (matrices if optimizer == "muon" else 0))

    # What a token leaves in a block for the backward pass; where attention is computed in full, its weights too.
    kept_by_block = family(c.architecture).activations(c)
    in_full = c.n_heads * c.seq_len if half and c.seq_len <= LONGEST_IN_FULL else 0
    block = tokens * (4 * kept_by_block.float32 + number * (kept_by_block.computed + in_full))
    cast = number * matrices if half else 0  # each product casts its weights
    if checkpointing:  # of a block its input alone, and the rest of one block at a time
        kept = c.n_layers * tokens * number * c.d_model + block + cast // c.n_layers
    else:
        kept = c.n_layers * block + cast

    # Gradients of one block's activations on their way, and of the head some rows of logits with their derivative, and
    # its own gradient with the part that the rows add to it.
    head = min(tokens, HEAD_ROWS) * c.vocab_size * 12
    head += c.vocab_size * c.d_model * (4 + number + (number if half else 0))
    return trained + kept + block + head
