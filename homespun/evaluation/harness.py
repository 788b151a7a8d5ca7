"""The tasks of lm-evaluation-harness flow in, the answers of a trained model flow out.

    python -m homespun.evaluation.harness --model homespun --model_args checkpoint=PATH --tasks TASK

is the command `lm_eval` of the harness with one more model. From version 0.4.14 on, `lm_eval` finds the model itself,
through the entry point `lm_eval.models`. Texts begin with the end-of-text token, as in training.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.config import ReaderName, ReaderPrecision
from homespun.config.checked import checked
from homespun.data.batch import IGNORED, Batch
from homespun.engine.base import Floats
from homespun.errors import UserError
from homespun.language_model import load
from homespun.terminal import bar

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows
except ImportError as error:
    raise ImportError(
        "lm-evaluation-harness is not installed here: pip install 'homespun[eval]'"
    ) from error

AUTO_BATCH_SIZE = 8
MAX_LOGITS = 1 << 26
"""Logits that are computed together: 256 MB."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Settings of a task that are passed on when it samples."""

Scored = tuple[float, bool]
"""The log-likelihood of a continuation, and whether it is the most likely one at each token."""
Request = tuple[Any, list[int], list[int]]
"""A key of the harness, and the tokens of context and continuation."""


@register_model("homespun")
class HomespunLM(TemplateLM):
    """A model that homespun opens: a checkpoint, the folder of a run, a Hugging Face or MLX folder, or a GGUF file."""

    def __init__(
        self,
        checkpoint: str | None = None,
        engine: ReaderName = "auto",
        precision: ReaderPrecision = "auto",
        threads: int | None = None,
        add_bos_token: bool = True,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Load the model. The arguments are those of `--model_args`; the last three are flags of the harness.

        Args:
            checkpoint: the model, as for `homespun.load`; likewise `engine`, `precision` and `threads`.
            add_bos_token: put the end-of-text token before each text. Every model that is trained here expects that.
            max_length: tokens that the model sees, at most its context, which is the default.
            max_gen_toks: tokens to generate if a task does not say.
            batch_size: texts that are computed together; `auto` is 8.
            max_batch_size: not used.
            device: not used, since the engine chooses it. The harness always names one.

        Raises:
            UserError: there is no such model, or an argument is impossible.
        """
        super().__init__()
        named = None if checkpoint is None else str(checkpoint)
        self.model = load(named, engine=engine, precision=precision, threads=threads)
        self.add_bos_token = add_bos_token
        bounds = {"at_least": 2, "at_most": self.model.config.seq_len}
        self.max_length: int = checked(
            "max_length",
            self.model.config.seq_len if max_length is None else max_length,
            int,
            bounds,
        )
        self.max_gen_toks = max_gen_toks
        is_auto = str(batch_size).startswith("auto")
        self.batch_size: int = AUTO_BATCH_SIZE if is_auto else max(1, int(batch_size))

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.eot_id

    @property
    def tokenizer_name(self) -> str:
        """The identity of the tokenizer, for the harness's cache of requests."""
        return self.model.tokenizer.sha256

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The tokens of a text, after an end-of-text token unless that is switched off."""
        begins = self.add_bos_token if add_special_tokens is None else add_special_tokens
        return [self.eot_token_id] * begins + self.model.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Scored]:
        """The log-likelihood of each continuation after its context. A context that is too long loses its beginning.

        Raises:
            UserError: a continuation is longer than the model's context.
        """
        longest = max((len(continuation) for _, _, continuation in requests), default=0)
        if longest > self.max_length:
            raise UserError(
                f"a continuation has {longest} tokens, but the model sees only {self.max_length}"
            )
        scored: dict[int, Scored] = {}
        with bar("Scoring continuations", len(requests)) as advance:
            for numbers in self._batches(requests):
                texts = [self._clipped(*requests[number][1:]) for number in numbers]
                inputs = _padded([text[:-1] for text in texts], 0)
                logits = self.model.engine.logits(inputs)
                for row, number, text in zip(logits, numbers, texts, strict=True):
                    key, _, continuation = requests[number]
                    scored[number] = _scored(row[: len(text) - 1], continuation)
                    if key is not None:
                        self.cache_hook.add_partial("loglikelihood", key, scored[number])
                advance(len(numbers))
        return [scored[number] for number in range(len(requests))]

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """The numbers of requests that are computed together: of similar length, the longest first."""
        lengths = [len(self._clipped(*request[1:])) for request in requests]
        waiting = sorted(range(len(requests)), key=lambda number: -lengths[number])
        while waiting:
            logits_of_one = lengths[waiting[0]] * self.model.config.vocab_size
            size = max(1, min(self.batch_size, MAX_LOGITS // logits_of_one))
            yield waiting[:size]
            waiting = waiting[size:]

    def _clipped(self, context: list[int], continuation: list[int]) -> list[int]:
        """The end of a text, as much as the model sees, and one token that it predicts."""
        return (context + continuation)[-self.max_length - 1 :]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, in the windows of the harness."""
        results = []
        with bar("Scoring texts", len(requests)) as advance:
            for request in requests:
                (text,) = request.args
                windows = get_rolling_token_windows(
                    self.tok_encode(text, add_special_tokens=False),
                    prefix_token=self.eot_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                total = 0.0
                for inputs, predicted in windows:
                    targets = [IGNORED] * (len(inputs) - len(predicted)) + predicted
                    batch = Batch(_padded([inputs], 0), _padded([targets], IGNORED))
                    total -= self.model.engine.loss(batch)[0]
                results.append(total)
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
                advance(1)
        return results

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to one of the stop strings of its task.

        Raises:
            UserError: a task asks for a way of sampling that is not known here.
        """
        by_settings: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_settings.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        written: dict[int, str] = {}
        with bar("Generating", len(requests)) as advance:
            for numbers in by_settings.values():
                settings = self._sampling(requests[numbers[0]].args[1])
                # A text that is continued beyond the context loses its older half, so half of it is always room enough.
                room = max(self.max_length // 2, self.max_length - settings["max_tokens"])
                for first in range(0, len(numbers), self.batch_size):
                    batch = numbers[first : first + self.batch_size]
                    contexts = [requests[number].args[0] for number in batch]
                    prompts = [self.tok_encode(context)[-room:] for context in contexts]
                    texts = self.model.generate_batch(prompts, **settings)
                    for number, text in zip(batch, texts, strict=True):
                        written[number] = text.text
                        self.cache_hook.add_partial(
                            "generate_until", requests[number].args, text.text
                        )
                    advance(len(batch))
        return [written[number] for number in range(len(requests))]

    def _sampling(self, given: dict[str, Any]) -> dict[str, Any]:
        """The settings of `homespun.SamplingConfig` for the generation settings of a task."""
        task = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        settings = {
            "max_tokens": task.pop("max_gen_toks"),
            "stop": [stop for stop in task.pop("until", []) if stop],
            "temperature": 0.0,
            "min_p": 0.0,
        }
        sampling = {name: task.pop(name) for name in SAMPLING if name in task}
        if task.pop("do_sample", False):
            # The harness seeds NumPy.
            settings |= sampling | {"seed": int(np.random.randint(2**31))}
        if task:
            raise UserError(
                f"generation settings of the task that are not known here: {', '.join(task)}"
            )
        return settings


def _padded(rows: list[list[int]], fill: int) -> npt.NDArray[np.int32]:
    """[B] rows of any length -> [B, T]."""
    padded = np.full((len(rows), max(map(len, rows))), fill, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _scored(logits: Floats, continuation: list[int]) -> Scored:
    """The score of the tokens that follow the last positions of `logits` [T, V]."""
    last = logits[len(logits) - len(continuation) :].astype(np.float64)
    last -= last.max(-1, keepdims=True)
    chosen = last[np.arange(len(continuation)), continuation]
    total = float((chosen - np.log(np.exp(last).sum(-1))).sum())
    return total, bool((last.argmax(-1) == continuation).all())


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
