"""One function per command: takes the settings that were given, returns the exit status.

Each checks its settings and then imports its part of the package, so that help and errors come fast.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun.cli.arguments import Command
from homespun.config import (
    STANDARD_INPUT,
    BenchConfig,
    ChatConfig,
    DoctorConfig,
    DownloadConfig,
    EvalConfig,
    ExportConfig,
    GenerateConfig,
    ImportConfig,
    JudgeConfig,
    LoadConfig,
    ModelConfig,
    ModelsConfig,
    PlanConfig,
    ReinforceConfig,
    ReportConfig,
    SamplingConfig,
    ServeConfig,
    StudioConfig,
    TokenizerConfig,
    TrainConfig,
    TuneConfig,
    VerifyConfig,
)
from homespun.config.training import MOST_USED
from homespun.errors import UserError
from homespun.terminal import bar, columns, counted, printable, put, say, warn, wrapped

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from homespun.evaluation.storytelling import Storytelling
    from homespun.language_model import LanguageModel
    from homespun.tokenizer import Message

Settings = dict[str, Any]

SHOWN_CONTRADICTIONS = 5
"""Stories whose contradictions `judge` prints; after that it only counts."""


SCORE_COLUMNS = {
    "tokens": 12,
    "window": 8,
    "slides": 10,
    "loss": 9,
    "perplexity": 13,
    "bits/byte": 11,
}
"""Titles and widths of the figures in the table of `eval`. Each row is printed as soon as its model is scored."""


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
    if _is_dry(settings):
        return plan(settings)
    from homespun.engine import launcher, select
    from homespun.training.interrupts import Interrupts, ignored

    place = launcher.place()
    if place and place.rank:
        with ignored():
            select.follow()
        return 0
    # Before the imports, which may take seconds. A launcher passes a signal on that its ranks have got already.
    with Interrupts(quits=place is None, repeats=place is not None) as interrupts, select.leading():
        from homespun.training.train import train

        stopped_by = train(settings, say, interrupts).stopped_by
    return 128 + stopped_by if stopped_by else 0


def reinforce(settings: Settings) -> int:
    from homespun.training.reinforcement.policy import as_training

    return train(as_training(settings))


def plan(settings: Settings) -> int:
    from homespun.engine import launcher

    if (place := launcher.place()) and place.rank:
        return 0  # one plan is enough
    given = {name: value for name, value in settings.items() if name not in ("machine", "dry_run")}
    PlanConfig(**settings)
    from homespun.forecast import forecast

    _put_facts(forecast(given, say, machine=settings.get("machine")).facts())
    return 0


def _put_facts(facts: Mapping[str, str]) -> None:
    """Print facts by topic, aligned."""
    widest = max(map(len, facts))
    for name, fact in facts.items():
        put(wrapped(f"{name:<{widest}}  {fact}", columns(sys.stdout), " " * (widest + 2)))


def tune(settings: Settings) -> int:
    if _is_dry(settings, TuneConfig):
        from homespun.tuning.tune import expected_tune

        _put_facts(expected_tune(settings, say))
        return 0
    from homespun.training.interrupts import Interrupts

    with Interrupts(quits=True) as interrupts:  # before the imports, which may take seconds
        from homespun.tuning.tune import describe, tune

        result = tune(settings, say, interrupts)
    if result.is_complete:
        put(f"\n{printable(result.table())}\n\n{wrapped(result.verdict, columns(sys.stdout))}")
    else:
        say(result.verdict)
    for name, fact in describe(result).items():
        say(f"  {name:<6} {fact}")
    return 128 + result.stopped_by if result.stopped_by else 0


def _is_dry(settings: Settings, kind: type[TrainConfig] = TrainConfig) -> bool:
    """Whether the settings of a run, or the file that they name, only ask for a plan."""
    from homespun.config.toml_file import read_toml

    stated = dict(settings)
    if file := settings.get("config"):
        stated = read_toml(Path(file), kind) | stated
    return bool(stated.get("dry_run"))


def generate(settings: Settings) -> int:
    config = GenerateConfig(**settings)
    prompt = _prompt(config)
    from homespun.generation.interactive import interact, write
    from homespun.generation.speed import Speed

    model = _load(config)
    _check_agreement(config, model)
    speed = Speed()

    def report() -> None:
        if config.verbose:
            warn(str(speed))

    if config.interactive:
        interact(partial(model.stream, speed=speed), config, prompt, report)
        return 0
    if config.num_samples == 1:
        write(prompt or "", model.stream(prompt, config, speed=speed))
    else:
        samples = model.samples(prompt, config, config.num_samples, speed=speed)
        for number, sample in enumerate(samples, start=1):
            put(f"--- {number} of {config.num_samples} ---")
            text = printable((prompt or "") + sample.text)
            put(wrapped(text, columns(sys.stdout)))
    report()
    return 0


def chat(settings: Settings) -> int:
    config = ChatConfig(**settings)
    from homespun.generation.chat import chat

    model = _load(config)
    _ = model.template  # a model without one is refused before the first message

    def answer(
        messages: "Sequence[Message]", sampling: SamplingConfig
    ) -> tuple[int, Iterator[str]]:
        kept, _ = model.fitting(messages, sampling)
        return len(messages) - len(kept), model.chat_stream(kept, sampling)

    chat(answer, config, config.system)
    return 0


def evaluate(settings: Settings) -> int:
    config = EvalConfig(**settings)
    from homespun.engine import hardware

    hardware.limit_workers(config.threads)
    if config.choices is not None:
        return _choose(config)
    if config.questions is not None:
        return _ask(config)
    from homespun.evaluation.evaluate import evaluate

    if config.json:
        for result in evaluate(config, warn):  # standard output is for a program
            put(_line_of_json(result))
        return 0
    name_width = max(map(len, ("model", *config.models)))
    for number, result in enumerate(evaluate(config, say)):
        if number == 0:
            titles = "".join(f"{title:>{width}}" for title, width in SCORE_COLUMNS.items())
            put("model".ljust(name_width) + titles)
        figures = (
            f"{result.n_tokens:,}",
            f"{result.seq_len:,}",
            "no" if result.stride == result.seq_len else f"by {result.stride:,}",
            f"{result.loss:.4f}",
            f"{result.perplexity:,.2f}",
            f"{result.bits_per_byte:.4f}",
        )
        cells = zip(figures, SCORE_COLUMNS.values(), strict=True)
        row = "".join(f"{figure:>{width}}" for figure, width in cells)
        put(printable(result.model).ljust(name_width) + row)
    return 0


def _choose(config: EvalConfig) -> int:
    from homespun.evaluation.choices import evaluate_choices
    from homespun.evaluation.intervals import percent_range

    for number, result in enumerate(evaluate_choices(config, warn if config.json else say)):
        if config.json:
            put(_line_of_json(result))
            continue
        if len(config.models) > 1:
            put(("\n" if number else "") + printable(result.model))
        scores = (*result.skills, result.overall)
        width = max(len("skill"), *(len(printable(score.skill)) for score in scores))
        put(f"{'skill':<{width}}{'pairs':>8}{'right':>8}  95% interval")
        for score in scores:
            name, interval = printable(score.skill), percent_range(score.low, score.high)
            put(f"{name:<{width}}{score.n_pairs:>8,}{score.share:>8.1%}  {interval}")
    return 0


def _ask(config: EvalConfig) -> int:
    from homespun.evaluation.intervals import percent_range
    from homespun.evaluation.questions import evaluate_questions

    for number, result in enumerate(evaluate_questions(config, warn if config.json else say)):
        if config.json:
            put(_line_of_json(result))
            continue
        if len(config.models) > 1:
            put(("\n" if number else "") + printable(result.model))
        for wrong in result.wrong[:SHOWN_CONTRADICTIONS]:
            put(printable(f"{wrong.question} {wrong.given!r}, not {wrong.right!r}"))
        parts = [rows for rows in (result.skills, result.difficulties, (result.overall,)) if rows]
        width = max(len("skill"), *(len(printable(row.of)) for rows in parts for row in rows))
        put(f"{'skill':<{width}}{'questions':>11}{'exact':>8}  {'95% interval':<14}one answer")
        for rows in parts:
            for row in rows:
                span = percent_range(row.low, row.high)
                put(
                    f"{printable(row.of):<{width}}{row.n_questions:>11,}{row.share:>8.1%}  {span:<14}"
                    f"{row.constant:>10.0%}"
                )
    return 0


def _line_of_json(result: "DataclassInstance") -> str:
    """The fields of a result. JSON has no infinite numbers: null stands for them."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(result).items()
    }
    return json.dumps(finite)


