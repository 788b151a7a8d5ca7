"""Moments of a generation flow in, its figures of speed come out."""

import contextlib
import time
from collections.abc import Callable, Iterator

from homespun.terminal import counted


class Speed:
    """How fast a model read a prompt and wrote texts after it. `Session` fills it in while it works.

    The prompt is read in one pass (prefill), which gives the first token. Each further token takes a pass of its own
    (decode), for all texts of a batch together.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` gives the time in seconds."""
        self._clock = clock
        self.begin(0)

    def begin(self, n_texts: int) -> None:
        """Start to measure a prompt that is continued `n_texts` times; earlier figures are dropped."""
        self._began = self._clock()
        self._first_token = 0.0
        self.n_texts = n_texts
        self.prompt_tokens = 0
        """With the end-of-text mark at the start."""
        self.prefill_seconds = 0.0
        self.first_token_seconds: float | None = None
        """From the call to the first token; None before it."""
        self.decoded_tokens = 0
        """Tokens drawn after the first one of each text."""
        self.decode_seconds = 0.0
        """From the first token to the last, with the time to print them."""

    @contextlib.contextmanager
    def prefill(self, n_tokens: int) -> Iterator[None]:
        """Measure the body, which reads the prompt."""
        began = self._clock()
        yield
        self.prompt_tokens, self.prefill_seconds = n_tokens, self._clock() - began

    def drew(self, n_tokens: int) -> None:
        """Note that a token of each of `n_tokens` texts has been drawn."""
        now = self._clock()
        if self.first_token_seconds is None:
            self._first_token = now
            self.first_token_seconds = now - self._began
        else:
            self.decoded_tokens += n_tokens
            self.decode_seconds = now - self._first_token

    def __str__(self) -> str:
        if self.first_token_seconds is None:
            return "no token was drawn"
        read = f"prefill {_rate(self.prompt_tokens, self.prefill_seconds)}"
        first = f"first token after {self.first_token_seconds:.3f} s"
        texts = f" of {self.n_texts} texts" if self.n_texts > 1 else ""
        return f"{read}, {first}, decode {_rate(self.decoded_tokens, self.decode_seconds, texts)}"


def _rate(n_tokens: int, seconds: float, of: str = "") -> str:
    """A number of tokens and their time, and how many that is in a second if both are more than zero."""
    per_second = f" ({n_tokens / seconds:,.0f} tokens/s)" if n_tokens and seconds else ""
    return f"{counted(n_tokens, 'token')}{of} in {seconds:.3f} s{per_second}"
