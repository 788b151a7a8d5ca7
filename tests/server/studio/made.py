"""Models that were never trained, in a folder: a run with checkpoints, a mixture, one that writes a given text, and two
that answer."""

import dataclasses
from pathlib import Path

import numpy as np

from homespun.architectures.families import initial_weights, parameters
from homespun.checkpoint.archive import write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.config import ModelConfig
from homespun.engine.base import Floats
from homespun.model_formats.stored_model import CHAT_TEMPLATE
from homespun.stories import stories
from homespun.tokenizer import ChatTemplate, Tokenizer, train

EVIL = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
HELLO = "Hello"
"""The message that one model answers with `EVIL`."""
STEPS = (10, 20, 30)
VOCABULARY = 400
SMALL = ModelConfig(
    architecture="qwen3",
    vocab_size=VOCABULARY,
    seq_len=64,
    n_layers=2,
    d_model=32,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    d_ff=64,
)
MIXTURE = dataclasses.replace(
    SMALL, architecture="qwen3_moe", experts=4, experts_per_token=2, d_expert=32
)


def tokenizer() -> Tokenizer:
    return train(stories(200, seed=1), VOCABULARY)


def header(model: ModelConfig, words: Tokenizer) -> dict[str, object]:
    described = {"tokenizer": words.to_json(), "tokenizer_sha256": words.sha256}
    return {"model": dataclasses.asdict(model)} | described


def writes(
    text: str, words: Tokenizer, after: int = 1, *, ends: bool = True
) -> tuple[ModelConfig, dict[str, Floats]]:
    """A model that writes this text after so many tokens, whatever they are: each position names the token that
    follows it. One that does not end goes on past its context."""
    following = [*[words.eot_id] * (after - 1), *words.encode(text), *[words.eot_id] * ends]
    width = len(following) + ends
    model = ModelConfig(
        architecture="gpt2",
        vocab_size=VOCABULARY,
        seq_len=width,
        n_layers=1,
        d_model=width,
        n_heads=1,
        n_kv_heads=1,
        head_dim=width,
        d_ff=4 * width,
        tie_embeddings=False,
    )
    weights = {p.name: np.zeros(p.shape, np.float32) for p in parameters(model)}
    weights["transformer.ln_f.weight"] += 1
    weights["transformer.wpe.weight"] += np.eye(width, dtype=np.float32)
    weights["lm_head.weight"][following, np.arange(len(following))] = 10
    return model, weights


def write_work(folder: Path) -> Path:
    """The folder of work."""
    words = tokenizer()
    run = CheckpointFolder(folder / "checkpoints")
    run.path.mkdir(parents=True)
    for step in STEPS:
        weights = list(initial_weights(SMALL, seed=step))
        run.save(step, weights, [], header(SMALL, words), {})
    run.save_best(STEPS[1], initial_weights(SMALL, seed=STEPS[1]), header(SMALL, words))
    template = ChatTemplate(words)
    answers = {CHAT_TEMPLATE: template.stored()}
    [story] = stories(1, seed=2)
    n_asked = len(template.prompt([{"role": "user", "content": HELLO}]))
    for name, more, model, weights in (
        ("mixture", {}, MIXTURE, dict(initial_weights(MIXTURE, seed=1))),
        ("evil", {}, *writes(EVIL, words)),
        ("answers", answers, *writes(story, words, ends=False)),
        ("evil-answers", answers, *writes(EVIL, words, n_asked)),
    ):
        (folder / name).mkdir()
        described = header(model, words) | more
        write_archive(folder / name / "best.npz", weights.items(), described, step=7)
    return folder
