"""One function per command: takes the settings that were given, returns the exit status.

Each checks its settings and then imports its part of the package, so that help and errors come fast.
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun.cli.arguments import Command
from homespun.config import (
    DoctorConfig,
    DownloadConfig,
    ExportConfig,
    GenerateConfig,
    ImportConfig,
    JudgeConfig,
    LoadConfig,
    ModelConfig,
    ModelsConfig,
    TokenizerConfig,
    TrainConfig,
    VerifyConfig,
)
from homespun.errors import UserError
from homespun.terminal import columns, counted, printable, put, say, wrapped

if TYPE_CHECKING:
    from homespun.language_model import LanguageModel

Settings = dict[str, Any]

SHOWN_CONTRADICTIONS = 5
"""Stories whose contradictions `judge` prints; after that it only counts."""


def download(settings: Settings) -> int:
    config = DownloadConfig(**settings)
    from homespun.data.download import download

    download(config, say)
    return 0


def tokenizer(settings: Settings) -> int:
    config = TokenizerConfig(**settings)
    from homespun.data.train_tokenizer import train_tokenizer
    from homespun.engine import hardware

    hardware.limit_workers(None)
    train_tokenizer(config, say)
    return 0


def train(settings: Settings) -> int:
    """Flags override the TOML file, which overrides the settings of a resumed run, which override the defaults."""
    from homespun.training.interrupts import Interrupts

    with Interrupts(quits=True) as interrupts:  # before the imports, which may take seconds
        from homespun.training.train import train

        stopped_by = train(settings, say, interrupts).stopped_by
    return 128 + stopped_by if stopped_by else 0


def generate(settings: Settings) -> int:
    config = GenerateConfig(**settings)
    from homespun.generation.interactive import interact, write

    model = _load(config)
    _check_agreement(config, model)
    if config.interactive:
        interact(model.stream, config, config.prompt)
    elif config.num_samples == 1:
        write(config.prompt or "", model.stream(config.prompt, config))
    else:
        samples = model.samples(config.prompt, config, config.num_samples)
        for number, sample in enumerate(samples, start=1):
            put(f"--- {number} of {config.num_samples} ---")
            text = printable((config.prompt or "") + sample.text)
            put(wrapped(text, columns(sys.stdout)))
    return 0


def models(settings: Settings) -> int:
    config = ModelsConfig(**settings)
    from homespun.architectures.families import (
        count_active_parameters,
        count_parameters,
        flops_per_token,
    )
    from homespun.architectures.presets import PRESETS, shaped
    from homespun.planning.estimate import training_bytes

    titles = ("preset", "block", "layers x width")
    figures = ("parameters", "used by a token", "FLOPs/token", "float32", "bfloat16")
    rows = [[*titles, *figures]]
    for name, preset in PRESETS.items():
        model = shaped(preset, {"vocab_size": config.vocab_size, "seq_len": config.seq_len})
        memory = [
            training_bytes(model, config.batch_size, "adamw", half=half, checkpointing=False) / 1e9
            for half in (False, True)
        ]
        shape = [name, model.architecture, f"{model.n_layers} x {model.d_model}"]
        counts = count_parameters(model), count_active_parameters(model)
        costs = [f"{count / 1e6:,.1f} M" for count in counts]
        costs.append(f"{flops_per_token(model) / 1e9:,.2f} G")
        rows.append([*shape, *costs, *(f"{gigabytes:,.1f} GB" for gigabytes in memory)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        put(
            "  ".join(
                f"{cell:{'<' if n < len(titles) else '>'}{width}}"
                for n, (cell, width) in enumerate(cells)
            )
        )
    say(
        f"\nWith a vocabulary of {config.vocab_size:,} tokens. The last two columns estimate the memory of "
        f"training with AdamW on micro-batches of {config.batch_size} x {config.seq_len} tokens; "
        "--gradient-checkpointing needs less."
    )
    return 0


def judge(settings: Settings) -> int:
    config = JudgeConfig(**settings)
    from homespun.stories.judge import judge

    consistent, shown = 0, 0
    written = _load(config).continuations(None, config, config.num_samples)
    for number, story in enumerate(written, start=1):
        verdict = judge(story.text)
        consistent += verdict.consistent
        if verdict.problems and shown < SHOWN_CONTRADICTIONS:
            shown += 1
            problem = verdict.problems[0]
            put(printable(f"story {number}: {problem.what}: {problem.text}"))
    stories = counted(config.num_samples, "story is", "stories are")
    put(f"{consistent} of {stories} consistent from start to end.")
    return 0


def doctor(settings: Settings) -> int:
    DoctorConfig(**settings)
    from homespun.doctor import examine_engines

    return 0 if examine_engines(say) else 1


def export(settings: Settings) -> int:
    config = ExportConfig(**settings)
    from homespun.exporting import export_model

    export_model(config, say)
    return 0


def import_(settings: Settings) -> int:
    config = ImportConfig(**settings)
    from homespun.importing import import_model

    import_model(config, say)
    return 0


def verify(settings: Settings) -> int:
    config = VerifyConfig(**settings)
    if not settings and not Path(config.path).exists():
        raise UserError(f"there is no run in {config.path}: name what to check, a file or a folder")
    from homespun.verify import verify

    for line in verify(Path(config.path)):
        say(line)
    return 0


def _load(config: LoadConfig) -> "LanguageModel":
    from homespun.language_model import load

    return load(
        config.checkpoint, engine=config.engine, precision=config.precision, threads=config.threads
    )


def _check_agreement(config: GenerateConfig, model: "LanguageModel") -> None:
    """Check --model-size and --tokenizer-path against the checkpoint.

    Raises:
        UserError: the checkpoint has another shape or another tokenizer.
    """
    file = model.stored.path
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


def _train_choices() -> Mapping[str, Iterable[str]]:
    from homespun.architectures.families import FAMILIES

    return {"architecture": FAMILIES}


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("download", DownloadConfig, download),
        Command("tokenizer", TokenizerConfig, tokenizer),
        Command(
            "train",
            TrainConfig,
            train,
            (
                "homespun train --data-file book.txt --time-budget 10m",
                "homespun train --resume --time-budget 30m",
                "homespun train --model-size tiny --batch-size 16 --max-epochs 10 --learning-rate 3e-4",
            ),
            _train_choices,
            most_used=(
                *("data_file", "time_budget", "model_size", "max_epochs", "max_steps"),
                *("batch_size", "seq_len", "learning_rate", "vocab_size"),
                *("checkpoint_dir", "resume", "config"),
            ),
        ),
        Command(
            "generate",
            GenerateConfig,
            generate,
            (
                'homespun generate --prompt "Once upon a time"',
                "homespun generate --interactive --temperature 0.6",
            ),
        ),
        Command(
            "export",
            ExportConfig,
            export,
            (
                "homespun export checkpoints --to gguf --precision float16",
                "homespun export checkpoints --to huggingface --output my-model",
            ),
        ),
        Command(
            "import",
            ImportConfig,
            import_,
            ("homespun import SmolLM2-135M.gguf --output smollm2",),
        ),
        Command("judge", JudgeConfig, judge),
        Command("models", ModelsConfig, models),
        Command("verify", VerifyConfig, verify),
        Command("doctor", DoctorConfig, doctor),
    )
}
