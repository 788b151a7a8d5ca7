"""Processes that train together: a run and the number of its ranks flow in, the bytes that they exchange come out."""

from dataclasses import dataclass

from homespun.architectures.families import count_in_blocks, count_parameters, parameters
from homespun.architectures.lora import Lora, count_trained
from homespun.config import ModelConfig

FLOAT32_BYTES, HALF_BYTES = 4, 2
BACKWARD = 2 / 3
"""Share of a backward pass in the time of a micro-batch."""


@dataclass(frozen=True)
class Ranks:
    """How many processes train together, and how."""

    n: int = 1
    on_machine: int = 1
    """Of them, those that share the memory of one machine. Each GPU has its own."""
    sharded: bool = False
    """They divide the weights and the gradients among each other. They always divide the moments."""

    def rows(self, sequences: int) -> int:
        """The most of the sequences of a step that a rank computes."""
        return -(-sequences // self.n)


ALONE = Ranks()


@dataclass(frozen=True)
class Traffic:
    """The bytes that each rank sends in a step. It receives as many."""

    gradients: int
    weights: int

    @property
    def total(self) -> int:
        return self.gradients + self.weights


def traffic(
    config: ModelConfig,
    ranks: Ranks,
    micro_batches: int,
    optimizer: str,
    lora: Lora | None = None,
    *,
    half: bool,
) -> Traffic:
    """The bytes of a step.

    Whole copies of a model add each gradient up once in a step, at the rank that updates the weight, and this rank
    sends the new weight to all. Divided models gather the weights of each block for the forward and again for the
    backward pass of every micro-batch, those outside the blocks once, and add the gradients up after each. Muon then
    takes the rows of each matrix to one rank and back.

    Args:
        micro_batches: those of a rank.
        half: it computes in 16 bits.
    """
    others = (ranks.n - 1) / ranks.n
    gradients = FLOAT32_BYTES * count_trained(config, lora)
    if not ranks.sharded:
        return Traffic(round(others * gradients), round(others * gradients))
    blocks = FLOAT32_BYTES * count_in_blocks(config)
    outside = FLOAT32_BYTES * count_parameters(config) - blocks
    number_bytes = HALF_BYTES if half else FLOAT32_BYTES
    matrices = [p for p in parameters(config) if p.group == "matrix"]
    exchanged = 0.0
    if lora is not None:  # the model lies in the precision of the computation
        blocks += gradients - (FLOAT32_BYTES - number_bytes) * sum(p.size for p in matrices)
    elif optimizer == "muon":
        whole = sum(p.size for p in matrices if len(p.shape) == 2)
        exchanged = 2 * number_bytes * whole / ranks.n
    weights = micro_batches * (2 * blocks + outside) + exchanged
    return Traffic(round(others * micro_batches * gradients), round(others * weights))


def exposed_seconds(
    sent: Traffic, ranks: Ranks, micro_batches: int, micro_seconds: float, bytes_per_second: float
) -> float:
    """The time of a step in which ranks only wait for each other, if bytes travel while they compute.

    The sums of the gradients hide behind the backward pass, in whole copies behind the last one. The new weights of
    whole copies do not hide. Divided models gather weights behind both passes.
    """
    sums, weights = sent.gradients / bytes_per_second, sent.weights / bytes_per_second
    backward = BACKWARD * micro_seconds
    if not ranks.sharded:
        return max(0.0, sums - backward) + weights
    return max(0.0, sums + weights - micro_batches * micro_seconds)
