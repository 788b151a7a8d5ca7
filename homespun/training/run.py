"""A run that is set up: everything that the training loop works with."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from homespun.architectures.families import count_parameters, described_size
from homespun.architectures.lora import Lora, count_trained, trained_parameters
from homespun.checkpoint.writer import COPY_SIZE
from homespun.config import ModelConfig, TrainConfig
from homespun.config.checked import flag
from homespun.data.prepare import Prepared
from homespun.data.samples import Dataset
from homespun.engine import hardware, select
from homespun.engine.base import Engine
from homespun.engine.low_memory import narrow_parameters
from homespun.planning.answers import replayed_samples
from homespun.planning.memory import ranks_here, step_memory
from homespun.planning.resolved import Plan, ResolvedConfig
from homespun.terminal import counted
from homespun.tokenizer import ChatTemplate, Tokenizer
from homespun.training.fine_tuning.replay import Replay
from homespun.training.preferences.preparation import Preferences
from homespun.training.reinforcement.policy import Policy
from homespun.training.schedule import RateCurve, rate_curve

OF_THE_PLACE = {
    *("checkpoint_dir", "tokens_dir", "data_file", "preferences", "replay", "tokenizer_path"),
    "config",
    *("resume", "dry_run", "engine", "threads", "shard", "save_interval", "keep"),
}
"""Settings that change no number of a run: its files and where they are, or the machine, which `machine` tells. The
description leaves them out."""


@dataclass(frozen=True)
class Run:
    """A run that is ready to start."""

    config: ResolvedConfig
    model: ModelConfig
    engine: Engine
    tokenizer: Tokenizer
    tokens: Prepared
    dataset: Dataset
    """Of the training tokens."""
    header: dict[str, Any]
    """Stored in every file of weights: enough to generate from it, and to resume."""
    limits: dict[str, int]
    """The limits that are numbers of steps, by setting, the nearest first."""
    chat: ChatTemplate | None = None
    """The template of conversations, if the text is of conversations."""
    policy: Policy | None = None
    """In a run with a reward."""
    preferences: Preferences | None = None
    """In a run with preferences."""
    replay: Replay | None = None
    """An earlier text that is mixed in, if there is one."""
    longest_row: int | None = None
    """See `Plan`."""

    @property
    def total_steps(self) -> int | None:
        """The nearest of the limits; None where only time ends the run."""
        return min(self.limits.values(), default=None)

    @property
    def rate_curve(self) -> RateCurve:
        """The learning rate over the run."""
        return rate_curve(self.config, self.limits)

    def description(self) -> dict[str, str]:
        """The run in words, by topic: everything that was chosen."""
        c, model = self.config, self.model
        rates = f"{c.learning_rate:g}"
        if c.optimizer == "muon":
            rates = f"{c.muon_learning_rate:g} for Muon, {rates} for AdamW"
        steps, share = self.rate_curve.warmup_steps, self.rate_curve.warmup_share
        warm_up = counted(steps, "step") if steps else f"{share:.0%} of the run"
        lengths = [f"{counted(n, 'step')} ({flag(name)})" for name, n in self.limits.items()]
        if c.time_budget:
            lengths.append(f"{c.time_budget} (--time-budget)")
        initial = {"goes on from": c.init_from} if c.init_from else {}
        memory = {}
        if self.engine.narrow:
            memory["memory"] = "low: weights, gradients and means of the optimizer in bfloat16"
        averaging = {}
        if c.averaging:
            averaging["averaging"] = (
                f"the mean of the weights of the last {c.averaging:.0%} of the steps is evaluated and saved"
            )
        adapters = {}
        if lora := self.lora:
            adapters["adapters"] = (
                f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}: "
                f"{count_trained(model, lora):,} parameters are trained, the model stays"
            )
        rewarded, preferred, replayed = {}, {}, {}
        if self.replay:
            part = f"{c.replay_share:.0%} of the samples and of the loss"
            if self.policy:
                part = f"{counted(replayed_samples(c), 'sample')} in an update, {c.replay_share:.0%} of the loss"
            replayed["replay"] = (
                f"{self.replay.corpus.path}, {len(self.replay.tokens.training):,} tokens: {part}"
            )
        if self.preferences:
            pairs, held_out = self.preferences.training.n_pairs, len(self.preferences.evaluated)
            preferred["preferences"] = (
                f"{counted(pairs, 'pair')} to learn from, {held_out:,} held out; {c.sequences_per_step // 2} in a "
                f"step, beta {c.beta:g}"
            )
        if self.policy:
            n = c.sequences_per_step // c.group_size
            distance = f"; the distance from the initial model counts with {c.kl_factor:g}"
            rewarded["reward"] = (
                f"{c.reward}; a step has {counted(n, 'group')} of {c.group_size} answers, of at most "
                f"{counted(c.answer_tokens, 'token')}, for {counted(c.updates, 'update')}"
                f"{distance if c.kl_factor else ''}"
            )
        return initial | {
            "model": self._model(),
            **adapters,
            **rewarded,
            **preferred,
            "text": f"{len(self.tokens.training):,} training and {len(self.tokens.validation):,} "
            f"validation tokens{' of conversations' if self.chat else ''}, vocabulary {model.vocab_size:,}",
            **replayed,
            "step": f"{c.tokens_per_step:,} tokens: {counted(c.batch_size, 'sequence')} of {c.seq_len} tokens"
            + (f", {c.grad_accumulation_steps} times" if c.grad_accumulation_steps != 1 else ""),
            "length": " or ".join(lengths)
            + (", whichever comes first" if len(lengths) > 1 else ""),
            "optimizer": f"{c.optimizer}, peak rate {rates}",
            "schedule": f"{c.schedule}, warm-up {warm_up}",
            **averaging,
            "engine": self._engine(),
            **memory,
            "folder": c.checkpoint_dir,
        }

    def data(self) -> dict[str, Any]:
        """The run as data, for its record: the same for a resumed run, unless its settings or its machine differ."""
        settings = dataclasses.asdict(self.config)
        on_cpu = self.engine.facts["device"].lower().startswith("cpu")
        return {
            "model": self._model() + (f", LoRA of rank {self.lora.rank}" if self.lora else ""),
            "text": self.header["data_file"],
            "machine": f"{hardware.processor()}, {self._engine()}" if on_cpu else self._engine(),
            "parameters": count_parameters(self.model),
            "trained_parameters": count_trained(self.model, self.lora),
            "training_tokens": len(self.tokens.training),
            "validation_tokens": len(self.tokens.validation),
            "settings": {k: v for k, v in settings.items() if k not in OF_THE_PLACE},
        }

    def _model(self) -> str:
        model = self.model
        layers, heads = counted(model.n_layers, "layer"), counted(model.n_heads, "head")
        return f"{model.architecture}, {layers} x {model.d_model}, {heads}, {described_size(model)}"

    def _engine(self) -> str:
        facts = self.engine.facts
        return (
            f"{facts['engine']}, {facts['device']}, {facts['precision']}"
            + (f", {counted(int(facts['threads']), 'thread')}" if "threads" in facts else "")
            + (", compiled" if facts["compiled"] == "yes" else "")
            + (f", {facts['ranks']} ranks" if "ranks" in facts else "")
            + (" that divide the model" if facts.get("shard") == "full" else "")
        )

    @property
    def weights_bytes(self) -> int:
        """Size of the weights that are trained, on disk; each of the optimizer's moments takes as much at most."""
        return weights_on_disk(self.model, self.lora, low_memory=self.config.memory == "low")

    @property
    def lora(self) -> Lora | None:
        """The adapters that are trained alone, if any."""
        return self.plan.lora

    @property
    def plan(self) -> Plan:
        """The plan that this run follows."""
        return Plan(self.model, self.config, self.longest_row)

    def has_room_for_copies(self) -> bool:
        """Whether a step leaves enough memory for the copies that are saved in the background."""
        machine = select.machine(self.config.engine)
        parts = COPY_SIZE + (self.config.averaging > 0)
        copies = parts * 4 * count_trained(self.model, self.lora)
        if machine.has_own_memory():  # the step is there, the copies are not
            return copies <= hardware.capacity()
        steps = step_memory(self.plan, machine).total * ranks_here(self.plan, machine).on_machine
        return steps + copies <= hardware.capacity()


