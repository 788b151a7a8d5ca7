"""The estimate of memory: what it grows with, and what it does not."""

import dataclasses

from homespun.architectures.families import count_parameters, parameters
from homespun.architectures.presets import PRESETS
from homespun.planning.estimate import training_bytes


def test_memory_holds_weights_gradients_and_moments_and_grows_with_the_batch() -> None:
    small = dataclasses.replace(PRESETS["gpt2-small"], seq_len=512)
    weights = count_parameters(small)
    matrices = sum(p.size for p in parameters(small) if p.group == "matrix")

    def needed(batch_size: int, optimizer: str = "adamw", **options: bool) -> int:
        settings = {"half": False, "checkpointing": False} | options
        return training_bytes(small, batch_size, optimizer, **settings)

    assert needed(1) > 16 * weights
    assert needed(1) < needed(2) < needed(16)
    # What the forward pass keeps grows with the batch; all else does not.
    assert needed(16) - needed(8) == 2 * (needed(8) - needed(4))
    assert needed(8) - needed(8, "muon") == 4 * matrices
    assert needed(16, half=True) < needed(16)
    assert needed(16, checkpointing=True) < needed(16) / 2
