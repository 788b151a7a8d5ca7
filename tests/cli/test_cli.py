"""The commands: results, precedence of flags and files, and one clear line for each user error."""

import dataclasses
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.architectures.presets import PRESETS
from homespun.checkpoint.archive import read_archive
from homespun.cli.commands import COMMANDS
from homespun.cli.main import main
from homespun.config.checked import flag
from homespun.data.prepare import VERIFIED
from homespun.errors import UserError
from homespun.terminal import counted
from homespun.tokenizer import Tokenizer
from tests.cli.lines import DOWNLOAD, GENERATE, TOKENIZER, TRAIN
from tests.conftest import records


def content(folder: Path) -> dict[str, bytes]:
    """The content of every file except locks, which name their last owner, and records of verified texts and shards.

    A text that was changed in the last two seconds is not recorded, so the records depend on the clock.
    """
    ignored = ("lock", ".lock", VERIFIED)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ignored and not path.name.endswith(".survey.json")
    }


BAD = [
    # Data.
    (f"{TRAIN} --data-file missing.txt", "missing.txt: there is no such file or folder"),
    (f"{TRAIN} --data-file empty.txt", "empty.txt: there is no text in it"),
    (f"{TRAIN} --data-file blank.txt", "blank.txt: there is no text in it"),
    (f"{TRAIN} --data-file short.txt", "short.txt: too little text to hold some out"),
    (f"{TRAIN} --data-file latin1.txt", "-f WINDOWS-1252 -t UTF-8 latin1.txt > utf8.txt"),
    (f"{TRAIN} --data-file binary.txt", "binary.txt: NUL at byte 0; this is not a text file"),
    (f"{TRAIN} --data-file bad.jsonl", "bad.jsonl:2: not a JSON value"),
    (f"{TRAIN} --data-file columns.jsonl", "columns.jsonl:1: which column is the text?"),
    (f"{TRAIN} --data-file bad.parquet", "bad.parquet: not readable as parquet"),
    (f"{TRAIN} --data-file paper.pdf", "paper.pdf: this is a PDF: save it as plain text"),
    (f"{TRAIN} --data-file folder", "folder: no .txt, .md, .jsonl or .parquet file in this"),
    (f"{TRAIN} --data-file stories.txt/x", "stories.txt/x: there is no such file or folder"),
    (f"{TRAIN} --data-file ''", "--data-file is empty"),
    (f"{TOKENIZER} --data-file missing.txt", "missing.txt: there is no such file or folder"),
    (f"{TOKENIZER} --data-file empty.txt", "empty.txt: there is no text in it"),
    (f"{TOKENIZER} --data-file latin1.txt", "latin1.txt: not UTF-8 in line 1"),
    (f"{TOKENIZER} --data-file binary.txt", "binary.txt: NUL at byte 0"),
    (
        f"{DOWNLOAD} --dataset missing.txt",
        "missing.txt: not a local file or folder, and not a dataset",
    ),
    (f"{DOWNLOAD} --dataset empty.txt", "empty.txt: there is no text in it"),
    (f"{DOWNLOAD} --dataset latin1.txt", "latin1.txt: not UTF-8 in line 1"),
    (f"{DOWNLOAD} --dataset paper.pdf", "paper.pdf: this is a PDF"),
    (f"{DOWNLOAD} --dataset stories --output short.txt", "short.txt: this file is in the way"),
    (f"{DOWNLOAD} --dataset stories --output short.txt/x", "short.txt: Not a directory"),
    (f"{DOWNLOAD} --dataset stories --num-samples 0", "--num-samples is 0"),
    ("prepare --data-file missing.txt", "missing.txt: there is no such file or folder"),
    ("prepare --data-file 'folder/*'", "folder/*: no .txt, .md, .jsonl or .parquet file matches"),
    ("prepare --data-file latin1.txt --workers 2", "latin1.txt: not UTF-8 in line 1"),
    ("prepare --data-file stories.txt --output kept", "--output is the folder of the documents"),
    ("prepare --data-file stories.txt --workers 0", "--workers is 0: it must be at least 1"),
    ("prepare --data-file stories.txt --similarity 2", "--similarity is 2.0: it must be at most"),
    ("prepare --data-file short.txt --drop-poor", "short.txt: no document is left (short: 1)"),
    ("prepare --data-file stories.txt --drop-poor --output folder", "folder is there already"),
    # Vocabulary and tokenizer.
    (f"{TOKENIZER} --data-file stories.txt --vocab-size 256", "--vocab-size is 256"),
    ("tokenizer --data-file stories.txt --output-dir folder", "holds other files"),
    ("tokenizer --data-file stories.txt --vocab-size 300 --output-dir short.txt/x", "Not a dir"),
    ("tokenizer --data-file stories.txt --output-dir ''", "--output-dir is empty"),
    (
        f"{TRAIN} --vocab-size 500 --tokenizer-path tokenizer_model",
        "--vocab-size is 500, but the tokenizer in tokenizer_model has 400 tokens",
    ),
    (f"{TRAIN} --tokenizer-path missing", "missing: there is no tokenizer here"),
    (f"{TRAIN} --tokenizer-path stories.txt", "stories.txt: not readable as JSON"),
    # Sizes that do not fit.
    (f"{TRAIN} --batch-size 100000", "lower --batch-size or --seq-len, or give more text"),
    (f"{TRAIN} --grad-accumulation-steps 100000", "a step takes 400,000 sequences"),
    (f"{TRAIN} --seq-len 130000", "lower --batch-size or --seq-len, or give more text"),
    (f"{TRAIN} --n-layers 2000 --d-model 8192 --n-heads 64", "the checkpoints need "),
    (f"{TRAIN} --n-heads 3", "--d-model 32 cannot be divided into --n-heads 3 heads"),
    (f"{TRAIN} --n-kv-heads 3", "--n-heads has to be a multiple of --n-kv-heads"),
    (f"{TRAIN} --architecture gpt2 --n-kv-heads 1", "leave --n-kv-heads out"),
    (f"{TRAIN} --model-size huge", "--model-size 'huge' is unknown: choose one of pico, "),
    (
        f"{TRAIN} --model-size gpt2",
        "did you mean gpt2-small (gpt2, 12 layers x 768)? Or choose one of pico, ",
    ),
    (
        f"{TRAIN} --model-size Tiny",
        "did you mean tiny (gpt2, 8 layers x 512)? Or choose one of pico, ",
    ),
    (f"{TRAIN} --model-size 124M", "did you mean gpt2-small (gpt2, 12 layers x 768)?"),
    # Numbers.
    (f"{TRAIN} --learning-rate nan", "--learning-rate is nan: give a finite number"),
    (f"{TRAIN} --learning-rate inf", "--learning-rate is inf: give a finite number"),
    (f"{TRAIN} --learning-rate -1", "--learning-rate is -1.0: it must be above 0"),
    (f"{TRAIN} --learning-rate 0", "--learning-rate is 0.0: it must be above 0"),
    (f"{TRAIN} --learning-rate 30", "--learning-rate is 30.0: it must be at most 1"),
    (f"{TRAIN} --learning-rate 3,e-4", "--learning-rate is '3,e-4': a number is expected"),
    (f"{TRAIN} --batch-size sixteen", "--batch-size is 'sixteen': a whole number is expected"),
    (f"{TRAIN} --batch-size 1.5", "--batch-size is '1.5': a whole number is expected"),
    (f"{TRAIN} --batch-size 0", "--batch-size is 0: it must be at least 1"),
    (f"{TRAIN} --max-steps -1", "--max-steps is -1: it must be at least 1"),
    (f"{TRAIN} --max-epochs 1e308", "--max-epochs is 1e+308: it must be at most 1e+06"),
    (f"{TRAIN} --batch-size {'9' * 40}", "--batch-size has 40 digits: give a smaller number"),
    (f"{TRAIN} --n-layers 1000000000", "it must be at most 10000"),
    (f"{TRAIN} --threads 1000000000", "--threads is 1000000000: it must be at most 1024"),
    (f"{TRAIN} --time-budget soon", "--time-budget is 'soon': give a duration"),
    (f"{TRAIN} --time-budget 1h30", "--time-budget is '1h30': give a duration"),
    (f"{TRAIN} --time-budget ''", "--time-budget is empty"),
    (f"{TRAIN} --time-budget 5", "--time-budget is '5': add a unit, as in 5s, 5m or 5h"),
    (f"{GENERATE} --temperature nan", "--temperature is nan: give a finite number"),
    (f"{GENERATE} --temperature -0.1", "--temperature is -0.1: it must be at least 0"),
    (f"{GENERATE} --top-p 0", "--top-p is 0.0: it must be above 0"),
    (f"{GENERATE} --top-k 0", "--top-k is 0: it must be at least 1"),
    (f"{GENERATE} --max-tokens 0", "--max-tokens is 0: it must be at least 1"),
    (f"{GENERATE} --num-samples 2000", "--num-samples is 2000: it must be at most 1024"),
    (f"{GENERATE} --seed one", "--seed is 'one': a whole number is expected"),
    # Command lines.
    ("tain", "unknown command 'tain': did you mean train?"),
    ("book.txt", "unknown command 'book.txt': homespun --help lists all commands"),
    ("train book.txt", "'book.txt' has no flag before it: homespun train --data-file book.txt"),
    ("train -data-file book.txt", "unknown flag -data-file: did you mean --data-file?"),
    ("train --time_buget=20s", "unknown flag --time-buget: did you mean --time-budget?"),
    (f"{TRAIN} --nonsense 1", "unknown flag --nonsense: homespun train --help lists all settings"),
    ("train --data-file fairy tales.txt", 'needs quotes: --data-file "fairy tales.txt"'),
    ("train --time-budget 5 min", 'needs quotes: --time-budget "5 min"'),
    ("generate --prompt Once upon --seed 1", 'needs quotes: --prompt "Once upon"'),
    ("generate Once upon --seed 1", 'before it: homespun generate --prompt "Once upon"'),
    ("verify torn checkpoints", "'checkpoints' is one too many: homespun verify takes one path"),
    (f"{TRAIN} --batch-size", "--batch-size needs a value"),
    (f"{TRAIN} --gradient-checkpointing yes", "--gradient-checkpointing takes no value: write"),
    ("help tain", "unknown command 'tain': did you mean train?"),
    ("generate checkpoints/best.npz", "homespun generate --checkpoint checkpoints/best.npz"),
    ("train --data-file stories.txt latin1.txt", "put the files into a folder and name that"),
    (f"{TRAIN} --lr 1", "unknown flag --lr: did you mean --learning-rate?"),
    (f"{TRAIN} --optimizer sgd", '--optimizer is \'sgd\': "adamw" or "muon" is expected'),
    (f"{TRAIN} --precision float64", "--precision is 'float64': \"auto\" or "),
    ("train --resume perhaps", "--resume is 'perhaps': \"never\" or "),
    # TOML.
    (f"{TRAIN} --config missing.toml", "missing.toml: no such file"),
    (f"{TRAIN} --config key.toml", "unknown key 'learnin_rate': did you mean learning_rate?"),
    (f"{TRAIN} --config type.toml", "type.toml: --batch-size is '8': a whole number is expected"),
    (f"{TRAIN} --config folder", "--config folder: cannot be read (Is a directory)"),
    (f"{TRAIN} --config syntax.toml", "--config syntax.toml: not valid TOML"),
    (f"{TRAIN} --config latin1.toml", "--config latin1.toml: not valid TOML"),
    (f"{TRAIN} --config bound.toml", "bound.toml: --batch-size is -3: it must be at least 1"),
    (f"{TRAIN} --config nan.toml", "nan.toml: --learning-rate is nan: give a finite number"),
    (f"{TRAIN} --config nul.toml", "nul.toml: --checkpoint-dir contains a NUL"),
    # Checkpoints.
    (f"{TRAIN} --checkpoint-dir short.txt", "short.txt cannot be written"),
    (f"{TRAIN} --checkpoint-dir short.txt/x", "short.txt/x cannot be written"),
    (f"{TRAIN} --checkpoint-dir {'x' * 300}", "cannot be written (File name too long)"),
    (f"{TRAIN} --checkpoint-dir ''", "--checkpoint-dir is empty"),
    (f"{TRAIN} --tokens-dir short.txt", "short.txt is a file): choose another folder (--tokens-d"),
    ("train --resume --checkpoint-dir short.txt", "short.txt cannot be written (Not a directory)"),
    ("train --resume --tokenizer-path other_tokenizer", "not the tokenizer of this run"),
    ("train --resume --checkpoint-dir torn", "torn holds no checkpoint to resume"),
    ("generate --tokenizer-path other_tokenizer", "leave --tokenizer-path out"),
    ("generate --tokenizer-path missing", "missing: there is no tokenizer here"),
    ("generate --model-size tiny", "is not of --model-size tiny: it has architecture qwen3, not"),
    ("generate --model-size pico", "it has n_layers 1, not 2, d_model 32, not 192"),
    ("generate --model-size huge", "--model-size 'huge' is unknown"),
    ("generate --checkpoint missing", "missing: no model is there"),
    ("generate --checkpoint missing/best.npz", "missing/best.npz: no model is there"),
    ("generate --checkpoint truncated.npz", "truncated.npz is not a checkpoint of homespun, or"),
    ("generate --checkpoint flipped.npz", "flipped.npz is damaged (the array "),
    ("generate --checkpoint stories.txt", "stories.txt is not a checkpoint of homespun"),
    ("generate --checkpoint empty.txt", "empty.txt is not a checkpoint of homespun"),
    ("generate --checkpoint folder", "folder: no model is there"),
    ("generate --checkpoint ''", "--checkpoint is empty"),
    ("generate --checkpoint checkpoints/checkpoint_step_2.state.npz", "holds state, not weights"),
    ("judge --checkpoint missing", "missing: no model is there"),
    ("eval missing --data-file stories.txt", "missing: no model is there"),
    ("eval checkpoints flipped.npz --data-file latin1.txt", "latin1.txt: not UTF-8 in line 1"),
    ("eval flipped.npz --data-file short.txt", "flipped.npz is damaged (the array "),
    ("eval truncated.npz --data-file stories.txt", "truncated.npz is not a checkpoint of homespun"),
    ("eval --data-file empty.txt", "empty.txt: there is no text in it"),
    ("eval --data-file missing.txt", "missing.txt: there is no such file or folder"),
    ("eval --data-file stories.txt --seq-len 64", "context of checkpoints/best.npz is 32"),
    (
        "eval --data-file stories.txt --engine numpy --precision float16",
        "numpy has no float16: choose --precision bfloat16, or another engine",
    ),
    ("eval --choices --precision int8", "--choices computes in float32: leave --precision out"),
    ("bench --model-size piko", "--model-size 'piko' is unknown: did you mean pico? Or choose one"),
    ("bench --model-size nanochat", "did you mean nanochat-d6? Or choose one of pico, nano,"),
    ("bench --report bench.txt", "--report bench.txt: give a file name that ends in .json"),
    ("bench --report missing/bench.json", "bench.json: there is no folder missing"),
    ("bench --report there.json", "--report there.json exists: choose another name, or delete it"),
    ("verify missing", "missing: there is no such file"),
    ("verify truncated.npz", "truncated.npz is not a checkpoint of homespun, or its end"),
    ("verify flipped.npz", "flipped.npz is damaged (the array "),
    ("verify torn", "torn: 1 of 3 cannot be used, see above"),
    # Settings without a meaning.
    (
        f"{DOWNLOAD} --dataset stories --difficulty hard",
        "goes with --dataset stories-questions, no",
    ),
    (
        f"{DOWNLOAD} --dataset stories.txt --plain",
        "--plain goes with --dataset stories or stories-q",
    ),
    (
        f"{DOWNLOAD} --dataset a/b --seed 1",
        "--seed goes with --dataset stories or stories-questions",
    ),
    ("prepare --data-file stories.txt --similarity 0.9", "--similarity is that of near duplicates"),
    (f"{TRAIN} --replay-share 0.3", "--replay-share is that of --replay: name a text with it"),
    (
        "download --dataset stories --output folder",
        "folder: this is a folder: name a file with --o",
    ),
    (
        "import checkpoints --output stories.txt",
        "stories.txt: this file is in the way: choose anot",
    ),
    (
        "export checkpoints --to gguf --data-file empty.txt",
        "empty.txt has no text to compare on: na",
    ),
    # Prompts.
    (f"{GENERATE} --prompt ''", "--prompt is empty"),
    (f"{GENERATE} --interactive --prompt ''", "--prompt is empty"),
    (f"{GENERATE} --prompt '{'word ' * 100}'", "the model's context is 32: shorten the prompt"),
    (f"{GENERATE} --prompt 'a\udcffb'", "the prompt is not valid UTF-8 from character 2 on"),
    (f"{GENERATE} --prompt a --prompt-file short.txt", "--prompt and --prompt-file both name a"),
    (f"{GENERATE} --interactive --prompt -", "--interactive reads a prompt from each line of"),
    (f"{GENERATE} --interactive --num-samples 2", "--interactive writes one text for each line"),
    (f"{GENERATE} --prompt-file empty.txt", "empty.txt: there is no text in it: leave --prompt-f"),
    (f"{GENERATE} --prompt-file missing.txt", "missing.txt: cannot be read (No such file or dir"),
    (f"{GENERATE} --prompt-file folder", "folder: cannot be read (Is a directory)"),
    (f"{GENERATE} --prompt-file latin1.txt", "latin1.txt: not UTF-8 in line 1: convert it first"),
    (f"{GENERATE} --prompt-file binary.txt", "binary.txt: NUL at byte 0; this is not a text"),
    (f"{GENERATE} --prompt-file stories.txt", "the model's context is 32: shorten the prompt"),
    (f"{GENERATE} --stop ''", "a stop string is empty"),
]


