"""Settings flow in; the plan of the run comes out, and nothing is written.

The settings are chosen by the same stages as those of a run. Time and memory come from some real steps on this machine,
or from the data sheet of another one.
"""

import dataclasses
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.architectures.families import (
    count_parameters,
    described_size,
    flops_per_token,
    parameters,
)
from homespun.architectures.lora import count_trained
from homespun.config import ModelConfig, TrainConfig
from homespun.config.checked import flag, seconds
from homespun.data.chat_samples import ChatEncoder
from homespun.data.corpus import Corpus
from homespun.data.prepare import Encoder
from homespun.data.sizing import TokenCount, compressed_bits_per_byte, count_tokens
from homespun.engine import hardware, select
from homespun.engine.base import Machine, OutOfMemory
from homespun.engine.probe import Probed, ProbeFailed, probe
from homespun.errors import UserError
from homespun.model_formats.stored_model import StoredModel
from homespun.planning.auto_batch import fitting_batch
from homespun.planning.curves import ExpectedLoss, expected_loss
from homespun.planning.estimate import (
    CHECKS_PER_RUN,
    EVALUATION_COST,
    MAX_EVALUATION_SHARE,
    TrainingMemory,
    expected_seconds_per_step,
)
from homespun.planning.machines import BYTES_PER_WEIGHT, GIGABYTE, DataSheet, named
from homespun.planning.memory import (
    chosen_ranks,
    memory_of_rank,
    ranks_here,
    step_memory,
    what_fits,
)
from homespun.planning.ranks import Ranks, Traffic, exposed_seconds, traffic
from homespun.planning.recipe import Plan, ResolvedConfig, lora_of, step_limits
from homespun.terminal import Say, bar, counted, duration, size
from homespun.tokenizer import Tokenizer
from homespun.training.checkpointing.resume import (
    ResumePoint,
    find_point,
    given_config,
    resumed_corpus,
    resumed_plan,
    resumed_tokenizer,
    with_stored,
)
from homespun.training.fine_tuning.conversations import chat_template, resumed_template
from homespun.training.fine_tuning.initial_model import in_context, initial_model
from homespun.training.fine_tuning.lora_base import check_settings
from homespun.training.output.sampling import SAMPLE_TOKENS
from homespun.training.run import bytes_on_disk, keeps_base
from homespun.training.stages import (
    AUTO_VOCAB_SIZE,
    check_sizes,
    choose_plan,
    choose_text,
    engine_options,
    find_tokenizer,
)
from homespun.training.timing.due import MAX_SAMPLING_SHARE, SAMPLING_COST

NO_TEXT_TOKENS = 10**12
"""Where there is no text, the plan is made for one that no run reads to its end."""
PROBE_SECONDS = 40.0
"""A probe takes so small a batch that some of its steps are expected to take no longer together."""
BYTES_PER_TOKEN_ON_DISK = {True: 2, False: 4}
"""By whether the vocabulary has at most 2 ** 16 tokens."""


@dataclass(frozen=True)
class Speed:
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
    """Peak bytes of the probe's steps; None: not measured, or with a smaller batch."""
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
    speed: Speed
    steps: int | None
    """Of the whole run; None: it is as long as the text."""
    ended_by: str
    steps_done: int
    """By a run that is resumed."""
    seconds: float | None
    """From now to the end, without preparations."""
    watts: float | None
    loss: ExpectedLoss | None
    notes: tuple[str, ...]

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
        return self.tokens / max(1, self.text.training)

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
    def fits(self) -> bool:
        """Whether the steps fit into memory, by the estimate or by the probe."""
        return (self.memory_measured or self.memory.total) <= self.memory_capacity

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
            f"{name} {size(n_bytes)}"
            for name, n_bytes in dataclasses.asdict(self.memory).items()
            if n_bytes
        )
        line = f"about {size(self.memory.total)} of {size(self.memory_capacity)}: {parts}"
        if self.memory_measured is not None:
            line += f". The probe took {size(self.memory_measured)}"
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


