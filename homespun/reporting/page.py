"""Runs with their diagnoses flow in, one HTML page that needs nothing else comes out.

All text of a run is escaped, and the page's own policy forbids every request and every script but the one below.
"""

import base64
import hashlib
import itertools
import math
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from homespun.architectures.families import described_size
from homespun.config import TrainConfig
from homespun.config.checked import flag
from homespun.records.reading import is_number
from homespun.reporting.charts import COLOURS, number
from homespun.reporting.diagnosis import Diagnosis, passing_notes
from homespun.reporting.reported import Reported
from homespun.reporting.run_charts import charts_of
from homespun.reporting.run_record import RunRecord
from homespun.terminal import counted, duration, size

MOST_SAMPLES = 30
"""Of a run; of more, those at even distances are shown, with the first and the last round."""
MOST_DAMAGE = 5
"""Damaged lines of a record that are named; the others are counted."""
NOT_REPEATED = {"resume", "config", "dry_run"}
"""Settings that are no part of the run itself."""
PLACE = "checkpoint_dir"
"""The setting in which runs differ without being different."""

STYLE = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")


def page(reported: Sequence[Reported], version: str) -> str:
    """The page about one or several runs."""
    several = len(reported) > 1
    title = f"{len(reported)} runs" if several else reported[0].name
    style = STYLE.read_text(encoding="utf-8")
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    sections = [
        _summary(reported),
        _diagnoses(reported),
        _curves(reported),
        _samples(reported),
        _settings(reported),
        _commands(reported),
        _machine(reported, version),
    ]
    body = "\n".join(section for section in sections if section)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} - homespun report</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
<p class="kind">Training report</p>
<h1>{escape(title)}</h1>
{_subtitle(reported)}
</header>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def _section(name: str, heading: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    if not inside:
        return ""
    return f'<section id="{name}" aria-labelledby="{name}-h">\n<h2 id="{name}-h">{heading}</h2>\n{inside}\n</section>'


def _subtitle(reported: Sequence[Reported]) -> str:
    facts = _shared([_headline(one.run) for one in reported])
    return f'<p class="lead">{escape(facts)}</p>' if facts else ""


def _shared(texts: Sequence[str]) -> str:
    """The parts that all texts have in common."""
    parts = [text.split(" · ") for text in texts]
    return " · ".join(part for part in parts[0] if all(part in other for other in parts))


def _headline(run: RunRecord) -> str:
    """Model and text."""
    facts = []
    if (model := run.facts.get("model")) and isinstance(model, str):
        facts.append(model)
    elif run.model:
        m = run.model
        facts.append(
            f"{m.architecture}, {counted(m.n_layers, 'layer')} x {m.d_model}, {described_size(m)}"
        )
    text = run.header.get("data_file") or run.facts.get("text")
    if isinstance(text, str) and text:
        facts.append(Path(text).name)
    return " · ".join(facts)


def _figures(run: RunRecord) -> dict[str, str]:
    """Titles and values, the most important first."""
    found: dict[str, str] = {}
    if best := run.best:
        bits = best.get("val_bits_per_byte")
        found["validation loss, nats"] = f"{best['val_loss']:.4f}"
        if is_number(bits):
            found["bits per byte"] = f"{bits:.3f}"
        found["perplexity"] = number(math.exp(min(best["val_loss"], 700)))
        found["at step"] = f"{best['step']:,}"
        last = run.evaluations[-1]
        if last is not best:
            found["at the end, nats"] = f"{last['val_loss']:.4f}"
    if run.steps:
        found["training loss, nats"] = f"{run.steps[-1]['loss']:.4f}"
    found["steps"] = f"{run.last_step:,}"
    found["tokens"] = number(run.last_tokens)
    if (passes := _last(run, "epoch")) is not None:
        found["passes over the text"] = f"{passes:.3g}"
    if (seconds := _last(run, "seconds")) is not None:
        found["training time"] = duration(seconds)
        if seconds > 0 and run.last_tokens:
            found["tokens per second"] = f"{run.last_tokens / seconds:,.0f}"
    if (memory := run.most("memory_bytes")) is not None:
        found["peak memory"] = size(memory)
    return found


def _last(run: RunRecord, name: str) -> float | None:
    values = [record[name] for record in run.records if is_number(record.get(name))]
    return float(values[-1]) if values else None


def _summary(reported: Sequence[Reported]) -> str:
    sentences: dict[tuple[str, str], list[str]] = {}
    for one in reported:
        sentences.setdefault(_verdict(one), []).append(one.name)
    verdicts = "".join(
        f'<p class="verdict {kind}">'
        + (f"<strong>{escape(', '.join(names))}</strong>: " if len(reported) > 1 else "")
        + f"{escape(sentence)}</p>"
        for (kind, sentence), names in sentences.items()
    )
    if len(reported) == 1:
        pairs = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
            for name, value in _figures(reported[0].run).items()
        )
        figures = f'<dl class="figures">{pairs}</dl>'
    else:
        all_figures = [_figures(one.run) for one in reported]
        titles = list(dict.fromkeys(itertools.chain.from_iterable(all_figures)))
        best = min((one.run.best["val_loss"] for one in reported if one.run.best), default=None)
        rows = [
            (
                _key(number_of, one),
                *(_cell(figures.get(title, "")) for title in titles),
            )
            for number_of, (one, figures) in enumerate(zip(reported, all_figures, strict=True))
        ]
        marked = [one.run.best is not None and one.run.best["val_loss"] == best for one in reported]
        figures = _table(
            ["run", *titles],
            rows,
            marked=marked,
            caption="Figures of the runs",
            kind="figures-table",
        )
        if any(marked):
            figures += (
                '<p class="note">The row in bold has the lowest validation loss. Losses compare if the runs have '
                "the same tokenizer and validation text; bits per byte compare if they have the same text.</p>"
            )
    return _section("summary", "Result", figures, verdicts)