@pytest.mark.parametrize(
    ("command", "complaint"), BAD, ids=[c.replace(TRAIN, "train")[:80] for c, _ in BAD]
)
def test_bad_input_gives_one_clear_line_and_changes_no_file(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, complaint: str
) -> None:
    before = content(place)
    assert main(shlex.split(command)) == 2
    complained = capsys.readouterr().err
    assert complained.startswith("error: ")
    assert complaint in complained
    assert complained.count("\n") == 1
    assert content(place) == before


def test_a_huge_line_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "line.jsonl").open("wb") as file:
        file.truncate((1 << 27) + 1)
    output = tmp_path / "tokenizer"
    command = ["tokenizer", "--data-file", str(file.name), "--output-dir", str(output)]
    assert main(command) == 2
    assert "line.jsonl:1: a line of more than 128 MiB" in capsys.readouterr().err
    assert not output.exists()


def test_without_data_the_error_names_the_download_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("train", "tokenizer"):
        assert main([command]) == 2
        complained = capsys.readouterr().err
        assert "homespun download" in complained
        assert complained.count("\n") == 1


@pytest.mark.parametrize("width", [1, 40, 100_000_000])
def test_a_narrow_terminal_cuts_no_figure(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["models"])
    expected = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", str(width))
    main(["models"])
    assert capsys.readouterr().out == expected
    assert "…" not in expected
    [width_of_table] = {len(line) for line in expected.splitlines()[: 1 + len(PRESETS)]}
    assert width_of_table <= 80
    for name in COMMANDS:
        assert main(["help", name]) == 0


