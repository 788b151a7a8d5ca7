"""Commands that list models, and move them to and from other programs."""

from homespun.cli.arguments import Settings
from homespun.config import ExportConfig, ImportConfig, ModelConfig, ModelsConfig
from homespun.terminal import put, say


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

    def gigabytes(model: ModelConfig, half: bool, low: bool = False) -> float:
        use = traits.torch_on_cpu(half, model.seq_len)
        computing = Computing("adamw", use, checkpointing=low, low_memory=low)
        return training_memory(model, config.batch_size, computing).total / 1e9

    titles = ("preset", "block", "shape")
    figures = ("weights", "active", "FLOPs", "fp32", "bf16", "low")
    rows = [[*titles, *figures]]
    for name, preset in PRESETS.items():
        model = shaped(preset, {"vocab_size": config.vocab_size, "seq_len": config.seq_len})
        memory = [*(gigabytes(model, half) for half in (False, True)), gigabytes(model, True, True)]
        shape = [name, model.architecture, f"{model.n_layers} x {model.d_model}"]
        counts = count_parameters(model), count_active_parameters(model)
        costs = [f"{count / 1e6:,.{1 if count < 1e9 else 0}f} M" for count in counts]
        costs.append(f"{flops_per_token(model) / 1e9:,.2f} G")
        rows.append([*shape, *costs, *(f"{needed:,.1f}" for needed in memory)])
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
        f"{config.vocab_size:,}. The last three columns estimate the memory of training, in GB, with AdamW on "
        f"micro-batches of {config.batch_size} x {config.seq_len} tokens on a CPU: in float32, in bfloat16, and in "
        "bfloat16 with --memory low. `homespun plan` estimates it for your machine and settings."
    )
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
