"""The figures that README and docs quote in their prose, each computed from the committed results.

A page quotes a figure between `<!-- figure NAME -->` and `<!-- end -->`. `python -m benchmarks.report` fills it in.
"""

from collections.abc import Callable, Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
"""The committed results by name, see `report.committed`."""

SMALL = "6 x 384, vocabulary 8,000, 8 x 256 tokens a step"

HELD_OUT = "the validation side, from the training side"
BY_MLX = "a training step with MLX, float32, checkpointing"
TEN_MINUTES = "10m each"
DRAWING = "A record of 100,000 lines on the page of the studio"
FINAL_LOSS = "final loss of the recipe"
ADAPTERS = "a training step of SmolLM2-135M, adapters of rank 8"


def rows(results: Results, name: str, title: str) -> list[dict[str, Any]]:
    """The rows of the table `title` in the result `name`."""
    found: list[dict[str, Any]] = results[name]["tables"][title]
    return found


def row(results: Results, name: str, title: str, label: str) -> dict[str, Any]:
    """The row whose first column is `label`."""
    return next(r for r in rows(results, name, title) if next(iter(r.values())) == label)


def spread(values: list[float]) -> str:
    """The range of some fractions, as '84 to 92%'."""
    least, most = (f"{100 * value:.0f}" for value in (min(values), max(values)))
    return f"{most}%" if least == most else f"{least} to {most}%"


def speed(name: str, title: str, label: str) -> Callable[[Results], str]:
    """Tokens per second, rounded to tens below 1,000 and to hundreds above."""

    def figure(results: Results) -> str:
        value = row(results, name, title, label)["tokens/s"]
        return f"{round(value, -1 if value < 1000 else -2):,.0f}"

    return figure


def exact(name: str, title: str, label: str, column: str, digits: int) -> Callable[[Results], str]:
    """One cell, with `digits` decimal places."""
    return lambda results: f"{row(results, name, title, label)[column]:,.{digits}f}"


def ratios(column: str) -> Callable[[Results], str]:
    """The range of one of the ratios of plans to runs, as '89 to 104%'."""
    return lambda results: spread(
        [r[column] for r in rows(results, "planning", "predicted and measured")]
    )


def furthest_off(column: str) -> Callable[[Results], str]:
    """The largest error of a law of the final loss, in nats."""
    return lambda results: f"{max(abs(r[column]) for r in rows(results, 'curves', FINAL_LOSS)):.2f}"


def times_as_long(name: str, label: str) -> Callable[[Results], str]:
    """The range over all tables of the time of a variant in times of the first one, as '1.1 to 1.3'."""

    def figure(results: Results) -> str:
        found = [row(results, name, title, label)["ratio"] for title in results[name]["tables"]]
        least, most = (f"{1 / ratio:.1f}" for ratio in (max(found), min(found)))
        return least if least == most else f"{least} to {most}"

    return figure


def efficiency(kind: str) -> Callable[[Results], str]:
    """The efficiency of two processes, with both optimizers."""

    def figure(results: Results) -> str:
        titles = [title for title in results["ranks"]["tables"] if "tokens a step" in title]
        found = [rows(results, "ranks", title) for title in titles]
        return spread(
            [
                r["efficiency"]
                for each in found
                for r in each
                if r.get("efficiency") and r["variant"] == kind
            ]
        )

    return figure


def by_width(text: str, label: str, column: str) -> Callable[[Results], str]:
    """A cell of the best rates of AdamW by width."""
    return lambda results: str(row(results, "rate_by_width", f"{text}, best rates", label)[column])


def answered(rate: float, passes: float) -> Callable[[Results], str]:
    """The share of right answers after so many passes at this fraction of the learning rates, as '58%'."""

    def figure(results: Results) -> str:
        [table] = results["answers"]["tables"].values()
        [found] = [r for r in table if (r["rate"], r["passes"]) == (rate, passes)]
        return f"{100 * found['right']:.0f}%"

    return figure


def first_gigabytes(name: str, title: str, column: str) -> Callable[[Results], str]:
    """A cell of the first row, from MB."""
    return lambda results: f"{rows(results, name, title)[0][column] / 1000:.1f}"


