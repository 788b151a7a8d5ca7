"""Commands that train models, and those that plan and tune their training."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from homespun.cli.arguments import Settings
from homespun.config import PlanConfig, TrainConfig, TuneConfig
from homespun.terminal import columns, printable, put, say, wrapped


def train(settings: Settings) -> int:
    """Flags override the TOML file, which overrides the settings of a resumed run, which override the defaults."""
    if _is_dry(settings):
        return plan(settings)
    from homespun.engine import launcher, select
    from homespun.training.interrupts import Interrupts, ignored

    place = launcher.place()
    if place and place.rank:
        with ignored():
            select.follow()
        return 0
    # Before the imports, which may take seconds. A launcher passes a signal on that its ranks have got already.
    with Interrupts(quits=place is None, repeats=place is not None) as interrupts, select.leading():
        from homespun.training.train import train

        stopped_by = train(settings, say, interrupts).stopped_by
    return 128 + stopped_by if stopped_by else 0


def reinforce(settings: Settings) -> int:
    from homespun.training.reinforcement.policy import as_training

    return train(as_training(settings))


def plan(settings: Settings) -> int:
    from homespun.engine import launcher

    if (place := launcher.place()) and place.rank:
        return 0  # one plan is enough
    config = PlanConfig(**settings)
    own = ("machine", "ranks", "interconnect", "dry_run")
    given = {name: value for name, value in settings.items() if name not in own}
    from homespun.forecast.forecast import forecast

    planned = forecast(
        given, say, machine=config.machine, n_ranks=config.ranks, interconnect=config.interconnect
    )
    _put_facts(planned.facts())
    return 0


def _put_facts(facts: Mapping[str, str]) -> None:
    """Print facts by topic, aligned."""
    widest = max(map(len, facts))
    for name, fact in facts.items():
        put(wrapped(f"{name:<{widest}}  {fact}", columns(sys.stdout), " " * (widest + 2)))


def tune(settings: Settings) -> int:
    if _is_dry(settings, TuneConfig):
        from homespun.tuning.tune import expected_tune

        _put_facts(expected_tune(settings, say))
        return 0
    from homespun.training.interrupts import Interrupts

    with Interrupts(quits=True) as interrupts:  # before the imports, which may take seconds
        from homespun.tuning.tune import describe, tune

        result = tune(settings, say, interrupts)
    if result.is_complete:
        put(f"\n{printable(result.table())}\n\n{wrapped(result.verdict, columns(sys.stdout))}")
    else:
        say(result.verdict)
    for name, fact in describe(result).items():
        say(f"  {name:<6} {fact}")
    return 128 + result.stopped_by if result.stopped_by else 0


def _is_dry(settings: Settings, kind: type[TrainConfig] = TrainConfig) -> bool:
    """Whether the settings of a run, or the file that they name, only ask for a plan."""
    from homespun.config.toml_file import read_toml

    stated = dict(settings)
    if file := settings.get("config"):
        stated = read_toml(Path(file), kind) | stated
    return bool(stated.get("dry_run"))


def choices() -> Mapping[str, Iterable[str]]:
    from homespun.architectures.families import FAMILIES
    from homespun.records import tracking

    return {"architecture": FAMILIES, "track": tracking.available()}
