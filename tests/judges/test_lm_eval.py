"""lm-evaluation-harness runs local tasks with a checkpoint, and its own Hugging Face backend runs them with the export.

Both get the same results.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.config import ExportConfig
from homespun.errors import UserError
from homespun.exporting import export_model
from homespun.stories import stories

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.judges

CONTEXT = 64
N_CHOICES = 4
POINT = 0.001
"""A tenth of a point, on scores from 0 to 1."""

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "{{{{context}}}}"
"""
CHOICE = """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
GENERATION = """
output_type: generate_until
doc_to_target: "{{follows}}"
generation_kwargs: {until: ["."], max_gen_toks: 24}
metric_list: [{metric: exact_match}]
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_target: "{{whole}}"
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
"""


def write_tasks(folder: Path) -> None:
    """Four tasks about stories: choose the sentence that follows, after a short and a long beginning; write it; and
    predict the whole story."""
    sentences = [story.replace("\n", " ").split(". ") for story in stories(100, seed=5)]
    for name, n_before in (("short", 1), ("long", 6)):
        lines = []
        for number, story in enumerate(sentences):
            others = [sentences[(number + k) % 100][n_before] for k in range(1, N_CHOICES)]
            label = number % N_CHOICES
            choices = [*others[:label], story[n_before], *others[label:]]
            record = {
                "context": ". ".join(story[:n_before]) + ".",
                "choices": [f" {choice}." for choice in choices],
                "label": label,
                "follows": story[n_before],
                "whole": ". ".join(story),
            }
            lines.append(json.dumps(record))
        file = folder / f"{name}.jsonl"
        file.write_text("\n".join(lines))
        for kind, rest in (("choice", CHOICE), ("writing", GENERATION), ("whole", ROLLING)):
            task = TASK.format(name=f"{name}_{kind}", file=file) + rest
            (folder / f"{name}_{kind}.yaml").write_text(task)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A run that has learned to spell, its export, and the tasks."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "tasks").mkdir()
    write_tasks(folder / "tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        homespun.train(
            data_file=story_file,
            model_size="pico",
            n_layers=2,
            n_heads=4,
            d_model=64,
            vocab_size=500,
            seq_len=CONTEXT,
            max_steps=150,
            batch_size=8,
            learning_rate=3e-3,
            precision="float32",
        )
        export_model(ExportConfig("huggingface", output="export"), print)
    return folder


def results(
    place: Path, *words: str, module: str = "lm_eval"
) -> tuple[dict[str, Any], list[float], list[str]]:
    """The results of a harness command by task, all log-likelihoods, and all texts that were written."""
    output = place / f"{len(list(place.iterdir()))}.results"
    command = [sys.executable, "-m", module, *words, "--include_path", "tasks", "--batch_size", "4"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "cache")}
    done = subprocess.run(
        [*command, "--output_path", str(output), "--log_samples"],
        cwd=place,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    [file] = output.rglob("results_*.json")
    found: dict[str, Any] = json.loads(file.read_text())["results"]
    likelihoods, written = [], []
    for samples in sorted(output.rglob("samples_*.jsonl")):
        for line in samples.read_text().splitlines():
            for [response] in json.loads(line)["resps"]:
                if "writing" in samples.name:
                    written.append(response)
                else:
                    likelihoods.append(float(response[0] if "choice" in samples.name else response))
    return found, likelihoods, written


@pytest.mark.parametrize(
    ("arguments", "tasks"),
    [
        ("", "short_choice,long_choice,short_writing,long_writing"),
        # The other backend puts the first token twice before a whole text, unless it puts none.
        (",add_bos_token=False", "short_choice,short_whole"),
    ],
)
def test_the_backend_of_hugging_face_gets_the_same_results(
    arguments: str, tasks: str, place: Path
) -> None:
    model = f"checkpoint=checkpoints,precision=float32{arguments}"
    export = f"pretrained=export,dtype=float32{arguments}"
    ours, our_likelihoods, our_texts = results(
        *(place, "--model", "homespun", "--model_args", model, "--tasks", tasks),
        module="homespun.evaluation.harness",
    )
    theirs, their_likelihoods, their_texts = results(
        *(place, "--model", "hf", "--model_args", export, "--device", "cpu", "--tasks", tasks)
    )
    assert set(ours) == set(theirs) == set(tasks.split(","))
    for task, scores in theirs.items():
        for metric, expected in scores.items():
            if isinstance(expected, float) and "stderr" not in metric:
                tolerance = expected * POINT if "perplexity" in metric else POINT
                assert ours[task][metric] == pytest.approx(expected, abs=tolerance), (task, metric)
    n_likelihoods = 100 * (N_CHOICES * tasks.count("choice") + tasks.count("whole"))
    assert len(our_likelihoods) == n_likelihoods
    assert our_likelihoods == pytest.approx(their_likelihoods, rel=1e-4)
    assert len(our_texts) == len(their_texts) == 100 * tasks.count("writing")
    equal = [ours == theirs for ours, theirs in zip(our_texts, their_texts, strict=True)]
    assert sum(equal) >= 0.95 * len(equal)


def test_the_harness_can_find_the_model_as_a_plugin() -> None:
    from homespun.evaluation.harness import HomespunLM

    [found] = entry_points(group="lm_eval.models", name="homespun")
    assert found.load() is HomespunLM


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint": "missing"}, "missing: no model is there"),
        ({"max_length": CONTEXT + 1}, "--max-length is 65: it must be at most 64"),
    ],
)
def test_arguments_that_are_impossible_are_refused(
    arguments: dict[str, Any], message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homespun.evaluation.harness import HomespunLM

    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=message):
        HomespunLM(**{"checkpoint": "checkpoints", **arguments})
