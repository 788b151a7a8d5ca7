"""Commands that write with a model."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from homespun.cli.arguments import Settings
from homespun.cli.commands.loading import load_model
from homespun.config import STANDARD_INPUT, ChatConfig, GenerateConfig, ModelConfig, SamplingConfig
from homespun.errors import UserError
from homespun.terminal import bar, columns, printable, put, warn, wrapped

if TYPE_CHECKING:
    from homespun.language_model import LanguageModel
    from homespun.tokenizer import Message


def generate(settings: Settings) -> int:
    config = GenerateConfig(**settings)
    prompt = _prompt(config)
    from homespun.generation.interactive import interact, write
    from homespun.generation.speed import Speed

    model = load_model(config)
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
        with bar("Writing", config.num_samples) as advance:
            for number, sample in enumerate(samples, start=1):
                put(f"--- {number} of {config.num_samples} ---")
                text = printable((prompt or "") + sample.text)
                put(wrapped(text, columns(sys.stdout)))
                advance(1)
    report()
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


def chat(settings: Settings) -> int:
    config = ChatConfig(**settings)
    from homespun.generation.chat import chat

    model = load_model(config)
    _ = model.template  # a model without one is refused before the first message

    def answer(
        messages: "Sequence[Message]", sampling: SamplingConfig
    ) -> tuple[int, Iterator[str]]:
        kept, _ = model.fitting(messages, sampling)
        return len(messages) - len(kept), model.chat_stream(kept, sampling)

    chat(answer, config, config.system)
    return 0
