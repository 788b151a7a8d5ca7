"""A model in training and its prompts flow in; sample texts come out."""

from collections.abc import Iterator

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.generation.session import Session
from homespun.training.run import Run

SAMPLE_TOKENS = 50


def sample_texts(run: Run) -> Iterator[tuple[str, str | UserError]]:
    """Each prompt with its continuation, or with the reason why there is none. The seed is that of the run each time,
    so that texts from different steps can be compared."""
    sampling = SamplingConfig(max_tokens=SAMPLE_TOKENS, seed=run.config.seed)
    for prompt in run.config.sample_prompts:
        try:
            session = Session(run.engine.decoder, run.tokenizer, run.model.seq_len)
            [written] = session.generate(prompt, sampling)
        except UserError as error:
            yield prompt, error
        else:
            yield prompt, written.text
