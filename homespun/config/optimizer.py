"""The settings of the steps of training: their size and number, and how each one updates the weights.

Planning chooses the omitted ones; the schedule and the optimizer of the engine take all of them.
"""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import Checked, setting
from homespun.config.model import LONGEST_CONTEXT, ModelConfig

Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear"]
OnSpike = Literal["warn", "skip", "stop"]


@dataclass(frozen=True)
class StepConfig(Checked):
    """Length. The size of a training step, and when training ends."""

    seq_len: int = setting(
        ModelConfig.seq_len,
        "Context length in tokens.",
        at_least=2,
        at_most=LONGEST_CONTEXT,
        on_resume="fixed",
    )
    batch_size: int | None = setting(
        None,
        "Sequences per micro-batch.",
        with_preset=16,
        recipe="1,024 to 4,096 tokens per step, by size",
        at_least=1,
    )
    grad_accumulation_steps: int | None = setting(
        None,
        "Micro-batches per optimizer step; the update is that of one large batch, in a mixture of experts nearly so.",
        with_preset=1,
        recipe="1",
        at_least=1,
    )
    max_epochs: float | None = setting(
        None,
        "Maximum passes over the training data.",
        with_preset_words="10 if no limit is given",
        recipe="10 where the time allows more",
        above=0,
        at_most=1e6,
        on_resume="announced",
    )
    max_steps: int | None = setting(
        None,
        "Maximum number of optimizer steps.",
        if_omitted="no limit",
        at_least=1,
        on_resume="announced",
    )
    patience: int | None = setting(
        None,
        "Stop after this many evaluations without a lower validation loss.",
        if_omitted="no limit",
        at_least=1,
    )


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """Optimizer. How the weights are updated."""

    optimizer: Optimizer | None = setting(
        None,
        "AdamW, or Muon for matrices and AdamW for the other weights.",
        with_preset="adamw",
        recipe="muon",
        on_resume="fixed",
    )
    learning_rate: float | None = setting(
        None,
        "Peak learning rate of AdamW.",
        with_preset=3e-4,
        recipe="0.04",
        above=0,
        at_most=1,
        on_resume="announced",
    )
    muon_learning_rate: float | None = setting(
        None,
        "Peak learning rate of Muon.",
        with_preset=0.02,
        recipe="0.017 for 2,048 tokens per step, more for larger steps",
        above=0,
        at_most=1,
        on_resume="announced",
    )
    schedule: Schedule | None = setting(
        None,
        "Learning rate after the warm-up: cosine decay to the minimum, or constant and then linear decay.",
        with_preset="cosine",
        recipe="linear",
        on_resume="announced",
    )
    warmup_steps: int | None = setting(
        None,
        "Steps of linear warm-up.",
        with_preset_words="2% of the run, at most 2,000",
        recipe="10",
        at_least=0,
        on_resume="announced",
    )
    min_learning_rate_ratio: float | None = setting(
        None,
        "Final learning rate as a fraction of the peak.",
        with_preset=0.1,
        recipe="0",
        at_least=0,
        at_most=1,
        on_resume="announced",
    )
    weight_decay: float | None = setting(
        None,
        "Decoupled weight decay of matrices and embeddings; biases and norms have none.",
        with_preset=0.1,
        recipe="0.03 (0.3 from 1.2 passes over the text on, 0.5 from 5 on)",
        at_least=0,
        on_resume="announced",
    )
    beta1: float = setting(
        0.9,
        "AdamW: decay rate of the mean gradient.",
        at_least=0,
        below=1,
        on_resume="announced",
    )
    beta2: float | None = setting(
        None,
        "AdamW: decay rate of the mean squared gradient.",
        with_preset=0.95,
        recipe="0.99",
        at_least=0,
        below=1,
        on_resume="announced",
    )
    averaging: float | None = setting(
        None,
        "Evaluate, sample and save the mean of the weights over about this fraction of the steps so far, instead of "
        "the last weights; 0: the last weights. One process, without --memory low.",
        with_preset=0.0,
        recipe="0 (0.15 from 2.5 passes over the text on)",
        at_least=0,
        at_most=0.5,
        on_resume="announced",
    )
    max_grad_norm: float = setting(
        1.0, "Gradients are clipped to this global norm.", above=0, on_resume="announced"
    )
    dropout: float = setting(
        0.0,
        "Probability that training zeroes an activation of the residual stream, against overfitting.",
        at_least=0,
        below=1,
        on_resume="announced",
    )
    aux_loss: float = setting(
        0.01,
        "Factor of the loss that spreads the tokens over the experts of a mixture; without effect with --lora-rank.",
        at_least=0,
        at_most=100,
        on_resume="announced",
    )
    z_loss: float = setting(
        0.001,
        "Factor of the loss that keeps the logits of a mixture's router small; without effect with --lora-rank.",
        at_least=0,
        at_most=100,
        on_resume="announced",
    )
    on_spike: OnSpike = setting(
        "warn",
        "If the loss or gradient norm of a step is far above the recent ones: warn and apply the step, skip it, or "
        "skip it and stop.",
        on_resume="announced",
    )