def models(settings: Settings) -> int:
    config = ModelsConfig(**settings)
    from homespun.architectures.families import (
        count_active_parameters,
        count_parameters,
        flops_per_token,
    )
    from homespun.architectures.presets import PRESETS, shaped
    from homespun.engine import traits
    from homespun.planning.estimate import Computing, training_memory

    def gigabytes(model: ModelConfig, half: bool) -> float:
        computing = Computing("adamw", traits.torch_on_cpu(half, model.seq_len))
        return training_memory(model, config.batch_size, computing).total / 1e9

    titles = ("preset", "block", "shape")
    figures = ("weights", "active", "FLOPs", "float32", "bfloat16")
    rows = [[*titles, *figures]]
    for name, preset in PRESETS.items():
        model = shaped(preset, {"vocab_size": config.vocab_size, "seq_len": config.seq_len})
        memory = [gigabytes(model, half) for half in (False, True)]
        shape = [name, model.architecture, f"{model.n_layers} x {model.d_model}"]
        counts = count_parameters(model), count_active_parameters(model)
        costs = [f"{count / 1e6:,.{1 if count < 1e9 else 0}f} M" for count in counts]
        costs.append(f"{flops_per_token(model) / 1e9:,.2f} G")
        rows.append([*shape, *costs, *(f"{needed:,.1f} GB" for needed in memory)])
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
        f"\nThe shape is layers x width. Active weights and FLOPs are those of one token, with a vocabulary of "
        f"{config.vocab_size:,}. The last two columns estimate the memory of "
        f"training with AdamW on micro-batches of {config.batch_size} x {config.seq_len} tokens on a CPU; "
        "--gradient-checkpointing needs less. `homespun plan` estimates it for your machine and settings."
    )
    return 0


