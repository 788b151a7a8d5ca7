"""The commands of the guide, word for word, from a download to generated text.

Commands that would take hours get extra flags that shorten them (the last value of a flag counts). The hub is a local
server on the loopback interface.
"""

import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from homespun.architectures.families import count_parameters
from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.config import TrainConfig
from homespun.planning.recipe import plan, step_limits
from homespun.planning.resolved import Plan
from homespun.tokenizer import Tokenizer
from tests.conftest import records
from tests.data import hub as loopback

hub = loopback.hub

ROOT = Path(__file__).parent.parent

SHORT = "--max-steps 2 --log-interval 1 --eval-tokens 1000"
SMALL = "--n-layers 1 --d-model 64 --n-heads 2 --batch-size 2"

QUICK_START = {
    "download": """
        python scripts/download_data.py --num-samples 10000""",
    "tokenizer": """
        python scripts/train_tokenizer.py --vocab-size 8000""",
    "train": """
        python scripts/train.py \
            --model-size tiny \
            --batch-size 16 \
            --max-epochs 10 \
            --learning-rate 3e-4""",
    "generate": """
        python scripts/generate.py \
            --checkpoint checkpoints/best.npz \
            --prompt "Once upon a time" \
            --interactive""",
}

COMPLETE_EXAMPLE = {
    "download": """
        python scripts/download_data.py --num-samples 10000""",
    "tokenizer": """
        python scripts/train_tokenizer.py \
            --data-file data/tinystories_10000.txt \
            --vocab-size 8000 \
            --output-dir tokenizer_model""",
    "train": """
        python scripts/train.py \
            --model-size tiny \
            --vocab-size 8000 \
            --seq-len 256 \
            --batch-size 16 \
            --max-steps 10000 \
            --learning-rate 3e-4 \
            --warmup-steps 500 \
            --eval-interval 500 \
            --save-interval 1000 \
            --checkpoint-dir checkpoints""",
    "generate": """
        python scripts/generate.py \
            --checkpoint checkpoints/best.npz \
            --tokenizer-path tokenizer_model \
            --model-size tiny \
            --prompt "Once upon a time, there was a" \
            --max-tokens 100 \
            --temperature 0.8 \
            --num-samples 3""",
}

TRAINING_SCHEDULES = {
    "tiny": """
        python scripts/train.py \
            --model-size tiny \
            --batch-size 32 \
            --seq-len 256 \
            --max-steps 10000 \
            --learning-rate 3e-4 \
            --warmup-steps 500""",
    "gpt2-small": """
        python scripts/train.py \
            --model-size gpt2-small \
            --batch-size 16 \
            --seq-len 512 \
            --max-steps 50000 \
            --learning-rate 3e-4 \
            --warmup-steps 2000""",
    "gpt2-medium": """
        python scripts/train.py \
            --model-size gpt2-medium \
            --batch-size 8 \
            --seq-len 512 \
            --max-steps 100000 \
            --learning-rate 2e-4 \
            --warmup-steps 4000 \
            --grad-accumulation-steps 2  # Effective batch 16""",
}


def rich_tales(count: int) -> list[str]:
    """Texts with enough different words for a vocabulary of 8,000. The built-in stories have too few."""
    rng = random.Random(5)
    syllables = [c + v for c in "bdfghjklmnprstvwz" for v in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(6000)]
    return [
        "Once upon a time, there was a "
        + " ".join(" ".join(rng.choices(words, k=6)) + "." for _ in range(4))
        for _ in range(count)
    ]


@pytest.fixture
def checkout(tmp_path: Path, hub: loopback.Hub) -> Path:
    """A folder with the project's scripts, and a hub that has TinyStories."""
    hub.publish_tinystories(rich_tales(10_200))
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return tmp_path


def words_of(command: str) -> list[str]:
    """The command split into words as a shell does."""
    return shlex.split(command.replace("\\\n", " "), comments=True)


def run(command: str, shortened: str = "", *, cwd: Path, typed: str = "") -> str:
    """Run a command and return its output."""
    python, *arguments = words_of(command) + words_of(shortened)
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, input=typed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def downloaded(folder: Path) -> str:
    return (folder / "data/tinystories_10000.txt").read_text(encoding="utf-8")


def test_quick_start(checkout: Path) -> None:
    run(QUICK_START["download"], cwd=checkout)
    assert downloaded(checkout).split("\n<|endoftext|>\n") == [*rich_tales(10_000), ""]

    run(QUICK_START["tokenizer"], cwd=checkout)
    tokenizer = Tokenizer.load(checkout / "tokenizer_model")
    assert tokenizer.vocab_size == 8000

    output = run(QUICK_START["train"], f"{SHORT} {SMALL}", cwd=checkout)
    assert "Done: 2 steps (--max-steps 2)" in output
    folder = checkout / "checkpoints"
    assert [r["step"] for r in records(folder) if "loss" in r] == [1, 2]
    assert [r["step"] for r in records(folder) if "val_loss" in r] == [2]
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    with np.load(folder / "best.npz") as best, np.load(folder / "checkpoint_step_2.npz") as last:
        assert best["transformer.wte.weight"].shape == (8000, 64)
        np.testing.assert_array_equal(
            best["transformer.wte.weight"], last["transformer.wte.weight"]
        )

    typed = "There was\n/temperature 0\nThere was\nThere was\n/quit\nafter the end\n"
    output = run(QUICK_START["generate"], "--max-tokens 20", cwd=checkout, typed=typed)
    assert output.startswith("Once upon a time")
    first, second, third = re.findall(r"^There was.*$", output, re.MULTILINE)
    assert first != second == third
    assert len(tokenizer.encode(second)) > 15
    assert "after the end" not in output


