"""The memory and the time that training takes, estimated from the shape of a model and the settings of a run.

This is the only place that estimates them, so that all commands report the same numbers.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from homespun.architectures.base import Parameter
from homespun.architectures.families import (
    count_in_blocks,
    count_parameters,
    family,
    flops_per_token,
    parameters,
)
from homespun.architectures.lora import Lora, count_trained, trained_parameters
from homespun.config import ModelConfig
from homespun.engine.base import HEAD_ROWS
from homespun.engine.low_memory import narrow_parameters
from homespun.engine.muon import LARGEST_NARROW_STACK, MAX_STACK_SIZE
from homespun.engine.traits import StepTraits
from homespun.planning.answers import TOGETHER
from homespun.planning.ranks import ALONE, Ranks

FLOAT32_BYTES = 4
HALF_BYTES = 2
"""bfloat16 or float16."""

UTILISATION = 0.4
"""Share of a machine's peak speed in matrix products that training is expected to reach."""
CHECKS_PER_RUN = 10
"""Evaluations of a run, and rounds of samples, where no interval is given."""
EVALUATION_COST = 0.25
"""Cost of evaluating a token, in training tokens; measured on CPUs."""
MAX_EVALUATION_SHARE = 0.03
"""Where no interval is given, an evaluation costs at most this fraction of the training since the one before."""


@dataclass(frozen=True)
class Computing:
    """How a training step is computed: all that its memory depends on, besides the model and the batch."""

    optimizer: str
    traits: StepTraits
    """Of the machine."""
    checkpointing: bool = False
    """The backward pass computes the activations of each block again."""
    masked: bool = True
    """Documents begin inside the sequences, so that a mask keeps them apart."""
    accumulates: bool = False
    """A step has several micro-batches: all gradients are there while the next one is computed."""
    lora: Lora | None = None
    """Adapters are trained alone, with the matrices in the precision of the computation."""
    low_memory: bool = False
    """Matrices and embeddings have weights, gradients and moments in bfloat16."""
    averaging: bool = False
    """There are means of the weights as well."""
    ranks: Ranks = ALONE
    """The processes that train together."""
    has_reference: bool = False
    """The model that the run began from is there as well, and stays as it is."""
    writes_answers: bool = False
    """A step begins with writing answers."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step by their use, above those of the bare process."""

    weights: int
    gradients: int
    moments: int
    """The state of the optimizer, and means of the weights."""
    activations: int
    """Numbers that the forward pass keeps for the backward pass, and those of one block during its backward pass."""
    casts: int
    """Copies of the matrices in the precision of the computation."""
    mask: int
    """Which tokens see each other, so that documents are kept apart: some bytes for each pair in a sequence."""
    logits: int
    """Some rows of logits with their derivatives, and copies of the output layer."""
    gathered: int
    """Where ranks divide the weights: those of some blocks, and their gradients, from all ranks."""
    update: int
    """Of the update of the weights, beyond the memory of activations, casts, mask and logits, gone by then."""
    initial_model: int = 0
    """Its weights, to which a run with a reward stays close."""
    answers: int = 0
    """Of writing them, beyond all that only training needs, and that is not there yet: a copy of the weights in the
    precision of the computation, the keys and values of all texts that are written together, and the numbers of one
    block while it reads their prompts."""

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def training_memory(config: ModelConfig, batch_size: int, computing: Computing) -> TrainingMemory:
    """Estimated memory of a training step (benchmarks/planning.py compares it with the measured one), on each rank if
    several train together.

    Args:
        batch_size: sequences in a micro-batch.
    """
    c, traits, lora = config, computing.traits, computing.lora
    spec = parameters(c)
    narrow = kept_narrow(spec, computing)
    saved = (FLOAT32_BYTES - HALF_BYTES) * sum(p.size for p in spec if p.name in narrow)
    parameter_bytes = FLOAT32_BYTES * count_parameters(c) - saved
    sizes = [p.size for p in spec if p.group == "matrix"]
    matrices = sum(sizes)
    number_bytes = HALF_BYTES if traits.half else FLOAT32_BYTES
    tokens = batch_size * c.seq_len

    trained_bytes = FLOAT32_BYTES * count_trained(c, lora) - saved
    weights = parameter_bytes
    if lora is not None:
        weights += trained_bytes - (FLOAT32_BYTES - number_bytes) * matrices

    kept = family(c.architecture).activations(c)
    attention_weights = c.n_heads * c.seq_len if traits.keeps_attention else 0
    block = tokens * (
        FLOAT32_BYTES * kept.float32 + number_bytes * (kept.computed + attention_weights)
    )
    casts = number_bytes * matrices if (traits.half or narrow) and lora is None else 0
    activations = c.n_layers * block
    if computing.checkpointing:  # the input of every block, and everything of one block at a time
        activations = c.n_layers * tokens * number_bytes * c.d_model + block
        casts //= c.n_layers
    scattered = 0.0
    if computing.accumulates or lora is not None:
        scattered = min(traits.scattered_blocks, traits.scattered_of_each * c.n_layers)
    recomputing = traits.recomputing_blocks if computing.checkpointing else 0.0
    blocks = traits.transient_blocks + max(scattered, recomputing)
    activations = math.floor(activations * (1 + traits.lost) + blocks * block)

    # The output layer and one of its gradients are in the precision of the computation. In low memory, a single slice
    # of rows gives the gradient of the step, and several are added up in float32.
    logits = min(tokens, HEAD_ROWS) * c.vocab_size * traits.logit_bytes
    head_copies = number_bytes if traits.half != bool(narrow) else 0
    if lora is None and (tokens > HEAD_ROWS or not (narrow and traits.half)):
        head_copies += number_bytes
    if narrow and tokens > HEAD_ROWS:
        head_copies += FLOAT32_BYTES
    logits += c.vocab_size * c.d_model * head_copies
    mask = traits.mask_bytes * tokens * c.seq_len if computing.masked else 0

    # In low memory a small part of the weights is updated at a time.
    update = 0 if narrow else math.floor(traits.update_copies * trained_bytes)
    if computing.optimizer == "muon" and lora is None:
        stack = LARGEST_NARROW_STACK if narrow else MAX_STACK_SIZE
        update += traits.muon_bytes * min(matrices, max(stack, *sizes))
    gradients, gathered, ranks = trained_bytes, 0, computing.ranks
    moments = sum(moment_bytes(p, computing) for p in trained_parameters(c, lora)) // ranks.n
    if computing.averaging:
        moments += trained_bytes
    if ranks.sharded:
        outside = FLOAT32_BYTES * (count_parameters(c) - count_in_blocks(c))
        whole = (
            outside + 2 * (weights - outside) // c.n_layers
        )  # one block computes, one is on its way
        gathered = whole if lora is not None else 2 * whole
        weights, gradients = weights // ranks.n, gradients // ranks.n
    update = max(0, update - activations - casts - mask - logits)
    answers = 0
    of_training = gradients + activations + casts + mask + logits + gathered + update
    if computing.writes_answers:
        prompt_and_copies = 1 + TOGETHER
        cache = prompt_and_copies * c.seq_len * c.n_layers * 2 * c.n_kv_heads * c.head_dim
        prompts = TOGETHER * c.seq_len
        reading = prompts * (FLOAT32_BYTES * kept.float32 + number_bytes * kept.computed)
        writing = number_bytes * (count_parameters(c) + cache) + reading
        scattered_parts = math.floor(traits.scattered_answers * min(writing, of_training))
        answers = max(0, writing - of_training) + scattered_parts
    return TrainingMemory(
        weights=weights,
        gradients=gradients,
        moments=moments,
        activations=activations,
        casts=casts,
        mask=mask,
        logits=logits,
        gathered=gathered,
        update=update,
        initial_model=FLOAT32_BYTES * count_parameters(c) if computing.has_reference else 0,
        answers=answers,
    )


