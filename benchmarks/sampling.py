"""Samples stories at several temperatures and filters, and compares them with the world.

    python -m benchmarks.sampling demo/checkpoints --texts texts.json

A lower temperature or a stricter filter makes more stories consistent, and cuts what is rare out of their world. The
defaults of `homespun judge` are those with most consistent stories among the settings that keep the world.
"""

import json
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import report
from homespun import durable
from homespun.config import JudgeConfig
from homespun.evaluation.intervals import percent_range
from homespun.evaluation.storytelling import Told, sampling_shown, summarised, training_text
from homespun.language_model import load
from homespun.stories.judge import judge

GRID = (
    {"temperature": 1.0, "min_p": 0.0},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.0, "min_p": 0.0, "top_p": 0.9},
    {"temperature": 0.9, "min_p": 0.1},
    {"temperature": 0.8, "min_p": 0.0},
    {"temperature": 0.8, "min_p": 0.05},
    {"temperature": 0.8, "min_p": 0.1},
    {"temperature": 0.8, "min_p": 0.2},
    {"temperature": 0.8, "min_p": 0.3},
    {"temperature": 0.6, "min_p": 0.0},
)


def main(run: Annotated[Path, tyro.conf.Positional], texts: Path, n_samples: int = 200) -> None:
    """Measure and save.

    Args:
        run: the folder of the run.
        texts: file that keeps the stories, so that a measurement that was interrupted goes on. Name a new one for each
            run.
        n_samples: stories at each setting.
    """
    model = load(run)
    written = json.loads(texts.read_text(encoding="utf-8")) if texts.exists() else {}
    rows: list[report.Row] = []
    learned = training_text(model)
    for settings in GRID:
        config = JudgeConfig(num_samples=n_samples, **settings)  # type: ignore[arg-type]
        shown = sampling_shown(config)
        if shown not in written:
            written[shown] = [story.text for story in model.samples(None, config, n_samples)]
            durable.write(texts, json.dumps(written).encode())
        stories = [Told(number, text, judge(text)) for number, text in enumerate(written[shown])]
        result = summarised(stories, learned.training() if learned else None)
        if not rows:
            own = {compared.of: round(compared.generator, 2) for compared in result.compared}
            rows.append({"setting": "the generator", "consistent": "", "new": "", **own})
        new = (result.n_with_new_course or 0) / max(1, result.tally.consistent)
        rows.append(
            {
                "setting": shown,
                "consistent": f"{result.tally.share:.0%} ({percent_range(*result.tally.interval)})",
                "new": f"{new:.0%}",
                **{compared.of: round(compared.model, 2) for compared in result.compared},
            }
        )
        print(report.table(rows[-1:]), flush=True)
    report.save("sampling", {f"{n_samples} stories each": rows})


if __name__ == "__main__":
    tyro.cli(main)