def forecast(
    given: Mapping[str, Any],
    say: Say,
    config: TrainConfig | None = None,
    machine: str | None = None,
    n_ranks: int | None = None,
    interconnect: float | None = None,
) -> Forecast:
    """Plan a run and measure its steps. Nothing is written.

    Args:
        given: settings by name, as for `train`.
        config: all settings, from Python, as for `train`.
        machine: the name of another machine, see `planning.machines`; None: this one.
        n_ranks: machines or GPUs of this kind that train together; None: the processes that were started together.
        interconnect: speed at which each sends to the others, in GB/s; None: not known.

    Raises:
        UserError: settings, text, tokenizer and checkpoint do not fit each other, or the machine is unknown.
    """
    workspace.check()
    sheet = named(machine) if machine else None
    wanted = given_config(given, config)
    point = find_point(wanted, say)
    if point and config is None:
        wanted = with_stored(wanted, given, point)
    if wanted.reward is not None:
        raise UserError(
            "the cost of a run with a reward depends on its answers, and is not estimated: try it with --max-steps 5"
        )
    if wanted.preferences is not None:
        raise UserError(
            "the cost of a run with preferences is not estimated: try it with --max-steps 5"
        )
    hardware.limit_workers(wanted.threads)
    target: Machine = sheet or select.machine(wanted.engine)
    notes: list[str] = []
    initial = None
    if point is None:
        check_settings(wanted)
        if initial := initial_model(wanted, say):
            wanted = in_context(wanted, initial, notes.append)
    corpus, tokenizer, count = _text(wanted, point, initial, say)
    if point:
        planned = resumed_plan(wanted, point.header, say)
    else:
        n_tokens = count.training if count else NO_TEXT_TOKENS
        vocab_size = count.vocab_size if count else wanted.vocab_size or AUTO_VOCAB_SIZE
        planned = choose_plan(
            wanted,
            vocab_size,
            n_tokens // wanted.seq_len,
            notes.append,
            initial,
            target,
            is_chat=corpus is not None and corpus.is_chat,
        )
    mark = tokenizer.eot_id if tokenizer else 0
    ranks = chosen_ranks(planned, target, n_ranks) if n_ranks else ranks_here(planned, target)
    if planned.config.auto_batch and not point:
        options = engine_options(planned.config, mark, compiled=False)
        planned = fitting_batch(
            planned, target, options, notes.append, probes=sheet is None, ranks=ranks
        )
    memory = step_memory(planned, target, ranks=ranks)
    speed, probed = _speed(planned, target, sheet, mark, count, notes)
    sent, speed, efficiency = _together(planned, target, ranks, speed, interconnect)
    measured = None
    if probed and ranks.n == 1 and probed.batch_size == planned.config.batch_size:
        measured = probed.probed.memory
    _note_memory(planned, target, memory, measured, ranks, notes)
    length = _Length(planned, count, speed)
    done = point.position().step if point else 0
    steps = length.steps
    return Forecast(
        machine=_machine_name(sheet, target, probed),
        model=planned.model,
        settings=planned.config,
        text=count,
        data_file=corpus.path if corpus else None,
        memory=memory,
        memory_measured=measured,
        memory_capacity=target.memory_capacity(),
        memory_free=target.memory_available(),
        ranks=ranks,
        traffic=sent,
        efficiency=efficiency,
        disk=_disk(planned, count),
        disk_free=None if sheet else _disk_free(Path(wanted.checkpoint_dir)),
        speed=speed,
        steps=steps,
        ended_by=length.ended_by,
        steps_done=done,
        seconds=None if steps is None else length.seconds(max(0, steps - done)),
        watts=sheet.watts * ranks.n if sheet and sheet.watts else None,
        loss=_loss(planned, corpus, count, steps),
        notes=tuple(notes),
    )


def _text(
    wanted: TrainConfig, point: ResumePoint | None, initial: StoredModel | None, say: Say
) -> tuple[Corpus | None, Tokenizer | None, TokenCount | None]:
    """The text, its tokenizer if there is one, and the number of its tokens."""
    folder = Path(wanted.tokens_dir)
    if point:
        corpus = resumed_corpus(wanted, point.header, keeps=False)
        tokenizer: Tokenizer | None = resumed_tokenizer(wanted, point.header)
    else:
        if wanted.data_file is None and workspace.recall("data") is None:
            return None, initial.tokenizer if initial else None, None
        corpus = choose_text(wanted.data_file, say, folder, keeps=False)
        check_sizes(wanted, corpus, initial)
        tokenizer = (
            initial.tokenizer
            if initial
            else find_tokenizer(wanted.tokenizer_path, wanted.vocab_size, corpus, say)
        )
    vocab_size = wanted.vocab_size or AUTO_VOCAB_SIZE
    encoder: Encoder | None = tokenizer
    if tokenizer and (
        template := resumed_template(corpus, tokenizer, point.header)
        if point
        else chat_template(corpus, initial)
    ):
        encoder = ChatEncoder(template)
    return corpus, tokenizer, count_tokens(corpus, encoder, vocab_size, folder)