def kept_narrow(spec: Iterable[Parameter], computing: Computing) -> frozenset[str]:
    """The names of the parameters that are trained in bfloat16."""
    in_low_memory = computing.low_memory and computing.lora is None
    return narrow_parameters(spec) if in_low_memory else frozenset()


def moment_bytes(p: Parameter, computing: Computing) -> int:
    """Of a parameter that is trained: Muon keeps one moment of a matrix, AdamW two. Of the second one of a parameter in
    bfloat16, there are rows and columns alone."""
    narrow = bool(kept_narrow([p], computing))
    first = (HALF_BYTES if narrow else FLOAT32_BYTES) * p.size
    if computing.optimizer == "muon" and p.group == "matrix":
        return first
    if not narrow:
        return 2 * first
    *stack, n_out, n_in = p.shape
    return first + FLOAT32_BYTES * math.prod(stack) * (n_out + n_in)


def expected_seconds_per_step(
    config: ModelConfig, tokens_per_step: int, flops_per_second: float
) -> float:
    """Roughly how long an optimizer step takes.

    Args:
        flops_per_second: the machine's peak speed in large matrix products, in the precision of the run.
    """
    return tokens_per_step * flops_per_token(config) / (UTILISATION * flops_per_second)


def expected_tokens_per_second(config: ModelConfig, flops_per_second: float) -> float:
    """Roughly how fast training goes; arguments as for `expected_seconds_per_step`."""
    return UTILISATION * flops_per_second / flops_per_token(config)