def test_verify_without_a_path_says_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify"]) == 2
    complained = capsys.readouterr().err
    assert complained == (
        "error: there is no run in checkpoints: name a file or a folder to check\n"
    )


def test_debug_shows_the_traceback(place: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        main(["verify", "missing", "--debug"])
    command = [sys.executable, "-m", "homespun", "verify", "missing"]
    plain, debug = (
        subprocess.run([*command, *more], capture_output=True, text=True)
        for more in ([], ["--debug"])
    )
    assert (plain.returncode, plain.stderr) == (2, "error: missing: there is no such file\n")
    assert debug.stderr.startswith("Traceback")
    assert debug.stderr.endswith("CheckpointError: missing: there is no such file\n")


def resolved(folder: Path) -> dict[str, Any]:
    """The resolved settings in the checkpoint of a run."""
    settings: dict[str, Any] = read_archive(folder / "best.npz").header["resolved"]
    return settings


def test_flags_override_the_toml_file_which_overrides_the_preset(
    workplace: Path, trained: Path
) -> None:
    Path("run.toml").write_text(
        """
        model_size = "pico"
        n_layers = 1
        d_model = 32
        n_heads = 2
        seq_len = 32
        batch_size = 2
        grad_accumulation_steps = 3
        max_steps = 2
        log_interval = 1
        warmup_steps = 4
        learning_rate = 1e-3
        weight_decay = 0.25
        eval_tokens = 500
        sample_interval = 2
        sample_prompts = ["The dog"]
        """
    )
    command = (
        f"train --config run.toml --tokenizer-path {trained}/tokenizer_model "
        "--learning-rate 2e-3 --batch-size 4"
    )
    assert main(shlex.split(command)) == 0
    settings = resolved(Path("checkpoints"))
    assert (settings["batch_size"], settings["grad_accumulation_steps"]) == (4, 3)
    assert (settings["learning_rate"], settings["weight_decay"]) == (2e-3, 0.25)
    assert (settings["optimizer"], settings["schedule"]) == ("adamw", "cosine")
    assert (settings["n_layers"], settings["vocab_size"]) == (1, 400)
    logged = records(Path("checkpoints"))
    steps = [r for r in logged if "loss" in r]
    assert [r["tokens"] for r in steps] == [4 * 3 * 32, 2 * 4 * 3 * 32]
    assert [r["lr"] for r in steps] == pytest.approx([2e-3 / 4, 2e-3 / 2])
    assert [r["prompt"] for r in logged if "prompt" in r] == ["The dog"]


def test_a_vocabulary_that_the_text_does_not_support(
    workplace: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of the guide, on a text that supports fewer tokens than they request."""
    shutil.copy(trained / "stories.txt", "stories.txt")
    assert main(shlex.split("tokenizer --data-file stories.txt")) == 0
    printed = capsys.readouterr().out
    assert "of 8,000 tokens: the text has no more pairs to merge" in printed
    for more in ("", "--resume --max-steps 3", "--tokenizer-path tokenizer_model"):
        assert main(shlex.split(f"{TRAIN} --vocab-size 8000 {more}")) == 0
        printed = capsys.readouterr().out
        assert "training one" not in printed
        model = read_archive(Path("new/best.npz")).header["model"]
        assert f"vocabulary {model['vocab_size']:,}" in printed
        assert model["vocab_size"] == Tokenizer.load("tokenizer_model").vocab_size < 8000
    assert not Path("tokenizer_model.1").exists()


def test_a_toml_file_may_set_the_folder_and_resume(workplace: Path, trained: Path) -> None:
    Path("run.toml").write_text('checkpoint_dir = "from_toml"\nresume = "auto"\n')
    command = f"{TRAIN} --tokenizer-path {trained}/tokenizer_model --config run.toml"
    command = command.replace("--checkpoint-dir new", "--log-interval 1")
    assert main(shlex.split(command)) == 0
    assert main(shlex.split(f"{command} --max-steps 3")) == 0
    assert [r["step"] for r in records(Path("from_toml")) if "loss" in r] == [1, 2, 3]


def test_a_file_of_weights_says_what_was_asked_and_what_was_settled(place: Path) -> None:
    header = read_archive(Path("checkpoints/best.npz")).header
    assert header["requested"]["optimizer"] is None
    assert header["resolved"]["optimizer"] == "adamw"
    assert header["model"]["n_layers"] == 1
    assert header["facts"]["precision"] == header["resolved"]["precision"]
    assert set(header["resolved"]) == {f.name for f in dataclasses.fields(homespun.TrainConfig)}


def test_help_version_models_and_verify(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert "usage: homespun" in shown
        assert all(f"  {name} " in shown for name in COMMANDS)
    for name, command in COMMANDS.items():
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert f"usage: homespun {name}" in shown
        for field in dataclasses.fields(command.config):
            assert (
                field.name.upper() if field.metadata["positional"] else flag(field.name)
            ) in shown
        assert "None" not in shown
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"homespun {homespun.__version__}\n"
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PRESETS)
    assert "124.4 M" in listed or "123.8 M" in listed
    assert main(["verify"]) == 0
    whole = capsys.readouterr().out
    n_records = counted(
        len((place / "checkpoints/metrics.jsonl").read_text().splitlines()), "record"
    )
    assert main(["verify", "checkpoints"]) == 0
    shown = capsys.readouterr().out
    assert shown == whole
    assert shown.splitlines() == [
        "checkpoints/checkpoint_step_2.npz: step 2, whole",
        "checkpoints/best.npz: step 2, whole",
        f"checkpoints/metrics.jsonl: {n_records} up to step 2, whole",
    ]