@dataclass(frozen=True)
class _Probe:
    """A probe and the micro-batch that it took."""

    probed: Probed
    batch_size: int


def _speed(
    planned: Plan,
    machine: Machine,
    sheet: DataSheet | None,
    mark: int,
    count: TokenCount | None,
    notes: list[str],
) -> tuple[Speed, _Probe | None]:
    """The speed by a probe, or by the data sheet; and the probe."""
    c = planned.config
    flops = machine.flops_per_second(c.precision, c.threads)
    expected = expected_seconds_per_step(planned.in_training, c.tokens_per_step, flops)
    if sheet:
        update = (
            BYTES_PER_WEIGHT * count_trained(planned.model, planned.lora) / sheet.bytes_per_second()
        )
        how = "by the data sheet, not measured: within a factor of two"
        return Speed(expected + update, None, how, update), None
    by_flops = Speed(expected, None, "by the speed of matrix products here, not measured")
    found = _probe(planned, machine, mark, count, expected, notes)
    if found is None:
        return by_flops, None
    probed = found.probed
    scale = c.batch_size / found.batch_size
    per_step = c.grad_accumulation_steps * scale * probed.micro_seconds + probed.update_seconds
    how = f"measured: {counted(probed.n_steps, 'step')}"
    if scale != 1:
        how += f" of {counted(found.batch_size, 'sequence')}"
    return Speed(per_step, probed.first_seconds, how, probed.update_seconds), found


