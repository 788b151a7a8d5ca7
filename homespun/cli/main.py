"""The command line: arguments in, one function per command, errors as one line out.

Exit status: 0 done; 2 something that the user can mend; 128 + number of the signal that stopped it.
"""

import dataclasses
import errno
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun.cli.arguments import parse
from homespun.config import (
    DoctorConfig,
    DownloadConfig,
    GenerateConfig,
    JudgeConfig,
    LoadConfig,
    ModelConfig,
    ModelsConfig,
    TokenizerConfig,
    TrainConfig,
    VerifyConfig,
)
from homespun.config.checked import Checked
from homespun.errors import UserError, did_you_mean
from homespun.terminal import columns, printable, say, wrapped

if TYPE_CHECKING:
    from homespun.language_model import LanguageModel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the installed `homespun` exits with what it returns."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal need not know every character of a story.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _dispatch(given)
        sys.stdout.flush()
        return status
    except UserError as error:
        if debug:
            raise
        say(f"error: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it closes the stream.
        sys.stdout = None
        return 141
    except OSError as error:
        if debug or error.errno != errno.ENOSPC:
            raise
        sys.stdout = None
        say(f"error: the output cannot be written ({error.strerror})", sys.stderr)
        return 2


def _dispatch(given: list[str]) -> int:
    if given == ["--version"]:
        import homespun

        print(f"homespun {homespun.__version__}")
        return 0
    if not given or given[0] in ("-h", "--help", "help"):
        _overview()
        return 0
    name, *words = given
    if name not in COMMANDS:
        meant = did_you_mean(name, COMMANDS, "homespun --help lists what there is")
        raise UserError(f"there is no command '{name}': {meant}")
    command, kind = COMMANDS[name]
    settings = parse(kind, name, words, EXAMPLES.get(name, ()))
    return train(settings) if command is train else command(kind(**settings))


def _overview() -> None:
    """What there is, and how to begin."""
    say(f"usage: homespun COMMAND [SETTINGS]\n\n{ABOUT}\n")
    for name, (_, kind) in COMMANDS.items():
        summary = (kind.__doc__ or "").partition(".")[0]
        line = f"  {name:<10} {summary}."
        print(wrapped(line, columns(sys.stdout), indent=" " * 13))
    say("\nhomespun COMMAND --help lists its settings. Start with:")
    say(f"  {EXAMPLES['train'][0]}")


def download(config: DownloadConfig) -> int:
    from homespun.data.download import download

    download(config)
    return 0


def tokenizer(config: TokenizerConfig) -> int:
    from homespun.data.train_tokenizer import train_tokenizer

    train_tokenizer(config)
    return 0


def train(settings: dict[str, Any]) -> int:
    """Train; `settings` are those given as flags."""
    from homespun.training.resume import requested
    from homespun.training.train import train

    config, checkpoint = requested(settings, say)
    stopped_by = train(config, checkpoint, say).stopped_by
    return 128 + stopped_by if stopped_by else 0


def generate(config: GenerateConfig) -> int:
    from homespun.generation.interactive import interact, write

    model = _load(config)
    _check_agreement(config, model)
    if config.interactive:
        interact(model.stream, config, config.prompt)
    elif config.num_samples == 1:
        write(config.prompt or "", model.stream(config.prompt, config))
    else:
        samples = model.continuations(config.prompt, config, config.num_samples)
        for number, sample in enumerate(samples, start=1):
            print(f"--- {number} of {config.num_samples} ---")
            say((config.prompt or "") + sample.text)
    return 0


def models(config: ModelsConfig) -> int:
    from rich.console import Console
    from rich.table import Table

    from homespun.architectures.families import count_parameters, flops_per_token
    from homespun.architectures.presets import PRESETS, shaped
    from homespun.planning.estimate import training_bytes

    table = Table(box=None, pad_edge=False)
    for title in ("preset", "block", "layers x width"):
        table.add_column(title, no_wrap=True)
    for title in ("parameters", "FLOPs/token", "float32", "bfloat16"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, preset in PRESETS.items():
        model = shaped(preset, {"vocab_size": config.vocab_size, "seq_len": config.seq_len})
        memory = [
            training_bytes(model, config.batch_size, "adamw", half=half, checkpointing=False) / 1e9
            for half in (False, True)
        ]
        table.add_row(
            name,
            model.architecture,
            f"{model.n_layers} x {model.d_model}",
            f"{count_parameters(model) / 1e6:,.1f} M",
            f"{flops_per_token(model) / 1e9:,.2f} G",
            *(f"{gigabytes:,.1f} GB" for gigabytes in memory),
        )
    Console().print(table)
    print(
        f"\nWith a vocabulary of {config.vocab_size:,}. The last two columns estimate the memory of training with "
        f"AdamW on\n{config.batch_size} x {config.seq_len} tokens at a time; --gradient-checkpointing needs less."
    )
    return 0


PROBLEMS_SHOWN = 5
"""Examples of what is wrong with a model's stories; the count tells the rest."""


def judge(config: JudgeConfig) -> int:
    from homespun.stories.judge import judge

    consistent, shown = 0, 0
    written = _load(config).continuations(None, config, config.num_samples)
    for number, story in enumerate(written, start=1):
        verdict = judge(story.text)
        consistent += verdict.consistent
        if verdict.problems and shown < PROBLEMS_SHOWN:
            shown += 1
            problem = verdict.problems[0]
            print(printable(f"story {number}: {problem.what}: {problem.text}"))
    print(f"{consistent} of {config.num_samples} stories are consistent from start to end.")
    return 0


def doctor(config: DoctorConfig) -> int:
    from homespun.doctor import examine_engines

    return 0 if examine_engines(say) else 1


def verify(config: VerifyConfig) -> int:
    from homespun.verify import verify

    for line in verify(Path(config.path)):
        say(line)
    return 0


ABOUT = "Train your own language model, from data to generation, on the machine you own."

EXAMPLES = {
    "train": (
        "homespun train --data-file book.txt --time-budget 10m",
        "homespun train --resume --time-budget 30m",
        "homespun train --model-size tiny --batch-size 16 --max-epochs 10 --learning-rate 3e-4",
    ),
    "generate": (
        'homespun generate --prompt "Once upon a time"',
        "homespun generate --interactive --temperature 0.6",
    ),
}

COMMANDS: dict[str, tuple[Callable[[Any], int], type[Checked]]] = {
    "download": (download, DownloadConfig),
    "tokenizer": (tokenizer, TokenizerConfig),
    "train": (train, TrainConfig),
    "generate": (generate, GenerateConfig),
    "judge": (judge, JudgeConfig),
    "models": (models, ModelsConfig),
    "verify": (verify, VerifyConfig),
    "doctor": (doctor, DoctorConfig),
}


def _load(config: LoadConfig) -> "LanguageModel":
    from homespun.language_model import load

    return load(
        config.checkpoint, engine=config.engine, precision=config.precision, threads=config.threads
    )


def _check_agreement(config: GenerateConfig, model: "LanguageModel") -> None:
    """What the user says of the model has to be true of it.

    Raises:
        UserError: another size, or another tokenizer.
    """
    file = model.archive.path
    if config.model_size is not None:
        from homespun.architectures.presets import preset, shaped

        shape = model.config
        named = shaped(
            preset(config.model_size), {"vocab_size": shape.vocab_size, "seq_len": shape.seq_len}
        )
        differing = [
            f"{field.name} {getattr(shape, field.name)}, not {getattr(named, field.name)}"
            for field in dataclasses.fields(ModelConfig)
            if getattr(shape, field.name) != getattr(named, field.name)
        ]
        if differing:
            raise UserError(
                f"{file} is not of --model-size {config.model_size}: it has {', '.join(differing)}; "
                "leave the flag out, the checkpoint knows its shape"
            )
    if config.tokenizer_path is not None:
        from homespun.tokenizer import Tokenizer

        if Tokenizer.load(Path(config.tokenizer_path)).sha256 != model.tokenizer.sha256:
            raise UserError(
                f"{config.tokenizer_path} is not the tokenizer that {file} was trained with: leave "
                "--tokenizer-path out, the checkpoint holds the right one"
            )
