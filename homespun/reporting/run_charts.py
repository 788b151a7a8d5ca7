"""Runs flow in; the charts of their figures flow out, all over the tokens that the runs have seen."""

from collections.abc import Iterator, Sequence

from homespun.records.plot import smoothed
from homespun.records.reading import is_number
from homespun.reporting.charts import Band, Chart, Line, Points, Style
from homespun.reporting.reported import Reported
from homespun.reporting.run_record import RunRecord

FIGURES = (
    ("Throughput", "tokens per second", "tokens_per_second", 1.0),
    ("Peak memory", "GB", "memory_bytes", 1e-9),
    ("Entropy of the routers", "1 = undecided", "router_entropy", 1.0),
    ("Auxiliary losses", "% of the minimised loss", "auxiliary_share", 100.0),
    ("Entropy of the answers", "nats per token", "entropy", 1.0),
    ("Distance from the initial model", "nats per token", "kl", 1.0),
    ("Length of the answers", "tokens", "answer_tokens", 1.0),
)
"""Charts of one figure: title, unit, entry of the record, and its factor."""
PAIRS = (
    (
        "Most and least used expert",
        "1 = even",
        ("largest_load", "most used"),
        ("smallest_load", "least used"),
    ),
    ("Reward", "mean", ("reward", "training"), ("val_reward", "validation")),
    (
        "Pairs in the right order",
        "share",
        ("accuracy", "training"),
        ("val_accuracy", "validation"),
    ),
    (
        "Margin of the better answer",
        "as a reward",
        ("margin", "training"),
        ("val_margin", "validation"),
    ),
)
"""Charts of two figures: title, unit, and for each its entry and its name."""


def charts_of(reported: Sequence[Reported]) -> Iterator[Chart]:
    """The charts in their order. One without points shows nothing."""
    several = len(reported) > 1
    yield _loss(reported, several)
    yield _validation_loss(reported, several)
    yield _learning_rate(reported, several)
    limits = sorted({one.run.config.max_grad_norm for one in reported if one.run.stored_settings})
    norms = _lines(reported, "grad_norm", several)
    yield Chart(
        "Gradient norm", "before clipping", norms, from_zero=True,
        levels=[(f"clipped above {limit:g}", limit) for limit in limits],
    )  # fmt: skip
    clipped = _lines(reported, "clipped", several, scale=100.0)
    if any(y for line in clipped for _, y in line.points):
        yield Chart("Clipped steps", "% of the steps since the last line", clipped, from_zero=True)
    for title, unit, key, scale in FIGURES:
        yield Chart(title, unit, _lines(reported, key, several, scale), from_zero=True)
    for title, unit, one, other in PAIRS:
        yield _pair(reported, several, title, unit, one, other)


def _label(one: Reported, of: str, several: bool) -> str:
    return f"{one.name}, {of}" if several else of


def _loss(reported: Sequence[Reported], several: bool) -> Chart:
    """The loss in training, smooth and of each line, and in evaluations."""
    lines: list[Line] = []
    for index, one in enumerate(reported):
        training = one.run.curve("loss")
        validation = [
            (float(r.get("tokens") or 0), float(r["val_loss"])) for r in one.run.evaluations
        ]
        if len(training) > 40:
            label = _label(one, "training, each line", several)
            lines.append(Line(label, training, index, "pale"))
        name = one.name if several else None
        label = _label(one, "training", several)
        lines.append(Line(label, _smooth(training), index, in_legend=name))
        colour, own = (index, "") if several else (1, None)
        label = _label(one, "validation", several)
        lines.append(Line(label, validation, colour, "dots", own))
    unit = "nats per token" if all(one.run.config.learns_text for one in reported) else ""
    if several:
        unit = f"{unit}; dots: validation".removeprefix("; ")
    return Chart("Loss", unit, lines, visible=_after_the_fall(lines))