def keeps_base(config: TrainConfig) -> bool:
    """Whether the model from which a run began lies beside its checkpoints: adapters belong to it, or the model in
    training stays close to it."""
    return config.lora_rank is not None or (config.reward is not None and config.kl_factor > 0)


def bytes_on_disk(
    model: ModelConfig,
    keep: int,
    lora: Lora | None = None,
    *,
    with_base: bool = False,
    low_memory: bool = False,
    averaging: bool = False,
) -> int:
    """Weights, moments and perhaps means of the weights of each kept checkpoint and of the one being written, and the
    best weights twice; with LoRA those of the adapters. With `with_base` also the model from which the run began, see
    `keeps_base`."""
    base = 4 * count_parameters(model) if with_base else 0
    parts = 2 if low_memory and lora is None else 3  # weights, and one moment or two
    parts += averaging
    weights = weights_on_disk(model, lora, low_memory=low_memory)
    return base + weights * (parts * (keep + 1) + 2)


def weights_on_disk(model: ModelConfig, lora: Lora | None, *, low_memory: bool) -> int:
    """Bytes of the weights that a run trains."""
    spec = trained_parameters(model, lora)
    narrow = narrow_parameters(spec) if low_memory else frozenset()
    return sum((2 if p.name in narrow else 4) * p.size for p in spec)