def _together(
    planned: Plan, machine: Machine, ranks: Ranks, alone: Speed, interconnect: float | None
) -> tuple[Traffic, Speed, float | None]:
    """The bytes that each rank sends in a step, the speed of all ranks, and their efficiency, from the speed of one."""
    c = planned.config
    rows = ranks.rows(c.sequences_per_step)
    micro_batches = -(-rows // c.batch_size)
    half = machine.computes_in_half(c.precision)
    sent = traffic(planned.model, ranks, micro_batches, c.optimizer, planned.lora, half=half)
    if ranks.n == 1:
        return sent, alone, None
    computing = (alone.seconds_per_step - alone.update_seconds) * rows / c.sequences_per_step
    seconds, efficiency = computing + alone.update_seconds / ranks.n, None
    if interconnect is not None:
        micro_seconds, per_second = computing / micro_batches, interconnect * GIGABYTE
        seconds += exposed_seconds(sent, ranks, micro_batches, micro_seconds, per_second)
        efficiency = alone.seconds_per_step / (ranks.n * seconds)
    how = f"{alone.how}; {ranks.n} ranks, calculated"
    return sent, Speed(seconds, alone.first_seconds, how), efficiency


def _probe(
    planned: Plan,
    machine: Machine,
    mark: int,
    count: TokenCount | None,
    expected: float,
    notes: list[str],
) -> _Probe | None:
    """Real steps, of fewer sequences if those of a whole micro-batch would take too long; None where none are
    possible."""
    c = planned.config
    free = machine.memory_available()
    per_sequence = expected / c.sequences_per_step
    batch_size = min(c.batch_size, max(1, math.floor(PROBE_SECONDS / 4 / per_sequence)))
    while batch_size > 1 and step_memory(planned, machine, batch_size).total > free:
        batch_size //= 2
    if step_memory(planned, machine, batch_size).total > free or 2 * per_sequence > PROBE_SECONDS:
        return None

    compiled = c.compile == "on" and machine.compiles_at_once()
    if c.compile == "on" and not compiled:
        notes.append(
            "The run compiles its kernels, if that works here. The speed is that without them, since compiling takes "
            "longer than a probe."
        )
    try:
        with bar("Measuring some steps", None):
            found = probe(
                planned.in_training,
                engine_options(c, mark, compiled=compiled),
                batch_size,
                engine=c.engine,
                accumulates=c.grad_accumulation_steps > 1 or batch_size < c.batch_size,
                document_tokens=count.document_tokens if count else c.seq_len,
                memory_limit=free,
            )
    except OutOfMemory:
        notes.append("The steps of the probe ran out of memory.")
        return None
    except ProbeFailed as error:
        notes.append(f"Nothing could be measured: {error}.")
        return None
    return _Probe(found, batch_size) if found else None


def _note_memory(
    planned: Plan,
    machine: Machine,
    memory: TrainingMemory,
    measured: int | None,
    ranks: Ranks,
    notes: list[str],
) -> None:
    """The change to make if a step does not fit."""
    needed = measured or memory.total
    capacity, free = (
        memory_of_rank(n_bytes, machine, ranks)
        for n_bytes in (machine.memory_capacity(), machine.memory_available())
    )
    if needed > capacity:
        notes.append(
            f"This does not fit into memory: {what_fits(planned, capacity, machine, ranks)}."
        )
    elif needed > free:
        notes.append(
            f"Only {size(free)} of the memory is free now: close other programs, or "
            f"{what_fits(planned, free, machine, ranks)}."
        )


class _Length:
    """The number of steps of a run, and the time that they take with evaluations and samples."""

    def __init__(self, planned: Plan, count: TokenCount | None, speed: Speed) -> None:
        c = self._config = planned.config
        self._per_step = speed.seconds_per_step
        tokens = min(c.eval_tokens, count.validation) if count else c.eval_tokens
        self._costs = (
            (c.eval_interval, EVALUATION_COST * tokens, MAX_EVALUATION_SHARE),
            (
                c.sample_interval,
                SAMPLING_COST * SAMPLE_TOKENS * len(c.sample_prompts),
                MAX_SAMPLING_SHARE,
            ),
        )
        self._last_evaluation = EVALUATION_COST * tokens
        n_samples = (count.training if count else NO_TEXT_TOKENS) // c.seq_len
        limits = {
            name: steps
            for name, steps in step_limits(c, n_samples).items()
            if count or name != "max_epochs"
        }
        budget = seconds(c.time_budget) if c.time_budget else None
        if budget is not None:
            limits["time_budget"] = self._within(budget)
        self.ended_by = min(limits, key=lambda name: limits[name]) if limits else "max_epochs"
        self.steps = limits.get(self.ended_by)

    def seconds(self, steps: int) -> float:
        """Of so many steps with their evaluations and samples, and the last evaluation."""
        return self._in_run(steps) + self._seconds(self._last_evaluation)

    def _in_run(self, steps: int) -> float:
        checks = sum(self._checks(steps, *check) for check in self._costs)
        return steps * self._per_step + self._seconds(checks)

    def _checks(self, steps: int, interval: int | None, cost: float, share: float) -> float:
        """The work of one kind of checks in a run, in training tokens; see `training.timing.due`."""
        if interval is not None:
            return steps // interval * cost
        return min(CHECKS_PER_RUN * cost, share * steps * self._config.tokens_per_step)

    def _seconds(self, tokens: float) -> float:
        return tokens / self._config.tokens_per_step * self._per_step

    def _within(self, budget: float) -> int:
        """The steps of a time budget."""
        low, high = 1, max(1, math.ceil(budget / self._per_step))
        while low < high:
            middle = (low + high + 1) // 2
            if self._in_run(middle) <= budget:
                low = middle
            else:
                high = middle - 1
        return low


def _loss(
    planned: Plan, corpus: Corpus | None, count: TokenCount | None, steps: int | None
) -> ExpectedLoss | None:
    """The loss to expect; only for runs like those that were measured."""
    c = planned.config
    is_like_them = (c.optimizer, c.schedule, c.init_from) == ("muon", "linear", None)
    if not corpus or not count or not steps or not is_like_them or planned.model.experts:
        return None
    embeddings = sum(p.size for p in parameters(planned.model) if p.group == "embedding")
    return expected_loss(
        compressed_bits_per_byte(corpus),
        count_parameters(planned.model) - embeddings,
        count.training,
        steps * c.tokens_per_step,
    )


def _disk(planned: Plan, count: TokenCount | None) -> int:
    per_token = BYTES_PER_TOKEN_ON_DISK[planned.model.vocab_size <= 1 << 16]
    tokens = count.training + count.validation if count else 0
    config, base = planned.config, keeps_base(planned.config)
    runs = bytes_on_disk(
        planned.model,
        config.keep,
        planned.lora,
        with_base=base,
        low_memory=config.memory == "low",
    )
    return runs + per_token * tokens


def _disk_free(folder: Path) -> int:
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(nearest).free


def _machine_name(sheet: DataSheet | None, machine: Machine, probe: _Probe | None) -> str:
    if sheet:
        return f"{sheet.name}, {sheet.memory:g} GB, by its data sheet ({sheet.source})"
    if probe is None:
        return f"this one, {size(machine.memory_capacity())} of memory"
    facts = probe.probed.facts
    threads = f", {counted(int(facts['threads']), 'thread')}" if "threads" in facts else ""
    return f"this one: {facts['engine']}, {facts['device']}, {facts['precision']}{threads}"