def test_the_complete_example(checkout: Path) -> None:
    run(COMPLETE_EXAMPLE["download"], cwd=checkout)
    run(COMPLETE_EXAMPLE["tokenizer"], cwd=checkout)
    run(COMPLETE_EXAMPLE["train"], f"{SHORT} --batch-size 2", cwd=checkout)
    first, second = (r for r in records(checkout / "checkpoints") if "loss" in r)
    # An untrained model has the loss of a uniform guess, and the rate rises to its peak over 500 steps.
    assert first["loss"] == pytest.approx(np.log(8000), rel=0.03)
    assert (first["lr"], second["lr"]) == pytest.approx((3e-4 / 500, 3e-4 * 2 / 500))
    assert first["tokens"] == 2 * 256
    with np.load(checkout / "checkpoints/checkpoint_step_2.npz") as weights:
        assert sum(weights[name].size for name in weights.files if "weight" in name) > 25e6

    output = run(COMPLETE_EXAMPLE["generate"], cwd=checkout)
    samples = re.split(r"^--- \d of 3 ---\n", output, flags=re.MULTILINE)[1:]
    assert len(set(samples)) == 3
    assert all(text.startswith("Once upon a time, there was a") for text in samples)


def as_planned(command: str) -> Plan:
    """The plan of a training command for a text of some million tokens."""
    python, script, *flags = words_of(command)
    assert (python, script) == ("python", "scripts/train.py")
    config = TrainConfig(**parse(COMMANDS["train"], flags))
    return plan(config, vocab_size=8000, n_samples=30_000, flops_per_second=1e12)


@pytest.mark.parametrize(
    ("size", "layers", "width", "millions", "batch", "steps", "tokens", "rate", "warm_up"),
    [
        ("tiny", 8, 512, 51.2, 32, 10_000, 32 * 256, 3e-4, 500),
        ("gpt2-small", 12, 768, 124.4, 16, 50_000, 16 * 512, 3e-4, 2000),
        ("gpt2-medium", 24, 1024, 354.8, 8, 100_000, 16 * 512, 2e-4, 4000),
    ],
)
def test_the_training_schedules_mean_what_they_say(
    size: str,
    layers: int,
    width: int,
    millions: float,
    batch: int,
    steps: int,
    tokens: int,
    rate: float,
    warm_up: int,
) -> None:
    settled = as_planned(TRAINING_SCHEDULES[size])
    model, config = settled.model, settled.config
    assert (model.architecture, model.n_layers, model.d_model) == ("gpt2", layers, width)
    # `millions` counts the parameters with the vocabulary and the context of GPT-2.
    named = plan(
        TrainConfig(model_size=size, seq_len=1024),
        vocab_size=50257,
        n_samples=10_000,
        flops_per_second=1e12,
    ).model
    assert count_parameters(named) / 1e6 == pytest.approx(millions, rel=0.01)
    assert config.batch_size == batch
    assert config.tokens_per_step == tokens
    assert step_limits(config, 1000) == {"max_steps": steps}
    assert (config.optimizer, config.schedule) == ("adamw", "cosine")
    assert (config.learning_rate, config.warmup_steps) == (rate, warm_up)
    assert (config.weight_decay, config.beta1, config.beta2) == (0.1, 0.9, 0.95)
    assert config.max_grad_norm == 1.0


def test_the_training_schedules_run(checkout: Path) -> None:
    run("python scripts/download_data.py --num-samples 2000 --output data/text.txt", cwd=checkout)
    run("python scripts/train_tokenizer.py --vocab-size 500", cwd=checkout)
    for number, command in enumerate(TRAINING_SCHEDULES.values()):
        run(command, f"{SHORT} {SMALL} --checkpoint-dir run{number}", cwd=checkout)
        accumulation = 2 if "--grad-accumulation-steps" in command else 1
        seq_len = 512 if number else 256
        logged = records(checkout / f"run{number}")
        assert [r["tokens"] for r in logged if "loss" in r] == [
            n * 2 * accumulation * seq_len for n in (1, 2)
        ]


def test_every_script_is_a_command() -> None:
    for script, command in [
        ("download_data", "download"),
        ("train_tokenizer", "tokenizer"),
        ("train", "train"),
        ("generate", "generate"),
    ]:
        assert command in COMMANDS
        done = subprocess.run(
            [sys.executable, ROOT / f"scripts/{script}.py", "--help"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        assert f"homespun {command}" in done.stdout
