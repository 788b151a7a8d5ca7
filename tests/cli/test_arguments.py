"""Parsing returns exactly the typed settings, and the help fits the width of the terminal."""

import dataclasses
import shlex
import subprocess
import sys
from typing import Any

import pytest

from homespun.architectures.families import FAMILIES
from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.cli.main import main
from homespun.config.checked import REQUIRED, flag
from homespun.errors import UserError


def parsed(line: str) -> dict[str, Any]:
    name, *words = shlex.split(line)
    return parse(COMMANDS[name], words)


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("train", {}),
        ("train --batch-size 16 --learning-rate 3e-4", {"batch_size": 16, "learning_rate": 3e-4}),
        ("train --batch_size=16", {"batch_size": 16}),
        ("train --seed 0", {"seed": 0}),
        ("train --max-steps 1 --max-steps 2", {"max_steps": 2}),
        ("train --resume", {"resume": "latest"}),
        ("train --resume --seed 1", {"resume": "latest", "seed": 1}),
        ("train --resume auto", {"resume": "auto"}),
        ("train --gradient-checkpointing", {"gradient_checkpointing": True}),
        ("train --no-gradient-checkpointing", {"gradient_checkpointing": False}),
        ("train --sample-prompts 'The dog' A", {"sample_prompts": ["The dog", "A"]}),
        ("train --sample-prompts", {"sample_prompts": []}),
        ("train --learning-rate -1", {"learning_rate": -1.0}),
        ("train --batch-size sixteen", {"batch_size": "sixteen"}),
        ("generate --prompt=-x --seed 1", {"prompt": "-x", "seed": 1}),
        ("generate --prompt '- one item'", {"prompt": "- one item"}),
        ("generate --prompt a=b_c", {"prompt": "a=b_c"}),
        ("generate --prompt=--a_b", {"prompt": "--a_b"}),
        ("generate --prompt ''", {"prompt": ""}),
        ("generate --prompt 12", {"prompt": "12"}),
        ("verify checkpoints", {"path": "checkpoints"}),
    ],
)
def test_the_settings_that_were_given_come_back_and_no_others(
    line: str, settings: dict[str, Any]
) -> None:
    assert parsed(line) == settings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --batch 16", "unknown flag --batch: "),  # no abbreviations
        ("train -batch-size 16", "unknown flag -batch-size: did you mean --batch-size?"),
        ("train --batch-size", "--batch-size needs a value"),
        ("train --batch-size --resume", "--batch-size needs a value"),
        ("generate --prompt -x", "--prompt needs a value: one that begins with a dash is written --prompt=-x"),
        ("train --gradient-checkpointing=yes", "--gradient-checkpointing takes no value"),
        ("generate --interactive Once upon", "'Once' has no flag before it: homespun generate --prompt \"Once upon\""),
        ("generate --prompt=Once upon", 'and a value with spaces needs quotes: --prompt "Once upon"'),
        # The surplus word equals the value of another flag.
        ("generate --prompt a --checkpoint b a", 'needs quotes: --checkpoint "b a"'),
        ("train --sample-prompts=a b", "'b' has no flag before it: homespun train --help lists all settings"),
        ("doctor now", "'now' has no flag before it: homespun doctor --help lists all settings"),
        ("verify", "PATH is missing: usage: homespun verify PATH"),
        ("verify one two", "'two' is one too many: homespun verify takes one path"),
    ],
)  # fmt: skip
def test_words_that_do_not_fit_are_explained(line: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(line)
    assert message in str(caught.value)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_width_and_breaks_no_flag(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    if name:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        fields = dataclasses.fields(COMMANDS[name].config)
    else:
        assert main([]) == 0
        fields = ()
    shown = capsys.readouterr().out
    examples = {f"  {example}" for command in COMMANDS.values() for example in command.examples}
    for line in shown.splitlines():
        whole = line in examples or line.startswith("  -") or " " not in line.strip()
        assert len(line) <= width or whole, line
        assert not line.endswith("-"), line
        assert "\x1b" not in line
    for field in fields:
        label = field.name.upper() if field.default is REQUIRED else flag(field.name)
        assert f"\n  {label}" in shown
        assert " ".join(field.metadata["help"].split()) in " ".join(shown.split())


def test_the_help_of_train_names_the_families(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert f"--architecture {{{','.join(FAMILIES)}}}" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["--help", "generate --help", "generate --seed one", "doctor"])
def test_help_and_refusals_load_only_the_standard_library(line: str) -> None:
    script = (
        "import sys; from homespun.cli.main import main\n"
        f"try: main({shlex.split(line)})\n"
        "except SystemExit: pass\n"
        "loaded = {name.partition('.')[0] for name in sys.modules} & {'numpy', 'rich', 'tokenizers'}\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