def _verdict(one: Reported) -> tuple[str, str]:
    """Whether the loss is usual: one word and one sentence."""
    if one.comparison is None:
        return "none", one.no_comparison
    return one.comparison.verdict, one.comparison.sentence


def _key(index: int, one: Reported) -> str:
    return f'<span class="key c{index % COLOURS + 1}" aria-hidden="true"></span>{escape(one.name)}'


def _cell(text: str) -> str:
    return escape(text) or '<span class="faint">-</span>'


def _table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    marked: Sequence[bool] = (),
    row_class: Sequence[str] = (),
    kind: str = "",
) -> str:
    """A table; its cells are HTML already, its titles are text. The first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    lines = []
    for index, (first, *others) in enumerate(rows):
        kinds = [row_class[index]] if row_class and row_class[index] else []
        kinds += ["marked"] if marked and marked[index] else []
        classes = f' class="{" ".join(kinds)}"' if kinds else ""
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr{classes}><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="wide" role="region" aria-label="{escape(caption, quote=True)}" tabindex="0">'
        f'<table class="{kind}">'
        f'<caption class="hidden">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _diagnoses(reported: Sequence[Reported]) -> str:
    parts = []
    for one in reported:
        heading = f"<h3>{escape(one.name)}</h3>" if len(reported) > 1 else ""
        notes = passing_notes(one.run, one.diagnoses)
        items = [_diagnosis(diagnosis) for diagnosis in one.diagnoses]
        if not items and (one.run.steps or one.run.evaluations):
            items = ['<p class="fine">No problem found in the record.</p>']
        elif not items:
            items = ["<p>Nothing is known of this run yet, so nothing can be told.</p>"]
        if notes:
            rows = "".join(
                f"<li>step {note['step']:,}: {escape(note['advice'])}</li>" for note in notes[-20:]
            )
            counted_notes = counted(len(notes), "remark")
            items.append(
                f"<details><summary>{counted_notes} during the run, over by its end</summary>"
                f"<ul>{rows}</ul></details>"
            )
        for line in one.run.damage[:MOST_DAMAGE]:
            items.append(f'<p class="note">Left out: {escape(line)}</p>')
        if more := one.run.damage[MOST_DAMAGE:]:
            items.append(f'<p class="note">And {counted(len(more), "more damaged line")}.</p>')
        parts.append(heading + "".join(items))
    return _section("diagnosis", "Diagnosis", *parts)


def _diagnosis(diagnosis: Diagnosis) -> str:
    evidence = "".join(f"<li>{escape(line)}</li>" for line in diagnosis.evidence)
    listed = f"<ul>{evidence}</ul>" if evidence else ""
    return (
        f'<div class="problem"><p class="title">{escape(diagnosis.title)}</p>'
        f"<p>{escape(diagnosis.sentence)}</p>{listed}</div>"
    )


def _curves(reported: Sequence[Reported]) -> str:
    if not any(one.run.steps or one.run.evaluations for one in reported):
        return _section("curves", "Curves", "<p>Nothing was logged.</p>")
    charts = [chart.html() for chart in charts_of(reported)]
    tables = "".join(_values(one) for one in reported)
    note = (
        '<p class="note">The axis counts tokens that the run has seen. A long line is drawn by the least and the '
        "greatest value of each stretch, so that spikes stay. Move over a chart to read its values.</p>"
    )
    return _section(
        "curves", "Curves", f'<div class="charts">{"".join(charts)}</div>', note, tables
    )


def _values(one: Reported) -> str:
    """A table of the evaluations, for readers who do not see the charts."""
    evaluations = one.run.evaluations
    if not evaluations:
        return ""
    shown = _evenly(evaluations, 20)
    rows = [
        (
            f"{record['step']:,}",
            number(record.get("tokens") or 0),
            f"{record['val_loss']:.4f}",
            f"{record['val_bits_per_byte']:.4f}"
            if is_number(record.get("val_bits_per_byte"))
            else "-",
        )
        for record in shown
    ]
    titles = ["step", "tokens", "validation loss, nats per token", "bits per byte"]
    table = _table(titles, rows, caption=f"Evaluations of {one.name}")
    return (
        f"<details><summary>Evaluations of {escape(one.name)} as a table</summary>{table}</details>"
    )


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, at even distances, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


def _samples(reported: Sequence[Reported]) -> str:
    parts = []
    for one in reported:
        if not one.run.samples:
            continue
        rounds: dict[int, list[Mapping[str, Any]]] = {}
        for record in one.run.samples:
            rounds.setdefault(record["step"], []).append(record)
        per_round = max(map(len, rounds.values()))
        shown = _evenly(list(rounds.items()), max(2, MOST_SAMPLES // per_round))
        items = []
        for step, records in shown:
            texts = "".join(
                f"<blockquote><p><b>{escape(record['prompt'])}</b>{escape(record['text'])}</p></blockquote>"
                for record in records
            )
            items.append(f'<li><p class="when">step {step:,}</p>{texts}</li>')
        heading = f"<h3>{escape(one.name)}</h3>" if len(reported) > 1 else ""
        if len(shown) < len(rounds):
            heading += f'<p class="note">{len(shown)} of {len(rounds):,} rounds.</p>'
        first, *middle = items[:-1] or items
        last = items[-1] if len(items) > 1 else ""
        between = (
            f'<li class="between"><details><summary>{counted(len(middle), "round")} between</summary>'
            f'<ol class="samples">{"".join(middle)}</ol></details></li>'
            if middle
            else ""
        )
        parts.append(f'{heading}<ol class="samples">{first}{between}{last}</ol>')
    return _section("samples", "Samples over time", *parts)


def _settings(reported: Sequence[Reported]) -> str:
    all_settings = [one.run.stored_settings for one in reported]
    if not any(all_settings):
        return _section(
            "settings",
            "Settings",
            "<p>Unknown: there is no checkpoint, and the record has no settings.</p>",
        )
    names = list(dict.fromkeys(itertools.chain.from_iterable(all_settings)))
    order = {name: i for i, name in enumerate(TrainConfig.__dataclass_fields__)}
    names.sort(key=lambda name: order.get(name, len(order)))
    several = len(reported) > 1
    titles = ["setting", *(one.name for one in reported)]
    rows, differs, given = [], [], []
    for name in names:
        values = [settings.get(name) for settings in all_settings]
        differ = several and name != PLACE and any(value != values[0] for value in values)
        by_user = any(
            name in one.run.requested
            and one.run.requested[name] is not None
            and one.run.requested[name] != _default(name)
            for one in reported
        )
        if name in NOT_REPEATED or all(value is None for value in values):
            continue
        rows.append((escape(flag(name)), *(_cell(_value(value)) for value in values)))
        differs.append(differ)
        given.append("given" if by_user and not several else "")
    if several:
        shown = [row for row, differ in zip(rows, differs, strict=True) if differ]
        parts = [
            _table(titles, shown, caption="Settings in which the runs differ")
            if shown
            else "<p>The runs have the same settings.</p>"
        ]
        table = _table(titles, rows, caption="All settings", marked=differs)
        parts.append(f"<details><summary>All {len(rows)} settings</summary>{table}</details>")
        return _section("settings", "Settings in which the runs differ", *parts)
    mine = [row for row, kind in zip(rows, given, strict=True) if kind]
    parts = []
    if mine:
        parts.append(_table(["given", "value"], mine, caption="Settings that were given"))
    table = _table(["setting", "value"], rows, caption="All settings", row_class=given)
    parts.append(
        f"<details><summary>All {len(rows)} settings, with those that were chosen</summary>{table}</details>"
    )
    return _section("settings", "Settings", *parts)


def _default(name: str) -> Any:
    field = TrainConfig.__dataclass_fields__.get(name)
    default = field.default if field else None
    return list(default) if isinstance(default, tuple) else default


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def command_to_repeat(run: RunRecord) -> str | None:
    """The command that starts the same run again; None if its settings are unknown."""
    if not run.requested:
        return None
    words = ["homespun", "train"]
    for name in TrainConfig.__dataclass_fields__:
        value = run.requested.get(name)
        if name in NOT_REPEATED or value is None or value == _default(name):
            continue
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(name).replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [flag(name), *map(str, value)]
        else:
            words += [flag(name), str(value)]
    return shlex.join(words)


def command_to_resume(run: RunRecord) -> str:
    """The command that goes on with a run."""
    words = ["homespun", "train", "--resume"]
    if run.name != TrainConfig.checkpoint_dir:
        words += ["--checkpoint-dir", run.name]
    return shlex.join(words)


def _commands(reported: Sequence[Reported]) -> str:
    parts = []
    for one in reported:
        heading = f"<h3>{escape(one.name)}</h3>" if len(reported) > 1 else ""
        lines = []
        if command := command_to_repeat(one.run):
            lines.append(("repeat", command))
        if one.run.header:
            lines.append(("resume", command_to_resume(one.run)))
        body = "".join(
            f"<dt>{escape(what)}</dt><dd><code>{escape(command)}</code></dd>"
            for what, command in lines
        )
        if body:
            parts.append(f'{heading}<dl class="commands">{body}</dl>')
    note = (
        '<p class="note">The same text, tokenizer, version and machine give the same numbers again, unless a time '
        "budget ended the run.</p>"
    )
    return _section("commands", "Commands", *parts, note) if parts else ""


def _machine(reported: Sequence[Reported], version: str) -> str:
    facts = [_machine_facts(one.run) for one in reported]
    titles = list(dict.fromkeys(itertools.chain.from_iterable(facts)))
    rows = [(escape(title), *(_cell(fact.get(title, "")) for fact in facts)) for title in titles]
    names = [one.name for one in reported] if len(reported) > 1 else ["value"]
    table = _table(["", *names], rows, caption="Machine and versions") if rows else ""
    made = (
        f'<p class="note">This page was made by homespun {escape(version)} with Python {platform.python_version()}. '
        "It loads nothing from elsewhere.</p>"
    )
    return _section("machine", "Machine and versions", table, made)


def _machine_facts(run: RunRecord) -> dict[str, str]:
    found = {}
    for name, title in (("version", "homespun"), ("machine", "machine")):
        if isinstance(value := run.facts.get(name), str):
            found[title] = value
    engine = run.header.get("facts")
    if isinstance(engine, dict):
        found |= {str(name): str(value) for name, value in engine.items()}
    for name, title in (
        ("data_file", "text"),
        ("data_sha256", "text, SHA-256"),
        ("tokenizer_sha256", "tokenizer, SHA-256"),
    ):
        if isinstance(value := run.header.get(name), str):
            found[title] = value[:16] if "SHA" in title else value
    for name in ("training_tokens", "validation_tokens", "parameters", "trained_parameters"):
        if is_number(run.facts.get(name)):
            found[name.replace("_", " ")] = f"{run.facts[name]:,}"
    return found
