"""The folder of a run flows in; its diagnosis flows out as lines of text."""

from collections.abc import Callable
from pathlib import Path

from homespun.reporting.diagnosis import passing_notes
from homespun.reporting.report import report_on
from homespun.reporting.run_record import RunRecord, read_run
from homespun.terminal import counted, printable, wrapped

INDENT = " " * 12
MOST_NOTES = 5


def examine_run(path: Path, put: Callable[[str], object], width: int | None) -> bool:
    """Print the state of a run, the causes of its troubles with their evidence, and the changes.

    Returns: False if there is a trouble.

    Raises:
        UserError: there is no run, or its record cannot be read.
    """
    run = read_run(path)
    one = report_on(run, run.name)

    def line(title: str, text: str) -> None:
        put(wrapped(printable(f"{title:<12}{text}"), width, INDENT))

    line("run", f"{run.name}: {_state(run)}")
    settings = run.config
    if run.stored_settings:
        rate = f"{settings.learning_rate:g}"
        if settings.optimizer == "muon":
            rate = f"{settings.muon_learning_rate:g} for Muon, {rate} for AdamW"
        line(
            "settings",
            f"{settings.optimizer}, peak rate {rate}, {settings.tokens_per_step:,} tokens a step",
        )
    line("loss", one.comparison.sentence if one.comparison else one.no_comparison)
    for damage in run.damage[:MOST_NOTES]:
        line("left out", damage)
    if more := run.damage[MOST_NOTES:]:
        line("", f"and {counted(len(more), 'more damaged line')}")
    for number, diagnosis in enumerate(one.diagnoses, 1):
        put("")
        line(f"problem {number}", diagnosis.title)
        line("", diagnosis.sentence)
        for evidence in diagnosis.evidence:
            line("evidence", evidence)
    notes = passing_notes(run, one.diagnoses)
    if notes:
        put("")
    for note in notes[-MOST_NOTES:]:
        line("noted", f"step {note['step']:,}: {note['advice']}")
    put("")
    if one.diagnoses:
        found = counted(len(one.diagnoses), "problem")
        line("result", f"{found} found{'; begin with the first' if one.diagnoses[1:] else ''}.")
    elif run.damage and not run.records:
        line("result", "No line of the record can be read, so nothing can be told.")
    elif not run.steps and not run.evaluations:
        line("result", "Nothing was logged yet, so nothing can be told.")
    else:
        line("result", "No problem found in the record.")
    return not one.diagnoses


def _state(run: RunRecord) -> str:
    facts = [f"step {run.last_step:,}", f"{run.last_tokens:,} tokens"]
    if best := run.best:
        facts.append(f"best validation loss {best['val_loss']:.4f} at step {best['step']:,}")
    return ", ".join(facts)
