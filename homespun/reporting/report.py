"""The folders of runs flow in, one HTML file about them comes out."""

from collections.abc import Sequence
from pathlib import Path

from homespun import durable
from homespun.errors import UserError, cannot_write
from homespun.reporting import reference
from homespun.reporting.diagnosis import diagnose
from homespun.reporting.page import page
from homespun.reporting.reported import Reported
from homespun.reporting.run_record import RunRecord, common_names, read_run
from homespun.terminal import bar

FILE = "report.html"
ENDINGS = (".html", ".htm")


def write_report(paths: Sequence[Path], output: Path | None = None) -> Path:
    """Write a report about one or several runs, and give its path.

    Args:
        paths: folders of runs, or files in them.
        output: the file. Without it, `report.html` in the folder of the run, or in the current folder for several.

    Raises:
        UserError: there is no run, its record cannot be read, or the file cannot be written.
    """
    import homespun

    runs = [read_run(path) for path in paths]
    if output is None:
        output = runs[0].folder / FILE if len(runs) == 1 else Path(FILE)
    elif output.is_dir():
        output = output / FILE
    if output.suffix.lower() not in ENDINGS:
        raise UserError(
            f"--output is {output}: a report is a web page, name a file that ends with .html"
        )
    names = [runs[0].name] if len(runs) == 1 else common_names(runs)
    reported = [report_on(run, name) for run, name in zip(runs, names, strict=True)]
    with bar("Drawing the report", None):
        content = page(reported, homespun.__version__)
    try:
        durable.make_folder(output.parent)
        durable.write_text(output, content)
    except OSError as error:
        raise cannot_write(
            error, f"{output} cannot be written", "name another file with --output"
        ) from None
    return output


def report_on(run: RunRecord, name: str) -> Reported:
    """A run with its diagnosis and its comparison."""
    comparison, why_not = compare(run)
    return Reported(run, name, diagnose(run), comparison, why_not)


def compare(run: RunRecord) -> tuple[reference.Comparison | None, str]:
    """The measured run like this one, or the reason why there is none, in a sentence."""
    points = [
        (float(record["tokens"]), float(record["val_bits_per_byte"]))
        for record in run.evaluations
        if record.get("tokens") and record.get("val_bits_per_byte")
    ]
    none = "Is this loss usual? There is no comparable curve: "
    if run.goes_on:
        return None, f"{none}the run goes on from a trained model."
    if not points:
        return None, f"{none}the run has not been evaluated."
    if run.parameters is None:
        return None, f"{none}the model is unknown, because there is no checkpoint."
    text = run.text
    if text is None:
        return (
            None,
            f"{none}the text is not at its place any more, or has changed, so its kind is unknown.",
        )
    try:
        compressed = reference.compressed(text)
    except UserError as error:
        return None, f"{none}{error}."
    found = reference.compare(
        compressed=compressed,
        parameters=run.parameters,
        optimizer=run.config.optimizer,
        planned_tokens=run.planned_tokens,
        points=points,
    )
    if found is None:
        return (
            None,
            f"{none}no run of this size, with this optimizer, was measured on such a text for so many tokens.",
        )
    return found, ""
