"""A model flows in, a copy in the format of other programs flows out, once it is proven to compute the same.

The copy is written under a temporary name, read back, and compared with the original on the same tokens. Only then does
it get its final name.
"""

import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.config import ExportConfig, ReaderConfig, SamplingConfig
from homespun.data.batch import Batch
from homespun.errors import UserError, cannot_write
from homespun.language_model import LanguageModel, load_stored
from homespun.model_formats.formats import EXPORTS, Export, open_model
from homespun.model_formats.stored_model import StoredModel
from homespun.terminal import Say, bar

COMPARED = 4
"""Samples of text, and of random tokens, on which original and copy are compared."""
MAX_COMPARED_TOKENS = 256
"""In a sample."""
LOGIT_TOLERANCE = 1e-4
"""The largest difference of a logit in float32, relative to the largest logit or 1."""
LOSS_TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2, "int8": 3e-2}
"""The largest difference of the loss, in nats per token. A wrong weight matrix costs far more."""

Ids = npt.NDArray[np.int32]


class Agreement(NamedTuple):
    """How a copy compares with the original."""

    loss: float
    """Of the original, in nats per token of text."""
    copy_loss: float
    logit_difference: float
    """The largest, over text and random tokens, relative to the largest logit or 1."""
    n_tokens: int
    """Of text."""


def export_model(config: ExportConfig, say: Say) -> Path:
    """Write a model in the format of other programs.

    Args:
        config: the model, the format, the precision, and the place.
        say: receives the result of the comparison, and how to use the copy.

    Returns:
        The folder or file.

    Raises:
        UserError: the model cannot be read, the format does not have it, the place cannot be written, or the copy
            computes other numbers. Nothing is written then.
    """
    export = EXPORTS[config.to]
    if config.precision not in export.precisions:
        raise UserError(
            f"--precision {config.precision} does not exist with --to {config.to}: "
            f"choose {', '.join(export.precisions)}"
        )
    stored = open_model(Path(config.checkpoint), report=say)
    output = _output(config, export)
    temporary = durable.temporary_name(output)
    try:
        durable.make_folder(temporary)
        copy = temporary / output.name if export.is_file else temporary
        with bar(f"Writing {output}", None):
            export.write(stored, copy, config.precision)
        with bar("Comparing the copy with the original", None):
            found = _proven(config, stored, export.read(copy, stored), say)
        say(_summary(config, found))
        moved = _publish(copy, output, export.beside(stored, output.name))
    except OSError as error:
        raise cannot_write(
            error, f"{output} cannot be written", "choose another --output"
        ) from error
    except OverflowError as error:
        raise UserError(f"--precision {config.precision}: {error}: choose another") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for earlier in moved:
        say(f"An earlier export is now {earlier}.")
    words = {
        "path": output,
        "quoted": shlex.quote(str(output)),
        "folder": shlex.quote(str(output.parent)),
    }
    say(f"Written: {output}. {export.runs_in.format(**words)}")
    return output


def _output(config: ExportConfig, export: Export) -> Path:
    """The place of the copy.

    Raises:
        UserError: a name of the wrong kind, or something else is there.
    """
    if config.output is None:
        return Path("exported") / (f"model{export.suffix}" if export.is_file else config.to)
    output = Path(config.output)
    if export.is_file and output.suffix != export.suffix:
        raise UserError(f"--output {output}: give a file name that ends in {export.suffix}")
    if output.is_dir() == export.is_file and output.exists():
        raise UserError(f"{output} exists and is no earlier export: choose another --output")
    if output.is_dir() and any(output.iterdir()) and not (output / export.description).exists():
        raise UserError(f"{output} holds other files: choose another --output")
    return output


