"""The parts of a forecast flow in; the same in words comes out."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from homespun.architectures.families import (
    count_parameters,
    described_size,
    flops_per_token,
)
from homespun.architectures.lora import count_trained
from homespun.config import ModelConfig
from homespun.config.checked import flag
from homespun.data.sizing import TokenCount
from homespun.planning.curves import ExpectedLoss
from homespun.planning.estimate import TrainingMemory
from homespun.planning.ranks import Ranks, Traffic
from homespun.planning.resolved import Plan, ResolvedConfig, lora_of
from homespun.terminal import counted, duration, size


@dataclass(frozen=True)
class StepSpeed:
    """How fast steps are, and how that is known."""

    seconds_per_step: float
    first_seconds: float | None
    """Of the first step; None: not known."""
    how: str
    update_seconds: float = 0.0
    """Of a step, for the update of the weights."""


@dataclass(frozen=True, repr=False)
class Forecast:
    """A run before it starts. Printed, it is a page of text."""

    machine: str
    model: ModelConfig
    settings: ResolvedConfig
    text: TokenCount | None
    """None: there is no text yet."""
    data_file: Path | None
    memory: TrainingMemory
    """By its use, estimated; see `memory_measured`."""
    memory_measured: int | None
    """Peak bytes of the probe's steps, which only train; None: not measured, or with a smaller batch."""
    memory_capacity: int
    """Bytes that the run may use."""
    memory_free: int
    ranks: Ranks
    traffic: Traffic
    """Between them, in a step."""
    efficiency: float | None
    """Speed of all ranks together, as a share of that of as many single ones; None: one rank, or not known."""
    disk: int
    """Bytes that checkpoints and tokens take."""
    disk_free: int | None
    """None for another machine."""
    speed: StepSpeed
    steps: int | None
    """Of the whole run; None: it is as long as the text."""
    ended_by: str
    samples_per_pass: int
    """Sequences in a pass over the training text; with prompts or pairs, one for each answer."""
    steps_done: int
    """By a run that is resumed."""
    seconds: float | None
    """From now to the end, without preparations."""
    watts: float | None
    loss: ExpectedLoss | None
    notes: tuple[str, ...]
    longest_row: int | None = None
    """Tokens of the longest prompt with its answer, in a run with preferences or a reward."""

    @property
    def parameters(self) -> int:
        """Number of weights; tied ones count once."""
        return count_parameters(self.model)

    @property
    def trained_parameters(self) -> int:
        """Number of weights that the run changes: with LoRA those of the adapters."""
        return count_trained(self.model, lora_of(self.settings))

    @property
    def tokens_per_step(self) -> int:
        return self.settings.tokens_per_step

    @property
    def tokens(self) -> int | None:
        """That the whole run sees."""
        return None if self.steps is None else self.steps * self.tokens_per_step

    @property
    def epochs(self) -> float | None:
        """Passes over the training text."""
        if self.text is None or self.tokens is None:
            return None
        return self.tokens / self.settings.seq_len / max(1, self.samples_per_pass)

    @property
    def tokens_per_parameter(self) -> float | None:
        return None if self.tokens is None else self.tokens / self.parameters

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of training on one token."""
        return flops_per_token(Plan(self.model, self.settings).in_training)

    @property
    def flops(self) -> float | None:
        """Floating-point operations of the whole run."""
        return None if self.tokens is None else float(self.tokens * self.flops_per_token)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / self.speed.seconds_per_step

    @property
    def kilowatt_hours(self) -> float | None:
        """None where the power of the machine, or the length of the run, is not known."""
        if self.watts is None or self.seconds is None:
            return None
        return self.watts * self.seconds / 3.6e6

    @property
    def memory_needed(self) -> int:
        """Bytes of the run: the peak of the probe's steps and all that was not part of them; else the estimate."""
        if self.memory_measured is None:
            return self.memory.total
        return self.memory_measured + self.memory.initial_model + self.memory.answers

    @property
    def fits(self) -> bool:
        """Whether the run fits into memory."""
        return self.memory_needed <= self.memory_capacity

    def facts(self) -> dict[str, str]:
        """The forecast in words, by topic."""
        c, model = self.settings, self.model
        weights = described_size(model)
        if self.trained_parameters != self.parameters:
            weights += f", {self.trained_parameters:,} in adapters are trained"
        facts = {
            "machine": self.machine,
            "model": f"{model.architecture}, {counted(model.n_layers, 'layer')} x {model.d_model}, "
            f"{counted(model.n_heads, 'head')}, {weights}, "
            f"vocabulary {model.vocab_size:,}",
            "text": self._text(),
            "step": f"{c.tokens_per_step:,} tokens: {counted(c.batch_size, 'sequence')} of {c.seq_len} tokens"
            + (f", {c.grad_accumulation_steps} times" if c.grad_accumulation_steps != 1 else ""),
            "length": self._length(),
            "compute": f"{self.flops_per_token / 1e9:.3g} GFLOPs per token"
            + (f", {self.flops:.2g} FLOPs in all" if self.flops else ""),
            "memory": self._memory(),
            "disk": f"{size(self.disk)} of checkpoints and tokens"
            + (f", {size(self.disk_free)} are free" if self.disk_free is not None else ""),
            "speed": self._speed(),
            "time": self._time(),
        }
        if self.ranks.n > 1:
            facts["ranks"] = self._ranks()
        if self.kilowatt_hours is not None:
            facts["energy"] = f"{self.kilowatt_hours:.2g} kWh at {self.watts:.0f} W"
        facts["loss"] = self._loss()
        for number, note in enumerate(self.notes, 1):
            facts["note" if len(self.notes) == 1 else f"note {number}"] = note
        return facts

    def _text(self) -> str:
        if self.text is None:
            return "none yet: the plan assumes a very large text"
        source = self.text.estimated_from
        tokens = f"{self.text.training:,} training and {self.text.validation:,} validation tokens"
        if source is None:
            return f"{self.data_file}: {tokens}"
        return f"{self.data_file}: about {tokens}, estimated from {source}"

    def _length(self) -> str:
        if self.steps is None or self.tokens is None:
            return f"as long as the text ({flag(self.ended_by)} {self.settings.max_epochs:g})"
        value = getattr(self.settings, self.ended_by)
        shown = value if isinstance(value, str) else f"{value:.15g}"
        about = "about " if self.ended_by == "time_budget" else ""
        line = f"{about}{counted(self.steps, 'step')} ({flag(self.ended_by)} {shown}), {self.tokens:,} tokens"
        if self.epochs is not None:
            line += f", {_passes(self.epochs)} over the text"
        line += f", {self.tokens_per_parameter:.3g} tokens per parameter"
        return line + (
            f"; {counted(self.steps_done, 'step is', 'steps are')} done" if self.steps_done else ""
        )

    def _memory(self) -> str:
        parts = ", ".join(
            f"{name.replace('_', ' ')} {size(n_bytes)}"
            for name, n_bytes in dataclasses.asdict(self.memory).items()
            if n_bytes
        )
        line = f"about {size(self.memory.total)} of {size(self.memory_capacity)}: {parts}"
        if self.memory_measured is not None:
            line += f". The probe took {size(self.memory_measured)}"
            if self.memory.initial_model:
                line += " without the initial model"
        return line

    def _ranks(self) -> str:
        hold = (
            "each holds a part of the weights" if self.ranks.sharded else "each holds all weights"
        )
        sent = self.traffic
        line = (
            f"{self.ranks.n}, {hold}; in a step each sends {size(sent.gradients)} of gradients and "
            f"{size(sent.weights)} of weights"
        )
        if self.efficiency is None:
            return line + "; their time is left out: --interconnect is not known"
        return line + f"; {self.efficiency:.0%} efficiency"

    def _speed(self) -> str:
        rate = self.tokens_per_second
        line = f"{rate:,.0f} tokens/s, {self.speed.seconds_per_step:.3g} s a step"
        if self.speed.first_seconds is not None:
            line += f", the first {self.speed.first_seconds:.3g} s"
        return f"{line} ({self.speed.how})"

    def _time(self) -> str:
        if self.seconds is None:
            million = 1e6 / self.tokens_per_second
            return f"{duration(million)} for each million tokens"
        return f"{duration(self.seconds)}, with evaluations and samples"

    def _loss(self) -> str:
        if self.loss is None or self.text is None:
            return "not known: " + (
                "there is no text"
                if self.text is None
                else "no run like this was measured (new dense models of one or a few million parameters, with Muon "
                "and linear decay)"
            )
        loss = self.loss
        value, least, most = loss.nats(self.text.bytes_per_token)
        return (
            f"{value:.2f} expected on validation text ({least:.2f} to {most:.2f}), {loss.bits_per_byte:.2f} bits per "
            f"byte; rests on {loss.rests_on}"
        )

    def __str__(self) -> str:
        facts = self.facts()
        widest = max(map(len, facts))
        return "\n".join(f"{name:<{widest}}  {fact}" for name, fact in facts.items())

    __repr__ = __str__


def _passes(epochs: float) -> str:
    number = f"{epochs:.3g}"
    return f"{number} {'pass' if number == '1' else 'passes'}"