def stories(table: str, column: int | str) -> Callable[[Results], str]:
    """The range of a share over the training seeds.

    Args:
        table: the beginning of its title.
        column: a title, or the number of the column.
    """

    def figure(results: Results) -> str:
        [title] = [name for name in results["storytelling"]["tables"] if name.startswith(table)]
        found = rows(results, "storytelling", title)
        return spread(
            [list(r.values())[column] if isinstance(column, int) else r[column] for r in found]
        )

    return figure


def one_run(name: str, table: str, column: int | str) -> Callable[[Results], str]:
    """A share of a single run on stories, whose results have this name. Other arguments as for `stories`."""

    def figure(results: Results) -> str:
        [title] = [title for title in results[name]["tables"] if title.startswith(table)]
        [found] = rows(results, name, title)
        return spread([list(found.values())[column] if isinstance(column, int) else found[column]])

    return figure


def exact_answers(stage: str, column: str) -> Callable[[Results], str]:
    """The exact answers after a stage, as '61%', or their range over the seeds."""

    def figure(results: Results) -> str:
        table = next(iter(results["reinforcement"]["tables"].values()))
        found = [row[column] for row in table if row["after"] == stage]
        return spread([float(cell.rstrip("%")) / 100 for cell in found])

    return figure


def minutes_of(stage: str) -> Callable[[Results], str]:
    """The minutes of a stage with the first seed, which had its core to itself."""

    def figure(results: Results) -> str:
        table = next(iter(results["reinforcement_one_base"]["tables"].values()))
        return f"{next(row['minutes'] for row in table if row['after'] == stage):.1f}"

    return figure


def after_stage(stage: str, column: str) -> Callable[[Results], str]:
    """A cell of a stage on the way to a model that answers, or its range over the seeds."""

    def figure(results: Results) -> str:
        table = next(iter(results["reinforcement"]["tables"].values()))
        found = [row[column] for row in table if row["after"] == stage]
        least, most = (f"{value:.2f}" for value in (min(found), max(found)))
        return least if least == most else f"{least} to {most}"

    return figure


def gained(column: str, stage: str, before: str) -> Callable[[Results], str]:
    """By how many points the exact answers have risen since the stage `before`, or the range over the seeds that have
    both, as '8 to 11'."""

    def figure(results: Results) -> str:
        table = next(iter(results["reinforcement"]["tables"].values()))
        share = {(row["after"], row["seed"]): row[column] for row in table}
        points = [
            float(cell.rstrip("%")) - float(share[before, seed].rstrip("%"))
            for (after, seed), cell in share.items()
            if after == stage
        ]
        least, most = (f"{value:.0f}" for value in (min(points), max(points)))
        return least if least == most else f"{least} to {most}"

    return figure


def story_tokens(way: str, *, first: bool) -> Callable[[Results], str]:
    """Tokens of a story in the first or in the last of the listed steps with the judge as the reward."""

    def figure(results: Results) -> str:
        found = [r for r in rows(results, "story_reward", "the runs") if r["reward given"] == way]
        return f"{found[0 if first else -1]['answer_tokens']:.0f}"

    return figure


def rewarded_stories(way: str, column: str, name: str = "story_reward") -> Callable[[Results], str]:
    """A cell of the runs with the judge as their reward, or its range over the seeds."""

    def figure(results: Results) -> str:
        table = next(iter(results[name]["tables"].values()))
        found = [row[column] for row in table if row["reward"] == way]
        if isinstance(found[0], str):
            return spread([float(cell.rstrip("%")) / 100 for cell in found])
        digits = 2 if isinstance(found[0], float) else 0
        least, most = (f"{value:.{digits}f}" for value in (min(found), max(found)))
        return least if least == most else f"{least} to {most}"

    return figure


def seeds(name: str, title: str, label: str, unit: str) -> Callable[[Results], str]:
    """The range over the seeds, as '1.61 to 1.62'."""

    def figure(results: Results) -> str:
        found = row(results, name, title, label)
        return f"{found[f'least {unit}']:.3f} to {found[f'most {unit}']:.3f}"

    return figure


def compiling(family: str) -> Callable[[Results], str]:
    """Speed gained with compiled kernels, in percent."""

    def figure(results: Results) -> str:
        plain, compiled = (
            row(results, "training", SMALL, f"{family} adamw bfloat16{suffix}")["tokens/s"]
            for suffix in ("", " compiled")
        )
        return f"{100 * (compiled / plain - 1):.0f}%"

    return figure