def _proven(config: ExportConfig, stored: StoredModel, copy: StoredModel, say: Say) -> Agreement:
    """Compare a copy with its original.

    Raises:
        UserError: they differ in more than the precision explains.
    """
    if copy.config != stored.config or copy.tokenizer.sha256 != stored.tokenizer.sha256:
        raise UserError(f"the copy of {stored.path} describes another model: nothing was written")
    settings = ReaderConfig(precision="float32")
    original = load_stored(stored, settings, generates=False)
    texts = _texts(config, original)
    found = agreement(original, load_stored(copy, settings, generates=False), texts)
    exact = config.precision == "float32"
    loss_difference = abs(found.loss - found.copy_loss)
    if not loss_difference <= LOSS_TOLERANCE[config.precision] or (
        exact and not found.logit_difference <= LOGIT_TOLERANCE
    ):
        raise UserError(
            f"the copy of {stored.path} computes other numbers (loss {found.copy_loss:.4f} instead of "
            f"{found.loss:.4f}, logits differ by {found.logit_difference:.2g}): nothing was written"
        )
    return found


def agreement(original: LanguageModel, copy: LanguageModel, texts: list[Ids]) -> Agreement:
    """Compare two models on texts, [T] each, and their logits on random tokens too, which use the whole vocabulary."""
    losses, copy_losses, difference, n_tokens = 0.0, 0.0, 0.0, 0
    for ids in texts:
        batch = Batch(ids[None, :-1], ids[None, 1:])
        losses += original.engine.loss(batch)[0]
        copy_losses += copy.engine.loss(batch)[0]
        n_tokens += len(ids) - 1
    shape = (COMPARED, min(original.config.seq_len, MAX_COMPARED_TOKENS))
    random = np.random.default_rng(0).integers(0, original.config.vocab_size, shape, np.int32)
    for ids in (*random, *(ids[:-1] for ids in texts)):
        expected, found = (model.engine.logits(ids[None]) for model in (original, copy))
        scale = max(1.0, float(np.abs(expected).max()))
        difference = max(difference, float(np.abs(expected - found).max()) / scale)
    return Agreement(losses / n_tokens, copy_losses / n_tokens, difference, n_tokens)


def _texts(config: ExportConfig, model: LanguageModel) -> list[Ids]:
    """Samples of text that begin like documents, [T] each.

    Raises:
        UserError: the text cannot be read, or is too short.
    """
    length = min(model.config.seq_len, MAX_COMPARED_TOKENS) + 1
    if config.data_file is None:
        sampling = SamplingConfig(max_tokens=length, temperature=1.0, min_p=0.0, seed=0)
        written = model.generate_batch([None] * COMPARED, sampling)
        streams = [model.tokenizer.encode(text.text) for text in written]
    else:
        path = Path(config.data_file)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        ids = model.tokenizer.encode(text[-COMPARED * 16 * length :])
        streams = [ids[n * length : (n + 1) * length] for n in range(COMPARED)]
    samples = [np.array([model.tokenizer.eot_id, *ids], np.int32)[:length] for ids in streams]
    samples = [ids for ids in samples if len(ids) > 1]
    if not samples:
        named = f"{config.data_file} has no text" if config.data_file else "there is no text"
        raise UserError(f"{named} to compare on: name a text with --data-file")
    return samples


def _summary(config: ExportConfig, found: Agreement) -> str:
    source = config.data_file or "text that the model wrote"
    return (
        f"Read back and compared on {found.n_tokens:,} tokens of {source}: loss {found.copy_loss:.4f}, "
        f"original {found.loss:.4f}; logits differ by at most {found.logit_difference:.2g}."
    )


def _publish(copy: Path, output: Path, beside: dict[str, str]) -> list[Path]:
    """Write the files `beside` a proven copy and give it its final name; returns the new places of earlier exports."""
    moved = []
    for name, text in beside.items():
        file, content = output.with_name(name), durable.encoded(text)
        if file.exists() and file.read_bytes() != content:
            moved.append(durable.set_aside(file))
        durable.write(file, content)
    if output.exists():
        if output.is_file() or any(output.iterdir()):
            moved.append(durable.set_aside(output))
        else:
            output.rmdir()
    copy.rename(output)
    durable.sync_folder(output.parent)
    return moved
