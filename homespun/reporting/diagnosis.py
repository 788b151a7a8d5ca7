"""The record of a run flows in; the causes of its troubles come out, with the evidence and the change.

The rules are those of the run itself, in `training.diagnostics`. Here they judge the whole record at once, so that an
observation that was true for a while and is over does not count. The text is examined as well, if it is still there.
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from homespun.data import quality
from homespun.engine.base import RouterUse
from homespun.errors import UserError
from homespun.records.reading import is_number
from homespun.records.record import Record
from homespun.reporting.run_record import RunRecord
from homespun.terminal import counted
from homespun.training.diagnostics import experts, trends
from homespun.training.diagnostics.step_guard import (
    NOT_FINITE,
    SPIKE,
    STANDSTILL,
    Finding,
)
from homespun.training.diagnostics.trends import FIRST_BLOCK_STEPS, MAX_BLOCKS, Block

BAD_TEXT = "bad text"
REFUSED_SHARE = 0.01
"""Of all steps. If more were refused, chance is not the cause."""
LEAST_SPIKES = 3
"""Fewer spikes are accidents."""
NEIGHBOURS = 4
"""Lines on each side, from whose differences the scatter of the loss at a line is estimated."""
MEDIAN_OF_SQUARE = 0.455
"""Median of the square of a standard normal variable: the median, unlike the mean, is not moved by a steep fall."""

ORDER = (
    *(
        BAD_TEXT,
        STANDSTILL,
        "divergence",
        "no fall",
        trends.OVERSHOOT,
        trends.SLOW,
        NOT_FINITE,
        SPIKE,
    ),
    *(
        "overfitting",
        trends.NO_GAIN,
        experts.COLLAPSED,
        experts.DEAD,
        "constant clipping",
        "plateau",
    ),
)
"""The causes, the gravest first. An earlier one may be the reason of a later one."""

TITLES = {
    BAD_TEXT: "A part of the text teaches nothing",
    STANDSTILL: "The run came to a standstill",
    "divergence": "The loss rises instead of falling",
    "no fall": "The loss does not fall",
    trends.OVERSHOOT: "The first steps are too large",
    trends.SLOW: "The loss falls too slowly",
    NOT_FINITE: "Steps are not finite",
    SPIKE: "The loss jumps again and again",
    "overfitting": "The model memorizes its text",
    trends.NO_GAIN: "The model has not become better",
    experts.COLLAPSED: "All tokens use the same experts",
    experts.DEAD: "Some experts are not used",
    "constant clipping": "All gradients are clipped",
    "plateau": "The loss has stopped falling",
}


@dataclass(frozen=True)
class Diagnosis:
    """A trouble of a run."""

    cause: str
    """One or two words, as in the records of advice."""
    text: str
    """The observation, and the change, with flags and values."""
    evidence: tuple[str, ...]
    """Figures of the record, with their steps."""

    @property
    def title(self) -> str:
        return TITLES.get(self.cause, self.cause.capitalize())

    @property
    def sentence(self) -> str:
        """The text as a sentence."""
        end = "" if self.text.endswith((".", ".)")) else "."
        return f"{self.text[:1].upper()}{self.text[1:]}{end}"


def diagnose(run: RunRecord) -> list[Diagnosis]:
    """The troubles of a run, the gravest first; none if it is healthy, or too short to tell."""
    found: dict[str, Finding] = {}
    # The diagnosis knows the losses of texts, not those of rewards and preferences.
    losses = [*_from_steps(run), *_from_evaluations(run)] if run.config.learns_text else []
    for finding in (*losses, *_from_experts(run)):
        found.setdefault(finding.cause, finding)
    for finding in (*_from_advice(run), *_from_text(run)):
        found.setdefault(finding.cause, finding)
    ranked = sorted(
        found.values(), key=lambda f: ORDER.index(f.cause) if f.cause in ORDER else len(ORDER)
    )
    return [Diagnosis(f.cause, f.text, tuple(_evidence(run, f.cause))) for f in ranked]


def passing_notes(run: RunRecord, diagnoses: Sequence[Diagnosis]) -> list[Record]:
    """The advice of the run about causes that are over."""
    present = {diagnosis.cause for diagnosis in diagnoses}
    return [record for record in run.advice if record["cause"] not in present]


def blocks_of(run: RunRecord) -> list[Block]:
    """The training steps since the settings last changed, as blocks of equally many lines.

    A line stands for all steps since the one before. The scatter of the losses is estimated from the differences of
    neighbouring lines, so that it does not contain the fall of the loss, and is right for lines that hold the loss of
    one step as well as for means.
    """
    since = _last_change(run)
    lines = [r for r in run.steps if r["step"] > since and is_number(r.get("grad_norm"))]
    if not lines:
        return []
    losses = [float(line["loss"]) for line in lines]
    squares = [(b - a) ** 2 / 2 for a, b in itertools.pairwise(losses)] or [0.0]
    n_lines = max(1, math.ceil(len(lines) / (MAX_BLOCKS - 1)))
    numbers = [since, *(line["step"] for line in lines)]
    spans = [max(1, b - a) for a, b in itertools.pairwise(numbers)]
    n_lines = max(n_lines, math.ceil(FIRST_BLOCK_STEPS / statistics.median(spans)))
    peak = run.config.learning_rate
    blocks = []
    for start in range(0, len(lines) - n_lines + 1, n_lines):
        part = range(start, start + n_lines)
        steps = sum(spans[i] for i in part)
        mean = sum(spans[i] * losses[i] for i in part) / steps
        near = squares[max(0, start - NEIGHBOURS) : start + n_lines + NEIGHBOURS]
        variance = statistics.median(near) / MEDIAN_OF_SQUARE * steps / n_lines
        blocks.append(
            Block(
                steps,
                steps * mean,
                steps * (mean**2 + variance),
                sum(spans[i] * float(lines[i].get("clipped") or 0) for i in part),
                sum(spans[i] * math.log(max(lines[i]["grad_norm"], 1e-30)) for i in part),
                sum(spans[i] * min(1.0, (lines[i].get("lr") or 0) / peak) for i in part),
            )
        )
    return blocks


def _last_change(run: RunRecord) -> int:
    """The step after which the settings are the present ones."""
    names = ("learning_rate", "muon_learning_rate", "max_grad_norm", "dropout")
    step, before = 0, None
    for record in run.records:
        facts = record.get("run")
        if isinstance(facts, dict) and isinstance(facts.get("settings"), dict):
            now = [facts["settings"].get(name) for name in names]
            if before is not None and now != before:
                step = record["step"]
            before = now
    return step


def _from_steps(run: RunRecord) -> Iterator[Finding]:
    blocks, config = blocks_of(run), run.config
    if len(blocks) < 4:
        return
    first = float(run.steps[0]["loss"])
    unigram = 0.0
    if run.position:
        first = run.position.watch.first_loss or first
        unigram = run.position.watch.unigram_loss
    found = trends.divergence(blocks, first, config) or trends.overshoot(blocks, first, config)
    if unigram and not run.goes_on:
        found = found or trends.stuck(blocks, first, unigram, config)
        found = found or trends.slow_fall(blocks, first, unigram, config)
    for finding in (found, trends.constant_clipping(blocks, config)):
        if finding:
            yield finding


def _from_evaluations(run: RunRecord) -> Iterator[Finding]:
    measured = [(record["step"], record["val_loss"]) for record in run.evaluations]
    rates = [record["lr"] for record in run.steps if is_number(record.get("lr"))]
    if run.goes_on and measured and rates:
        rate = rates[-1] / run.config.learning_rate
        if finding := trends.no_gain(measured, rate, run.config):
            yield finding
    evaluations, begin = [], 0
    steps = [r["step"] for r in run.steps]
    losses = [r["loss"] for r in run.steps]
    for record in run.evaluations:
        end = bisect.bisect_right(steps, record["step"])
        if end:  # the lines since the evaluation before, or the last one
            since = losses[min(begin, end - 1) : end]
            evaluations.append((record["step"], record["val_loss"], statistics.fmean(since)))
            begin = end
    if not evaluations:
        return
    best = min(evaluations, key=lambda evaluation: evaluation[1])
    after = [evaluation for evaluation in evaluations if evaluation[0] > best[0]]
    if finding := trends.overfitting([best, *after[-2:]], run.config):
        yield finding
    if not run.goes_on and (finding := trends.unlike_validation(evaluations, _passes(run))):
        yield finding


def _from_experts(run: RunRecord) -> Iterator[Finding]:
    lines = [record for record in run.steps if isinstance(record.get("expert_load"), list)]
    if not lines or run.config.lora_rank is not None or run.model is None:
        return
    last = lines[-1]["step"]
    if last < 2 * experts.CHECKED_STEPS:
        return
    recent = [line for line in lines if line["step"] > last - experts.CHECKED_STEPS]
    routers = []
    for loads in zip(*(line["expert_load"] for line in recent), strict=False):
        means = [statistics.fmean(values) for values in zip(*loads, strict=False)]
        routers.append(RouterUse(0.0, 0.0, 0.0, tuple(load / len(means) for load in means)))
    per_token = run.model.experts_per_token
    found = experts.collapsed_router(routers, per_token, run.config)
    if found := found or experts.dead_expert(routers, run.config):
        yield found


def _from_advice(run: RunRecord) -> Iterator[Finding]:
    """The advice of the run that still holds, where the lines of the record cannot show it."""
    last = run.last_step
    by_cause: dict[str, list[Record]] = {}
    for record in run.advice:
        by_cause.setdefault(record["cause"], []).append(record)
    refused = max((r.get("refused") or 0 for r in run.steps), default=0)
    for cause, records in by_cause.items():
        newest = records[-1]
        holds = False
        if cause == STANDSTILL:
            holds = newest["step"] >= last - 1
        elif cause == NOT_FINITE:
            holds = refused > REFUSED_SHARE * last and len(records) > 1
        elif cause == SPIKE:
            ends = run.config.on_spike == "stop" and newest["step"] >= last
            holds = ends or len(records) >= LEAST_SPIKES
        elif cause == "plateau":
            holds = not _has_fallen_since(run, newest["step"])
        elif cause in ("divergence", "no fall", "constant clipping", "overfitting"):
            holds = len(blocks_of(run)) < 4  # with more lines, the rules have judged already
        if holds:
            yield Finding(cause, newest["advice"])


def _has_fallen_since(run: RunRecord, step: int) -> bool:
    before = [r["loss"] for r in run.steps if r["step"] <= step][-20:]
    after = [r["loss"] for r in run.steps if r["step"] > step][-20:]
    return bool(before and after) and statistics.fmean(after) < 0.99 * statistics.fmean(before)


def _from_text(run: RunRecord) -> Iterator[Finding]:
    path = run.text
    if path is None:
        return
    try:
        faults = quality.faults(path)
    except UserError:
        return
    if faults:
        fault = max(faults, key=lambda fault: fault.share)
        place = f"document {fault.first_document:,}"
        if fault.last_document != fault.first_document:
            place = f"documents {fault.first_document:,} to {fault.last_document:,}"
        kind = "random symbols" if fault.kind == "noise" else "repetitions of the same words"
        yield Finding(
            BAD_TEXT,
            f"{fault.share:.0%} of {path} is {kind} ({place}): a piece compresses to {fault.bits_per_byte:.2g} bits "
            f"per byte, the usual one to {fault.usual_bits_per_byte:.2g}. It begins '{fault.excerpt}'. Remove it, and "
            "start again with the rest of the text (--data-file)",
        )


def _passes(run: RunRecord) -> float:
    """Passes over the training text; infinite where that is unknown."""
    epochs = [r["epoch"] for r in run.records if is_number(r.get("epoch"))]
    if epochs and max(epochs) > 0:
        return float(max(epochs))
    return math.inf


def _evidence(run: RunRecord, cause: str) -> Iterator[str]:
    """Figures of the record for a cause, each with its step."""
    if cause == "overfitting":
        yield _course("validation loss", run.evaluations, "val_loss")
        yield _course("training loss", run.steps, "loss")
        if (passes := _passes(run)) < math.inf:
            yield f"passes over the text: {passes:.3g}"
        return
    if cause == "constant clipping":
        clipped = [float(r.get("clipped") or 0) for r in run.steps]
        norms = [float(r["grad_norm"]) for r in run.steps if is_number(r.get("grad_norm"))]
        if clipped and norms:
            yield (
                f"clipped: {statistics.fmean(clipped):.0%} of all steps; median gradient norm "
                f"{statistics.median(norms):.3g}, limit {run.config.max_grad_norm:g}"
            )
        return
    if cause in (experts.DEAD, experts.COLLAPSED):
        yield _course("load of the least used expert", run.steps, "smallest_load")
        yield _course("load of the most used expert", run.steps, "largest_load")
        return
    if run.steps:
        yield _course("training loss", run.steps, "loss")
    if run.evaluations:
        yield _course("validation loss", run.evaluations, "val_loss")
    rates = [
        f"{rate:.2g} for {name}"
        for name, key in (("AdamW", "lr"), ("Muon", "muon_lr"))
        if (rate := run.most(key)) is not None
    ]
    if rates:
        yield f"highest learning rate: {', '.join(rates)}"
    if refused := max((r.get("refused") or 0 for r in run.steps), default=0):
        yield f"refused: {counted(refused, 'step')} of {run.last_step:,}"


def _course(name: str, records: Sequence[Record], key: str) -> str:
    """The first, the lowest and the last value, with their steps."""
    known = [r for r in records if is_number(r.get(key))]
    if not known:
        return f"{name}: none recorded"
    lowest = min(known, key=lambda record: record[key])
    shown = [("first", known[0]), ("lowest", lowest), ("last", known[-1])]
    told = ", ".join(f"{word} {r[key]:.4g} (step {r['step']:,})" for word, r in shown)
    return f"{name}: {told}"
