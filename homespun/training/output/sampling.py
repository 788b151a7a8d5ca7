"""A model in training and a prompt flow in; a sample text comes out."""

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.generation.session import Session
from homespun.tokenizer.messages import USER
from homespun.training.run import Run

SAMPLE_TOKENS = 50


def sample_text(run: Run, prompt: str) -> str | UserError:
    """The continuation of a prompt, or the reason why there is none; in a run of conversations the answer to it, on a
    line of its own. The seed is that of the run each time, so that texts from different steps can be compared."""
    sampling = SamplingConfig(max_tokens=SAMPLE_TOKENS, seed=run.config.seed)
    ends = [run.chat.end_id] if run.chat else []
    try:
        session = Session(run.engine.decoder, run.tokenizer, run.model.seq_len, ends)
        asked = run.chat.prompt([{"role": USER, "content": prompt}]) if run.chat else prompt
        [written] = session.generate(asked, sampling)
    except UserError as error:
        return error
    return f"\n{written.text.lstrip()}" if run.chat else written.text
