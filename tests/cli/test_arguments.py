"""Parsing returns exactly the typed settings, and the help fits the width of the terminal."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.architectures.families import FAMILIES
from homespun.cli.arguments import Command, help_text, parse
from homespun.cli.commands import COMMANDS
from homespun.cli.main import main
from homespun.config import GenerateConfig
from homespun.config.checked import flag
from homespun.config.other_names import OTHER_NAMES
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
        ("generate --prompt -Hello --seed 1", {"prompt": "-Hello", "seed": 1}),
        ("generate --prompt --", {"prompt": "--"}),
        ("generate --prompt '--seed of doubt'", {"prompt": "--seed of doubt"}),
        ("generate --prompt a=b_c", {"prompt": "a=b_c"}),
        ("generate --prompt=--a_b", {"prompt": "--a_b"}),
        ("generate --prompt ''", {"prompt": ""}),
        ("generate --prompt 12", {"prompt": "12"}),
        ("generate --stop --", {"stop": ["--"]}),
        ("generate --stop -- --- END -x --seed 1", {"stop": ["--", "---", "END", "-x"], "seed": 1}),
        (
            r"generate --stop '\n' '\n\n' 'a\tb' '\\n' '\d'",
            {"stop": ["\n", "\n\n", "a\tb", "\\n", r"\d"]},
        ),
        (r"generate --prompt 'a\nb'", {"prompt": r"a\nb"}),
        ("generate --top-k off --top-p off", {"top_k": None, "top_p": 1.0}),
        ("judge --min-p off --seed off", {"min_p": 0.0, "seed": None}),
        ("generate --temperature off", {"temperature": "off"}),
        (
            "train --gradient-checkpointing true --seed 1",
            {"gradient_checkpointing": True, "seed": 1},
        ),
        ("train --gradient-checkpointing=False", {"gradient_checkpointing": False}),
        ("verify checkpoints", {"path": "checkpoints"}),
        ("verify --path checkpoints", {"path": "checkpoints"}),
        ("verify", {}),
        ("eval a b --seq-len 8 c", {"models": ["a", "b", "c"], "seq_len": 8}),
        ("eval a --stride", {"models": ["a"], "stride": "half"}),
        (
            "eval --stride 16 a --max-tokens off",
            {"stride": 16, "models": ["a"], "max_tokens": None},
        ),
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
        ("train --batch-size --lr 3", "--batch-size needs a value"),
        ("generate --prompt --seed 1", "and --seed is a flag: a text like it is written --prompt=--seed"),
        ("train --checkpoint-dir --reusme", "--checkpoint-dir needs a value, and --reusme"),
        ("train --checkpoint-dir --no-gradient-checkpointing", "--checkpoint-dir needs a value"),
        ("train --gradient-checkpointing=yes", "--gradient-checkpointing takes no value"),
        ("train --gradient-checkpointing yes", "no value: write --gradient-checkpointing or --no-gradient-"),
        ("train --lr 1e-3", "unknown flag --lr: did you mean --learning-rate? Peak"),
        ("train --device=cuda", "unknown flag --device: did you mean --engine? Framework to train with, on the GPU"),
        ("generate --max_new_tokens 9", "unknown flag --max-new-tokens: did you mean --max-tokens?"),
        ("eval --checkpoint a.npz", "unknown flag --checkpoint: did you mean --models?"),
        ("generate --model a.npz", "unknown flag --model: did you mean --checkpoint?"),
        ("train --model tiny", "unknown flag --model: did you mean --model-size?"),
        ("generate checkpoints/best.npz", "before it: homespun generate --checkpoint checkpoints/best.npz"),
        ("generate --seed 1 a.npz", "homespun generate --checkpoint a.npz"),
        ("judge checkpoints", "'checkpoints' has no flag before it: homespun judge --checkpoint checkpoints"),
        ("train run.toml", "'run.toml' has no flag before it: homespun train --config run.toml"),
        ("download stories", "'stories' has no flag before it: homespun download --dataset stories"),
        ("train --max-steps 1 a.txt", "'a.txt' has no flag before it: homespun train --data-file a.txt"),
        ("models gpt2", "'gpt2' has no flag before it: homespun models --help lists all settings"),
        ("generate --interactive Once upon", "'Once' has no flag before it: homespun generate --prompt \"Once upon\""),
        ("generate --prompt=Once upon", 'and a value with spaces needs quotes: --prompt "Once upon"'),
        # The surplus word equals the value of another flag.
        ("generate --prompt a --checkpoint b a", 'needs quotes: --checkpoint "b a"'),
        ("train --sample-prompts=a b", "several values come without an equals sign: --sample-prompts a b"),
        ("models now", "'now' has no flag before it: homespun models --help lists all settings"),
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
    assert main([name, "--help"] if name else []) == 0
    fields = dataclasses.fields(COMMANDS[name].config) if name else ()
    shown = capsys.readouterr().out
    assert main(["help", *([name] if name else [])]) == 0
    assert capsys.readouterr().out == shown
    examples = {f"  {example}" for command in COMMANDS.values() for example in command.examples}
    for line in shown.splitlines():
        whole = line in examples or line.startswith("  -") or " " not in line.strip()
        assert len(line) <= width or whole, line
        assert not line.endswith("-"), line
        assert "\x1b" not in line
    for field in fields:
        label = field.name.upper() if field.metadata["positional"] else flag(field.name)
        assert len(re.findall(rf"^  {label}\b(?!-)", shown, re.MULTILINE)) == 1
        assert " ".join(field.metadata["help"].split()) in " ".join(shown.split())


def test_the_help_of_train_names_the_families(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    assert f"--architecture {{{','.join(FAMILIES)}}}" in capsys.readouterr().out


def test_the_help_of_train_begins_with_the_settings_that_are_used_most(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["train", "--help"])
    first, second = re.findall(r"^(\w.*):\n((?:  .*\n)+)", capsys.readouterr().out, re.MULTILINE)[
        :2
    ]
    assert (first[0], second[0]) == ("settings that are used most", "more settings")
    assert re.findall(r"^  (--\S+)", first[1], re.MULTILINE) == [
        flag(name) for name in COMMANDS["train"].most_used
    ]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_help_says_what_holds_for_a_setting_that_is_left_out(command: Command) -> None:
    rows = re.split(r"\n  (?=\S)|\n\n", help_text(command, 1000))
    for field in dataclasses.fields(command.config):
        name = field.name.upper() if field.metadata["positional"] else flag(field.name)
        [row] = [row for row in rows if re.match(rf"(  )?{name}[ \n]", row)] or [""]
        if field.default is None:
            assert re.search(r"default: |without: |omitted|if given|flags override", row), row


def test_several_files_of_text_are_told_to_go_into_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").touch()
    Path("b.txt").touch()
    advice = "takes one file or one folder: put the files into a folder and name that"
    for line in ("train --data-file a.txt b.txt", "tokenizer a.txt b.txt"):
        with pytest.raises(UserError, match=f"^--data-file {advice}"):
            parsed(line)
    with pytest.raises(UserError, match=f"^--dataset {advice}"):
        parsed("download --dataset a.txt b.txt --seed 1")
    with pytest.raises(UserError, match=r'needs quotes: --data-file "a\.txt c\.txt"'):
        parsed("train --data-file a.txt c.txt")
    with pytest.raises(UserError, match="needs quotes: "):
        parsed(f"train --data-file {'x' * 5000} b")


def test_names_of_other_programs_lead_to_settings_of_some_command() -> None:
    names = {field.name for c in COMMANDS.values() for field in dataclasses.fields(c.config)}
    for other, own in OTHER_NAMES.items():
        assert names >= set(own), other
        assert any(other not in c.config.__dataclass_fields__ for c in COMMANDS.values())


@given(
    st.lists(
        st.sampled_from(
            [
                "--seed",
                "--stop",
                "--prompt=a",
                "--interactive",
                "--",
                "-x",
                "1",
                "a b",
                "true",
                "=",
                "",
            ]
        )
    )
)
@settings(derandomize=True, deadline=None)
def test_any_words_are_settings_or_one_line(words: list[str]) -> None:
    try:
        given = parse(COMMANDS["generate"], words)
    except UserError as error:
        line = str(error)
    else:
        line = ""
        assert given.keys() <= GenerateConfig.__dataclass_fields__.keys()
    assert "\n" not in line


@pytest.mark.parametrize("line", ["--help", "generate --help", "generate --seed one", "models x"])
def test_help_and_refusals_load_only_the_standard_library(line: str) -> None:
    script = (
        "import sys; from homespun.cli.main import main\n"
        f"main({shlex.split(line)})\n"
        "loaded = {name.partition('.')[0] for name in sys.modules} & {'numpy', 'rich', 'tokenizers'}\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_flag_with_several_values_may_be_repeated() -> None:
    words = ["--search", "batch_size=8,16", "--seed", "1", "--search", "learning_rate=x1,x2"]
    assert parse(COMMANDS["tune"], words) == {
        "search": ["batch_size=8,16", "learning_rate=x1,x2"],
        "seed": 1,
    }