def demo(column: str) -> Callable[[Results], str]:
    """A figure of the demo's run with the first seed."""
    return lambda results: f"{rows(results, 'storytelling', 'training')[0][column]:.2f}"


def of_mixture(text: str, model: str) -> Callable[[Results], str]:
    """The loss of a model of the comparison with mixtures, in nats per token: the mean, and the range of the seeds."""

    def figure(results: Results) -> str:
        found = rows(results, "mixture", f"{text}, nats per token")
        of_model = next(r for r in found if r["model"].startswith(model))
        mean, least, most = (f"{of_model[column]:.3f}" for column in ("mean", "least", "most"))
        return f"{mean} ({least} to {most})"

    return figure


def slower_mixture(size: str, optimizer: str, experts: str = "") -> Callable[[Results], str]:
    """How many times as long as a dense model's a step of a mixture of equal computation takes."""
    title = f"seconds of a step, {size}, {optimizer}"
    return exact("mixture", title, f"mixture, equal computation{experts}", "ratio", 1)


FINER = ", finer experts"
COMPARED = {
    "dense": "dense",
    "computation": "mixture, equal computation",
    "finer": f"mixture, equal computation{FINER}",
    "size": "mixture, equal size",
    "time": "dense, equal time",
}
"""The models of the comparison with mixtures, by the name of their figures."""