def judge(settings: Settings) -> int:
    config = JudgeConfig(**settings)
    from homespun.evaluation.storytelling import summarised, told, training_text

    model = _load(config)
    if config.beginnings:
        return _judge_beginnings(config, model)
    stories, shown = [], 0
    with bar("Writing and judging stories", config.num_samples) as advance:
        for story in told(model, config):
            stories.append(story)
            if story.verdict.problems and shown < SHOWN_CONTRADICTIONS:
                shown += 1
                problem = story.verdict.problems[0]
                put(printable(f"story {story.number}: {problem.what}: {problem.text}"))
            advance(1)
    learned = training_text(model)
    result = summarised(stories, learned.training() if learned else None)
    for line in _figures(config, result, learned.path if learned else None):
        put(line)
    return 0


def _figures(config: JudgeConfig, result: "Storytelling", text: Path | None) -> Iterator[str]:
    """The lines of `judge` about all stories; `text` is the one that the model learned from."""
    from homespun.evaluation.intervals import percent_range
    from homespun.evaluation.storytelling import sampling_shown

    tally = result.tally
    is_repeated = tally.n < result.n_told
    noun = "different stor" if is_repeated else "stor"
    stories = counted(tally.n, f"{noun}y is", f"{noun}ies are")
    yield f"{tally.consistent} of {stories} consistent from start to end."
    seed = "random seed" if config.seed is None else f"seed {config.seed}"
    facts = {
        "share": f"{tally.share:.0%}, 95% interval {percent_range(*tally.interval)}",
        "sampling": f"{sampling_shown(config)}, {seed}",
    }
    if is_repeated:
        facts["repeated"] = f"{result.n_told} stories were told; each counts once"
    if tally.consistent:
        courses = counted(result.n_courses, "course", "different courses")
        facts["courses"] = f"{courses} of events in the consistent stories"
        new = "not known, for the training text is not here"
        if result.n_with_new_course is not None:
            share = result.n_with_new_course / tally.consistent
            follow = counted(
                result.n_with_new_course, "consistent story follows", "consistent stories follow"
            )
            new = f"{follow} a course of events that is not in {text} ({share:.0%})"
        facts["new"] = new
    for name, fact in facts.items():
        yield f"{name:<10}{fact}"
    width = max(len(row.of) for row in result.compared)
    yield f"{'':<{width}}{'model':>8}{'generator':>11}"
    for row in result.compared:
        yield f"{row.of:<{width}}{row.model:>8.0%}{row.generator:>11.0%}"


