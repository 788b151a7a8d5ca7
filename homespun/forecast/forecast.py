"""Settings flow in; the plan of the run comes out, and nothing is written.

The settings are chosen by the same stages as those of a run. Time and memory come from some real steps on this machine,
or from the data sheet of another one.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.architectures.families import count_parameters, parameters
from homespun.config import TrainConfig
from homespun.data.corpus import Corpus
from homespun.data.prepare import Encoder
from homespun.data.sizing import TokenCount, compressed_bits_per_byte, count_tokens
from homespun.engine import hardware, select
from homespun.engine.base import Machine
from homespun.errors import UserError
from homespun.forecast.length import Length, samples_per_pass, with_rows, work_of
from homespun.forecast.result import Forecast
from homespun.forecast.speed import Probe, measured_speed, together, with_answers
from homespun.model_formats.stored_model import StoredModel
from homespun.planning.auto_batch import fitting_batch
from homespun.planning.curves import ExpectedLoss, expected_loss
from homespun.planning.machines import DataSheet, named
from homespun.planning.memory import (
    chosen_ranks,
    memory_of_rank,
    ranks_here,
    step_memory,
    what_fits,
)
from homespun.planning.resolved import Plan
from homespun.terminal import Say, bar, counted, size
from homespun.tokenizer import Tokenizer
from homespun.training.checkpointing.resume import (
    ResumePoint,
    find_point,
    given_config,
    resumed_corpus,
    resumed_plan,
    resumed_tokenizer,
    with_file,
    with_stored,
)
from homespun.training.fine_tuning.conversations import (
    chat_template,
    encoder_of,
    resumed_template,
    with_room,
)
from homespun.training.fine_tuning.initial_model import in_context, initial_model
from homespun.training.fine_tuning.lora_base import check_settings
from homespun.training.fine_tuning.replay import check_replay
from homespun.training.preferences.preparation import check_pairs, check_preferences
from homespun.training.reinforcement.policy import check_answers, check_reward
from homespun.training.run import bytes_on_disk, keeps_base
from homespun.training.stages import choose_plan, engine_options
from homespun.training.text_stage import (
    AUTO_VOCAB_SIZE,
    check_sizes,
    choose_pairs,
    choose_text,
    find_tokenizer,
)

BYTES_PER_TOKEN_ON_DISK = {True: 2, False: 4}
"""By whether the vocabulary has at most 2 ** 16 tokens."""


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
    with bar("Looking for a checkpoint", None):
        point = find_point(wanted, say)
    if point and config is None:
        wanted = with_stored(wanted, given, point)
    check_preferences(wanted)
    check_reward(wanted, point)
    check_replay(wanted)
    hardware.limit_workers(wanted.threads)
    target: Machine = sheet or select.machine(wanted.engine)
    notes: list[str] = []
    initial = None
    if point is None:
        check_settings(wanted)
        if initial := initial_model(wanted, say):
            wanted = in_context(wanted, initial, notes.append)
    corpus, tokenizer, count = _text(wanted, point, initial, say)
    if initial and count and count.longest:
        asked = frozenset(with_file(given))
        context = initial.config.seq_len
        wanted = with_room(wanted, asked, count.longest, context, notes.append)
    n_samples = samples_per_pass(wanted, count)
    if point:
        planned = resumed_plan(wanted, point.header, say)
    else:
        vocab_size = count.vocab_size if count else wanted.vocab_size or AUTO_VOCAB_SIZE
        planned = choose_plan(
            wanted,
            vocab_size,
            n_samples,
            notes.append,
            initial,
            target,
            is_chat=corpus is not None and corpus.is_chat,
            n_ranks=n_ranks,
        )
    planned = with_rows(planned, corpus, count)
    check_answers(planned.config)
    check_pairs(planned.config)
    mark = tokenizer.eot_id if tokenizer else 0
    ranks = chosen_ranks(planned, target, n_ranks) if n_ranks else ranks_here(planned, target)
    if ranks.n > 1:
        _check_ranks(planned, sheet)
    if planned.config.auto_batch and not point:
        options = engine_options(planned.config, mark, compiled=False)
        planned = fitting_batch(
            planned, target, options, notes.append, probes=sheet is None, ranks=ranks
        )
        ranks = chosen_ranks(planned, target, n_ranks) if n_ranks else ranks_here(planned, target)
    memory = step_memory(planned, target, ranks=ranks)
    alone, probed = measured_speed(planned, target, sheet, mark, count, notes)
    sent, speed, efficiency = together(planned, target, ranks, alone, interconnect)
    measured = None
    if probed and ranks.n == 1 and probed.batch_size == planned.config.largest_microbatch:
        measured = probed.probed.memory
    work = work_of(planned, corpus, count, n_samples)
    if work:
        speed = with_answers(planned, speed, alone, work, sheet, probed, notes)
    length = Length(planned, count, speed, n_samples)
    done = point.position().step if point else 0
    steps = length.steps
    plan = Forecast(
        machine=_machine_name(sheet, target, probed),
        model=planned.model,
        settings=planned.config,
        text=count,
        data_file=corpus.path if corpus else None,
        memory=memory,
        memory_measured=measured,
        memory_capacity=memory_of_rank(target.memory_capacity(), target, ranks),
        memory_free=memory_of_rank(target.memory_available(), target, ranks),
        ranks=ranks,
        traffic=sent,
        efficiency=efficiency,
        disk=_disk(planned, count),
        disk_free=None if sheet else _disk_free(Path(wanted.checkpoint_dir)),
        speed=speed,
        steps=steps,
        ended_by=length.ended_by,
        samples_per_pass=n_samples,
        steps_done=done,
        seconds=None
        if steps is None
        else length.seconds(max(0, steps - done)) + length.before(work, done),
        watts=sheet.watts * ranks.n if sheet and sheet.watts else None,
        loss=_loss(planned, corpus, count, steps),
        notes=tuple(notes),
        longest_row=planned.longest_row,
    )
    note = _about_memory(plan, planned, target, is_new=point is None)
    return dataclasses.replace(plan, notes=(*note, *plan.notes))


def _text(
    wanted: TrainConfig, point: ResumePoint | None, initial: StoredModel | None, say: Say
) -> tuple[Corpus | None, Tokenizer | None, TokenCount | None]:
    """The text, its tokenizer if there is one, and the number of its tokens."""
    folder = Path(wanted.tokens_dir)
    if point:
        corpus = resumed_corpus(wanted, point.header, keeps=False)
        tokenizer: Tokenizer | None = resumed_tokenizer(wanted, point.header)
    else:
        if (wanted.data_file or wanted.preferences) is None and workspace.recall("data") is None:
            return None, initial.tokenizer if initial else None, None
        corpus = (
            choose_pairs(wanted.preferences, say, folder, keeps=False)
            if wanted.preferences
            else choose_text(wanted.data_file, say, folder, keeps=False)
        )
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
        encoder = encoder_of(corpus, template)
    return corpus, tokenizer, count_tokens(corpus, encoder, vocab_size, folder)


def _check_ranks(planned: Plan, sheet: DataSheet | None) -> None:
    """Refuse a plan of several ranks for a run that trains in one process.

    Raises:
        UserError: it does.
    """
    if planned.config.memory == "low":
        raise UserError("--memory low trains in one process: leave it out, or plan without --ranks")
    if planned.config.averaging:
        raise UserError(
            "this run averages its weights, which a single process does: add --averaging 0, or plan without --ranks"
        )
    if sheet and sheet.kind == "apple":
        raise UserError(f"'{sheet.name}' trains with MLX, in one process: plan without --ranks")


def _about_memory(
    plan: Forecast, planned: Plan, machine: Machine, *, is_new: bool
) -> Iterator[str]:
    """The change to make if the run does not fit. `is_new` as for `check_memory`."""
    if not plan.fits:
        limit, said = plan.memory_capacity, "This does not fit into memory:"
    elif plan.memory_needed > plan.memory_free:
        limit = plan.memory_free
        said = f"Only {size(limit)} of the memory is free now: close other programs, or"
    else:
        return
    yield f"{said} {what_fits(planned, limit, machine, plan.ranks, is_new=is_new)}."


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
        averaging=config.averaging > 0,
    )
    return runs + per_token * tokens


def _disk_free(folder: Path) -> int:
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(nearest).free


def _machine_name(sheet: DataSheet | None, machine: Machine, probe: Probe | None) -> str:
    if sheet:
        return f"{sheet.name}, {sheet.memory:g} GB, by its data sheet ({sheet.source})"
    if probe is None:
        return f"this one, {size(machine.memory_capacity())} of memory"
    facts = probe.probed.facts
    threads = f", {counted(int(facts['threads']), 'thread')}" if "threads" in facts else ""
    return f"this one: {facts['engine']}, {facts['device']}, {facts['precision']}{threads}"
