"""All commands by name, in the order in which the help lists them. Each subject has a file of its own.

A command is one function: it takes the settings that were given, and returns the exit status. It checks its settings
and then imports its part of the package, so that help and errors come fast.
"""

from homespun.cli.arguments import Command
from homespun.cli.commands import data, evaluation, examining, generation, models, serving, training
from homespun.config import (
    BenchConfig,
    ChatConfig,
    DoctorConfig,
    DownloadConfig,
    EvalConfig,
    ExportConfig,
    GenerateConfig,
    ImportConfig,
    JudgeConfig,
    ModelsConfig,
    PlanConfig,
    PrepareConfig,
    ReinforceConfig,
    ReportConfig,
    ServeConfig,
    StudioConfig,
    TokenizerConfig,
    TrainConfig,
    TuneConfig,
    VerifyConfig,
)
from homespun.config.training import MOST_USED

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("download", DownloadConfig, data.download),
        Command("tokenizer", TokenizerConfig, data.tokenizer),
        Command(
            "prepare",
            PrepareConfig,
            data.prepare,
            (
                "homespun prepare --data-file 'web/**/*.parquet' --workers 8",
                "homespun prepare --data-file web --drop-duplicates near --drop-poor",
                "homespun prepare --data-file 'web/**/*.parquet' --part 1/4",
            ),
        ),
        Command(
            "train",
            TrainConfig,
            training.train,
            (
                "homespun train --data-file book.txt --time-budget 10m",
                "homespun train --resume --time-budget 30m",
                "homespun train --init-from checkpoints --preferences pairs.jsonl",
                "homespun train --model-size tiny --batch-size 16 --max-epochs 10 --learning-rate 3e-4",
            ),
            training.choices,
            most_used=MOST_USED,
        ),
        Command(
            "reinforce",
            ReinforceConfig,
            training.reinforce,
            (
                "homespun reinforce checkpoints --data-file questions.jsonl --time-budget 5m",
                "homespun reinforce checkpoints --data-file questions.jsonl --reward my_reward.py:reward",
                "homespun reinforce --resume",
            ),
            training.choices,
            most_used=(
                *("model", "data_file", "reward", "time_budget", "max_steps", "group_size"),
                *("answer_tokens", "updates", "clip_ratio", "kl_factor", "reward_seconds"),
                *("batch_size", "learning_rate", "checkpoint_dir", "resume", "config"),
            ),
        ),
        Command(
            "plan",
            PlanConfig,
            training.plan,
            (
                "homespun plan --data-file book.txt --time-budget 1h",
                'homespun plan --model-size tiny --max-steps 10000 --machine "M1 Max 32GB"',
            ),
            training.choices,
            most_used=(
                *("machine", "data_file", "time_budget", "model_size", "max_epochs", "max_steps"),
                *("batch_size", "seq_len", "vocab_size", "resume", "config"),
            ),
        ),
        Command(
            "tune",
            TuneConfig,
            training.tune,
            (
                "homespun tune --data-file book.txt --max-steps 3000",
                "homespun tune --method grid --model-size tiny --max-steps 3000",
                "homespun tune --search learning_rate=1e-4:6e-4:log batch_size=8,16,32 --trials 30",
                "homespun tune --resume",
            ),
            training.choices,
            most_used=(
                *("method", "search", "dimensions", "trials", "data_file", "model_size"),
                *("max_steps", "max_epochs", "time_budget", "checkpoint_dir", "resume", "config"),
            ),
        ),
        Command(
            "generate",
            GenerateConfig,
            generation.generate,
            (
                'homespun generate --prompt "Once upon a time"',
                "homespun generate --prompt-file beginning.txt --num-samples 3",
                "homespun generate --interactive --temperature 0.6",
            ),
        ),
        Command(
            "chat",
            ChatConfig,
            generation.chat,
            ("homespun chat answers", 'homespun chat answers --system "Answer in one word."'),
        ),
        Command(
            "serve",
            ServeConfig,
            serving.serve,
            (
                "homespun serve",
                "homespun serve smollm2 --port 8001",
                "homespun serve --host 0.0.0.0 --key-file key",
            ),
        ),
        Command(
            "eval",
            EvalConfig,
            evaluation.evaluate,
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
            models.export,
            (
                "homespun export checkpoints --to gguf --precision float16",
                "homespun export checkpoints --to huggingface --output my-model",
            ),
        ),
        Command(
            "import",
            ImportConfig,
            models.import_,
            (
                "homespun import SmolLM2-135M.gguf --output smollm2",
                "homespun import HuggingFaceTB/SmolLM2-135M",
            ),
        ),
        Command(
            "judge",
            JudgeConfig,
            evaluation.judge,
            (
                "homespun judge --num-samples 200",
                "homespun judge --beginnings --num-samples 130",
            ),
        ),
        Command("models", ModelsConfig, models.models),
        Command(
            "bench",
            BenchConfig,
            examining.bench,
            (
                "homespun bench --quick",
                "homespun bench --model-size tiny gpt2-small --report bench.json",
            ),
        ),
        Command("verify", VerifyConfig, examining.verify),
        Command(
            "doctor",
            DoctorConfig,
            examining.doctor,
            ("homespun doctor", "homespun doctor checkpoints"),
        ),
        Command(
            "report",
            ReportConfig,
            examining.report,
            ("homespun report", "homespun report first second --output comparison.html"),
        ),
        Command(
            "studio",
            StudioConfig,
            serving.studio,
            ("homespun studio", "homespun studio my-work --port 9000 --no-browser"),
        ),
    )
}
