"""The command line: arguments in, one function per command, errors as one line out.

Exit status: 0 done; 2 something that the user can mend; 128 + number of the signal that stopped it.
"""

import dataclasses
import io
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from homespun.config import (
    DownloadConfig,
    GenerateConfig,
    JudgeConfig,
    ModelConfig,
    ModelsConfig,
    TokenizerConfig,
    TrainConfig,
    VerifyConfig,
    read_toml,
)
from homespun.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the installed `homespun` exits with what it returns."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a terminal need not know every character of a story
    try:
        return _dispatch(given)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it closes the stream.
        sys.stdout = None
        return 141


def _dispatch(given: list[str]) -> int:
    if given == ["--version"]:
        import homespun

        print(f"homespun {homespun.__version__}")
        return 0
    name = given[0] if given else "--help"
    if name not in COMMANDS:
        _parse_command(given or ["--help"])
        return 0
    command, kind = COMMANDS[name]
    return command(given[1:]) if kind is None else command(_parse(kind, name, given[1:]))


def _parse(kind: type[Any], name: str, given: list[str], default: Any = None) -> Any:
    only_what_is_required = (tyro.conf.PositionalRequiredArgs,)
    return tyro.cli(
        kind, prog=f"homespun {name}", args=given, default=default, config=only_what_is_required
    )


def _parse_command(given: list[str]) -> None:
    """Help, and complaints about a command that does not exist."""
    kinds: dict[str, Callable[..., Any]] = {
        name: kind or TrainConfig for name, (_, kind) in COMMANDS.items()
    }
    tyro.extras.subcommand_cli_from_dict(kinds, prog="homespun", description=ABOUT, args=given)


def download(config: DownloadConfig) -> int:
    from homespun.data.download import download

    download(config)
    return 0


def tokenizer(config: TokenizerConfig) -> int:
    from homespun.tokenizer import train_command

    train_command(config)
    return 0


def train(given: list[str]) -> int:
    """Flags over TOML file over what a resumed run was started with over defaults."""
    from homespun.training.loop import train
    from homespun.training.setup import find_checkpoint, requested_config

    given = _with_resume_value(given)
    named = _parse(TrainConfig, "train", given).config
    from_file = read_toml(Path(named), TrainConfig) if named else {}
    config = _parse(TrainConfig, "train", given, default=TrainConfig(**from_file))
    checkpoint = find_checkpoint(config, say=print)
    if checkpoint:
        place = {"checkpoint_dir": config.checkpoint_dir, "resume": config.resume}
        base = dataclasses.replace(requested_config(checkpoint), **{**from_file, **place})
        config = _parse(TrainConfig, "train", given, default=base)
    result = train(config, checkpoint, say=print)
    how_to = f"homespun train --resume --checkpoint-dir {result.checkpoint_dir}"
    if result.stopped_by is not None:
        print(f"Stopped at step {result.steps:,} and saved. To go on: {how_to}")
        return 128 + result.stopped_by
    print(f"Ended by {result.ended_by} after {result.steps:,} steps.")
    print(f'Try it: homespun generate --checkpoint {result.best} --prompt "Once upon a time"')
    return 0


def generate(config: GenerateConfig) -> int:
    from homespun.api import load
    from homespun.generation.generate import generate, stream
    from homespun.generation.interactive import interact
    from homespun.monitoring.console import printable

    model = load(
        config.checkpoint, engine=config.engine, precision=config.precision, threads=config.threads
    )
    _check_agreement(config, model.config, model.tokenizer.sha256)
    context = model.config.seq_len
    if config.interactive:
        interact(
            lambda prompt, sampling: stream(
                model.engine.decoder, model.tokenizer, prompt, sampling, context=context
            ),
            config,
            config.prompt,
        )
        return 0
    if config.num_samples == 1:
        written = stream(
            model.engine.decoder, model.tokenizer, config.prompt, config, context=context
        )
        first = next(written, "")
        print(printable((config.prompt or "") + first), end="", flush=True)
        for piece in written:
            print(printable(piece), end="", flush=True)
        print()
        return 0
    for number, sample in enumerate(
        generate(
            model.engine.decoder,
            model.tokenizer,
            config.prompt,
            config,
            context=context,
            num_samples=config.num_samples,
        ),
        start=1,
    ):
        print(f"--- {number} of {config.num_samples} ---")
        print(printable((config.prompt or "") + sample.text))
    return 0


def models(config: ModelsConfig) -> int:
    from rich.console import Console
    from rich.table import Table

    from homespun.model.presets import PRESETS, shaped
    from homespun.model.spec import count_parameters, flops_per_token, training_bytes

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
    from homespun.api import load
    from homespun.generation.generate import generate
    from homespun.monitoring.console import printable
    from homespun.stories.judge import judge

    model = load(config.checkpoint, threads=config.threads)
    consistent, shown = 0, 0
    written = generate(
        model.engine.decoder,
        model.tokenizer,
        None,
        config,
        context=model.config.seq_len,
        num_samples=config.num_samples,
    )
    for number, story in enumerate(written, start=1):
        verdict = judge(story.text)
        consistent += verdict.consistent
        if verdict.problems and shown < PROBLEMS_SHOWN:
            shown += 1
            print(
                printable(f"story {number}: {verdict.problems[0].what}: {verdict.problems[0].text}")
            )
    print(f"{consistent} of {config.num_samples} stories are consistent from start to end.")
    return 0


def verify(config: VerifyConfig) -> int:
    from homespun.checkpoint import verify_path

    for line in verify_path(Path(config.path)):
        print(line)
    return 0


ABOUT = "Train your own language model, from data to generation, on the machine you own."

COMMANDS: dict[str, tuple[Callable[[Any], int], type[Any] | None]] = {
    "download": (download, DownloadConfig),
    "tokenizer": (tokenizer, TokenizerConfig),
    "train": (train, None),
    "generate": (generate, GenerateConfig),
    "judge": (judge, JudgeConfig),
    "models": (models, ModelsConfig),
    "verify": (verify, VerifyConfig),
}


def _with_resume_value(given: list[str]) -> list[str]:
    """A bare `--resume` means the newest checkpoint."""
    result = []
    for argument, following in itertools.zip_longest(given, given[1:], fillvalue="--"):
        result.append(argument)
        if argument == "--resume" and following.startswith("--"):
            result.append("latest")
    return result


def _check_agreement(config: GenerateConfig, model: ModelConfig, tokenizer_sha256: str) -> None:
    """What the user says of the model has to be true of it.

    Raises:
        UserError: another size, or another tokenizer.
    """
    if config.model_size is not None:
        from homespun.model.presets import preset, shaped

        named = shaped(
            preset(config.model_size), {"vocab_size": model.vocab_size, "seq_len": model.seq_len}
        )
        differing = [
            f"{field.name} {getattr(model, field.name)}, not {getattr(named, field.name)}"
            for field in dataclasses.fields(ModelConfig)
            if getattr(model, field.name) != getattr(named, field.name)
        ]
        if differing:
            raise UserError(
                f"{config.checkpoint} is not of --model-size {config.model_size}: it has {', '.join(differing)}; "
                "leave the flag out, the checkpoint knows its shape"
            )
    if config.tokenizer_path is not None:
        from homespun.tokenizer import Tokenizer

        if Tokenizer.load(Path(config.tokenizer_path)).sha256 != tokenizer_sha256:
            raise UserError(
                f"{config.tokenizer_path} is not the tokenizer that {config.checkpoint} was trained with: leave "
                "--tokenizer-path out, the checkpoint holds the right one"
            )