def _judge_beginnings(config: JudgeConfig, model: "LanguageModel") -> int:
    from homespun.evaluation.intervals import percent_range
    from homespun.evaluation.storytelling import continued

    columns = list(continued(model, config))
    put(f"{columns[0].overall.n} unseen beginnings, continued; consistent from start to end:")
    titles = [column.settings for column in columns]
    kinds = {kind: kind.replace("_", " ") for kind in columns[0].mishaps}
    name = max(len("mishap"), *map(len, kinds.values()))
    put(f"{'mishap':<{name}}{'stories':>9}" + "".join(f"  {title}" for title in titles))
    for kind, label in kinds.items():
        cells = "".join(
            f"  {column.mishaps[kind].consistent:>{len(title)},}"
            for column, title in zip(columns, titles, strict=True)
        )
        put(f"{label:<{name}}{columns[0].mishaps[kind].n:>9,}{cells}")
    for column in columns:
        interval = percent_range(*column.overall.interval)
        put(
            f"{column.settings}: {column.overall.consistent} of {column.overall.n}, "
            f"{column.overall.share:.0%}, 95% interval {interval}"
        )
    return 0


def doctor(settings: Settings) -> int:
    config = DoctorConfig(**settings)
    if config.run is None:
        from homespun.doctor import examine_engines

        return 0 if examine_engines(say) else 1
    from homespun.reporting.doctor import examine_run

    return 0 if examine_run(Path(config.run), put, columns(sys.stdout)) else 1


def bench(settings: Settings) -> int:
    config = BenchConfig(**settings)
    from homespun.bench.bench import bench

    bench(config, put)
    return 0


def report(settings: Settings) -> int:
    config = ReportConfig(**settings)
    from homespun.reporting.report import write_report

    output = Path(config.output) if config.output else None
    put(f"report      {write_report([Path(run) for run in config.runs], output)}")
    return 0


def studio(settings: Settings) -> int:
    config = StudioConfig(**settings)
    from homespun.server.launch import check_installed

    check_installed("studio")
    from homespun.server.studio.run import run

    run(config, say)
    return 0


def serve(settings: Settings) -> int:
    config = ServeConfig(**settings)
    from homespun.server.launch import check_installed

    check_installed("serve")
    from homespun.server.serve import serve

    serve(config)
    return 0


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