FIGURES: dict[str, Callable[[Results], str]] = {
    **{
        f"mixture-{text}-{name}": of_mixture(text, model)
        for text in ("stories", "prose")
        for name, model in COMPARED.items()
    },
    **{
        f"mixture-step-{size}-{optimizer}{finer}": slower_mixture(size, optimizer, experts)
        for size, optimizer in (("pico", "muon"), ("mini", "muon"), ("mini", "adamw"))
        for finer, experts in (("", ""), ("-finer", FINER))
    },
    "low-memory-3b-gib": exact(
        "low_memory_3b", "homespun train --memory low", "3 steps", "peak GiB", 1
    ),
    "low-memory-mlx-parameters": exact("low_memory_mlx", BY_MLX, "low", "M parameters", 1),
    **{
        f"low-memory-mlx-{memory}": exact("low_memory_mlx", BY_MLX, memory, "measured MB", 0)
        for memory in ("full", "low")
    },
    **{
        f"stories-{run}-{figure}": one_run(f"storytelling_{run}", table, column)
        for run in ("20m", "busy")
        for figure, (table, column) in {
            "consistent": ("free stories", "consistent"),
            "choices": ("right choices", "all"),
            "beginnings": ("given beginnings", -1),
        }.items()
    },
    "stories-consistent": stories("free stories", "consistent"),
    "stories-loss": demo("val loss"),
    "stories-bits": demo("bits/byte"),
    "stories-choices": stories("right choices", "all"),
    "stories-beginnings": stories("given beginnings", -1),
    "stories-beginnings-untruncated": stories("given beginnings", -2),
    "prose-60s": exact("prose_recipe", "over the seeds", "--time-budget 60s", "mean bits/byte", 2),
    "prose-120s": exact(
        "prose_recipe", "over the seeds", "--time-budget 120s", "mean bits/byte", 2
    ),
    "prose-60s-seeds": seeds("prose_recipe", "over the seeds", "--time-budget 60s", "bits/byte"),
    "prose-120s-seeds": seeds("prose_recipe", "over the seeds", "--time-budget 120s", "bits/byte"),
    "prose-fixed-seeds": seeds(
        "prose_fixed", "over the seeds", "450 steps of 8 x 256 tokens", "bits/byte"
    ),
    "prose-xz": exact("prose_references", HELD_OUT, "xz -9e", "bits/byte", 3),
    "prose-bytes": exact("prose_references", HELD_OUT, "5-gram of bytes", "bits/byte", 3),
    "prose-tokens": exact("prose_references", HELD_OUT, "5-gram of tokens", "bits/byte", 3),
    "train-gpt2": speed("training", SMALL, "gpt2 adamw bfloat16"),
    "train-gpt2-compiled": speed("training", SMALL, "gpt2 adamw bfloat16 compiled"),
    "train-qwen3": speed("training", SMALL, "qwen3 adamw bfloat16"),
    "train-qwen3-compiled": speed("training", SMALL, "qwen3 adamw bfloat16 compiled"),
    "compile-gain-gpt2": compiling("gpt2"),
    "compile-gain-qwen3": compiling("qwen3"),
    "threads-spin": exact("threads", "6 x 384, beside a busy process", "spin", "tokens/s", 0),
    "threads-sleep": exact(
        "threads", "6 x 384, beside a busy process", "spin shortly, then sleep", "tokens/s", 0
    ),
    "generate-small": speed("generation", "6 x 384 (13.8 M), float32", "gpt2"),
    "generate-small-ratio": exact("generation", "6 x 384 (13.8 M), float32", "gpt2", "ratio", 1),
    "generate-large": speed("generation", "12 x 576 (52.6 M), float32", "gpt2"),
    "generate-large-ratio": exact("generation", "12 x 576 (52.6 M), float32", "gpt2", "ratio", 1),
    "studio-drawing": exact("drawing", DRAWING, "show 7 pictures, median of 7", "milliseconds", 0),
    "answers-tenth": answered(0.1, 3.0),
    "answers-third": answered(0.3, 3.0),
    "answers-whole": answered(1.0, 3.0),
    "answers-once": answered(1.0, 1.0),
    "plan-memory": ratios("memory ratio"),
    "plan-time": ratios("time ratio"),
    "law-off": furthest_off("off, nats"),
    "law-others-off": furthest_off("others off, nats"),
    "ranks-speed": efficiency("whole copies"),
    "ranks-halves": efficiency("two halves"),
    "expert-generation": times_as_long("expert_generation", "mini-moe"),
    "rate-power-stories": by_width("stories", "power", "best rate"),
    "rate-power-prose": by_width("prose", "power", "best rate"),
    "carried-stories": by_width("stories", "128", "above the best"),
    "carried-prose": by_width("prose", "128", "above the best"),
    "tuned-imported": exact("fine_tuning", TEN_MINUTES, "the trained model", "bits/byte", 3),
    "tuned-new": exact("fine_tuning", TEN_MINUTES, "a new model", "bits/byte", 3),
    "tuned-whole": exact("fine_tuning", TEN_MINUTES, "all weights", "bits/byte", 3),
    "tuned-lora": exact("fine_tuning", TEN_MINUTES, "LoRA", "bits/byte", 3),
    **{
        f"answers-{name}-{column}": exact_answers(stage, column)
        for name, stage in (
            ("forgetful", "without replay"),
            ("tuned", "fine-tuned"),
            ("on", "fine-tuned on"),
            ("rewarded", "reinforced"),
        )
        for column in ("easy", "medium", "hard", "all")
    },
    "answers-gain-hard": gained("hard", "reinforced", "fine-tuned"),
    "answers-gain-all": gained("all", "reinforced", "fine-tuned"),
    **{
        f"minutes-{name}": minutes_of(stage)
        for name, stage in (
            ("base", "stories"),
            ("tuned", "fine-tuned"),
            ("rewarded", "reinforced"),
        )
    },
    **{
        f"stories-{name}-{figure}": rewarded_stories(way, column)
        for name, way in (("before", "none"), ("hacked", "consistency, no tie"))
        for figure, column in (
            ("consistent", "consistent"),
            ("courses", "courses"),
            ("bits", "bits/byte"),
        )
    },
    **{
        f"shared-{name}-{figure}": rewarded_stories(way, column, "story_reward_shared")
        for name, way in (("before", "none"), ("after", "stories, replayed"))
        for figure, column in (
            ("consistent", "consistent"),
            ("courses", "courses"),
            ("each", "courses for each"),
            ("bits", "bits/byte"),
        )
    },
    "stories-tokens-first": story_tokens("consistency, no tie", first=True),
    "stories-tokens-last": story_tokens("consistency, no tie", first=False),
    **{
        f"replay-{name}-bits": after_stage(stage, "bits/byte")
        for name, stage in (
            ("base", "stories"),
            ("none", "without replay"),
            ("with", "fine-tuned"),
            ("on", "fine-tuned on"),
            ("rewarded", "reinforced"),
        )
    },
    "whole-memory": first_gigabytes("lora", ADAPTERS, "whole model MB"),
    "lora-memory": first_gigabytes("lora", ADAPTERS, "LoRA MB"),
    "precision-least": exact("precision", "over the seeds", "bfloat16 - float32", "least", 4),
    "precision-most": exact("precision", "over the seeds", "bfloat16 - float32", "most", 4),
}