def _validation_loss(reported: Sequence[Reported], several: bool) -> Chart:
    """The loss in evaluations beside that of measured runs."""
    lines = [
        Line(one.name if several else "this run", _bits_per_byte(one.run), index, "dots")
        for index, one in enumerate(reported)
    ]
    band = None
    compared = [one.comparison for one in reported if one.comparison]
    for comparison in {id(c.curve): c for c in compared}.values():
        curve, first, last = comparison.curve, comparison.curve.tokens[0], comparison.tokens
        reference = [
            (float(t), b)
            for t, b in zip(curve.tokens, curve.bits_per_byte, strict=True)
            if t < last
        ]
        reference.append((last, curve.at(last)))
        label = f"measured run ({curve.text}, {curve.parameters / 1e6:.2g} M)"
        lines.append(Line(label, reference, 5, "reference"))
        if len(compared) == 1 and last > first:
            s = comparison.spread
            band = Band("usual range", [(t, b * (1 - s), b * (1 + s)) for t, b in reference])
    visible = _after_the_fall(lines)
    return Chart("Validation loss", "bits per byte", lines, band=band, visible=visible)


def _learning_rate(reported: Sequence[Reported], several: bool) -> Chart:
    """The learning rates of one or two optimizers."""
    lines: list[Line] = []
    for index, one in enumerate(reported):
        for key, name in (("muon_lr", "Muon"), ("lr", "AdamW")):
            colour = index if several else len(lines)
            second = several and key == "lr" and bool(one.run.curve("muon_lr"))
            in_legend = "" if second else one.name if several else None
            points = one.run.curve(key)
            if points:
                style: Style = "dashed" if second else "line"
                lines.append(Line(_label(one, name, several), points, colour, style, in_legend))
    unit = "dashed: AdamW beside Muon" if any(r.style == "dashed" for r in lines) else ""
    return Chart("Learning rate", unit, lines, from_zero=True)


def _pair(
    reported: Sequence[Reported],
    several: bool,
    title: str,
    unit: str,
    solid: tuple[str, str],
    dashed: tuple[str, str],
) -> Chart:
    """Two figures, each given by its entry and its name."""
    lines: list[Line] = []
    for index, one in enumerate(reported):
        above, below = one.run.curve(solid[0]), one.run.curve(dashed[0])
        name = one.name if several else None
        lines.append(Line(_label(one, solid[1], several), above, index, in_legend=name))
        hidden = "" if several and above else name
        label = _label(one, dashed[1], several)
        lines.append(Line(label, below, index, "dashed", hidden))
    if several and any(line.points for line in lines if line.style == "dashed"):
        unit = f"{unit}; dashed: {dashed[1]}"
    return Chart(title, unit, lines)


def _lines(reported: Sequence[Reported], key: str, several: bool, scale: float = 1.0) -> list[Line]:
    return [
        Line(
            one.name if several else key.replace("_", " "),
            [(x, y * scale) for x, y in one.run.curve(key)],
            index,
        )
        for index, one in enumerate(reported)
    ]


def _smooth(points: Points) -> Points:
    import numpy as np

    if len(points) < 3:
        return points
    values = smoothed(np.array([y for _, y in points]))
    return [(x, float(y)) for (x, _), y in zip(points, values, strict=True)]


def _bits_per_byte(run: RunRecord) -> list[tuple[float, float]]:
    return [
        (float(r.get("tokens") or 0), float(r["val_bits_per_byte"]))
        for r in run.evaluations
        if is_number(r.get("val_bits_per_byte"))
    ]


def _after_the_fall(lines: Sequence[Line]) -> tuple[float, float] | None:
    """The range of values without the steep beginning of long lines, which would flatten the rest."""
    shown = []
    for line in lines:
        last = line.points[-1][0] if line.points else 0.0
        late = [y for x, y in line.points if x > last / 20] if len(line.points) >= 15 else []
        shown += late or [y for _, y in line.points]
    if not shown:
        return None
    least, most = min(shown), max(shown)
    return least, max(most, least + 1e-6)