def _prompt(config: GenerateConfig) -> str | None:
    """The text to continue, from wherever it comes.

    Raises:
        UserError: it cannot be read, or there is none.
    """
    if config.prompt_file is None and config.prompt != STANDARD_INPUT:
        return config.prompt
    from homespun.generation import prompt

    if config.prompt_file is not None:
        return prompt.from_file(Path(config.prompt_file))
    return prompt.from_standard_input()


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
    from homespun.records import tracking

    return {"architecture": FAMILIES, "track": tracking.available()}


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
                "homespun train --init-from checkpoints --preferences pairs.jsonl",
                "homespun train --model-size tiny --batch-size 16 --max-epochs 10 --learning-rate 3e-4",
            ),
            _train_choices,
            most_used=MOST_USED,
        ),
        Command(
            "reinforce",
            ReinforceConfig,
            reinforce,
            (
                "homespun reinforce checkpoints --data-file questions.jsonl --time-budget 5m",
                "homespun reinforce checkpoints --data-file questions.jsonl --reward my_reward.py:reward",
                "homespun reinforce --resume",
            ),
            _train_choices,
            most_used=(
                *("model", "data_file", "reward", "time_budget", "max_steps", "group_size"),
                *("answer_tokens", "updates", "clip_ratio", "kl_factor", "reward_seconds"),
                *("batch_size", "learning_rate", "checkpoint_dir", "resume", "config"),
            ),
        ),
        Command(
            "plan",
            PlanConfig,
            plan,
            (
                "homespun plan --data-file book.txt --time-budget 1h",
                'homespun plan --model-size tiny --max-steps 10000 --machine "M1 Max 32GB"',
            ),
            _train_choices,
            most_used=(
                *("machine", "data_file", "time_budget", "model_size", "max_epochs", "max_steps"),
                *("batch_size", "seq_len", "vocab_size", "resume", "config"),
            ),
        ),
        Command(
            "tune",
            TuneConfig,
            tune,
            (
                "homespun tune --data-file book.txt --max-steps 3000",
                "homespun tune --method grid --model-size tiny --max-steps 3000",
                "homespun tune --search learning_rate=1e-4:6e-4:log batch_size=8,16,32 --trials 30",
                "homespun tune --resume",
            ),
            _train_choices,
            most_used=(
                *("method", "search", "dimensions", "trials", "data_file", "model_size"),
                *("max_steps", "max_epochs", "time_budget", "checkpoint_dir", "resume", "config"),
            ),
        ),
        Command(
            "generate",
            GenerateConfig,
            generate,
            (
                'homespun generate --prompt "Once upon a time"',
                "homespun generate --prompt-file beginning.txt --num-samples 3",
                "homespun generate --interactive --temperature 0.6",
            ),
        ),
        Command(
            "chat",
            ChatConfig,
            chat,
            ("homespun chat sft", 'homespun chat sft --system "Answer in one word."'),
        ),
        Command(
            "serve",
            ServeConfig,
            serve,
            (
                "homespun serve",
                "homespun serve smollm2 --port 8001",
                "homespun serve --host 0.0.0.0 --key-file key",
            ),
        ),
        Command(
            "eval",
            EvalConfig,
            evaluate,
            (
                "homespun eval checkpoints --data-file other.txt",
                "homespun eval checkpoints smollm2 model.gguf --data-file other.txt --stride",
                "homespun eval checkpoints --choices",
                "homespun eval checkpoints --questions",
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
            (
                "homespun import SmolLM2-135M.gguf --output smollm2",
                "homespun import HuggingFaceTB/SmolLM2-135M",
            ),
        ),
        Command(
            "judge",
            JudgeConfig,
            judge,
            (
                "homespun judge --num-samples 200",
                "homespun judge --beginnings --num-samples 130",
            ),
        ),
        Command("models", ModelsConfig, models),
        Command(
            "bench",
            BenchConfig,
            bench,
            (
                "homespun bench --quick",
                "homespun bench --model-size tiny gpt2-small --report bench.json",
            ),
        ),
        Command("verify", VerifyConfig, verify),
        Command("doctor", DoctorConfig, doctor, ("homespun doctor", "homespun doctor checkpoints")),
        Command(
            "report",
            ReportConfig,
            report,
            ("homespun report", "homespun report first second --output comparison.html"),
        ),
        Command(
            "studio",
            StudioConfig,
            studio,
            ("homespun studio", "homespun studio my-work --port 9000 --no-browser"),
        ),
    )
}
