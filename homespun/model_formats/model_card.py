"""A stored model flows in, the README of its folder flows out: data, training and losses, as far as they are known."""

from typing import Any

from homespun.architectures.families import count_active_parameters, count_parameters
from homespun.model_formats.stored_model import StoredModel


def model_card(model: StoredModel, precision: str) -> str:
    """The text of a model card, in Markdown with a YAML header. The licence is left to the author of the model."""
    c, header = model.config, model.header
    layers = f"{c.n_layers} layer{'' if c.n_layers == 1 else 's'}"
    heads = f"{c.n_heads} head{'' if c.n_heads == 1 else 's'}"
    facts = {
        "Family": f"{c.architecture}, {layers}, width {c.d_model}, {heads}",
        "Parameters": f"{count_parameters(c):,}",
        **_experts(model),
        "Context": f"{c.seq_len:,} tokens",
        "Vocabulary": f"{c.vocab_size:,} tokens",
        "Number format": precision,
        **_training(model),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    text = header.get("data_file")
    source = f"It was trained on `{text}`." if isinstance(text, str) else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- homespun
# license: name the licence of this model
---

# A language model

This model was written by homespun. {source}

| | |
| --- | --- |
{rows}

## Use

```python
from transformers import pipeline

write = pipeline("text-generation", model="PATH OF THIS FOLDER")
print(write("Once upon a time", max_new_tokens=200)[0]["generated_text"])
```

## Limits

The model continues text like the text that it was trained on. It knows nothing else, and can be wrong.
"""


def _experts(model: StoredModel) -> dict[str, Any]:
    c = model.config
    if not c.experts:
        return {}
    return {
        "Experts": f"{c.experts} of width {c.d_expert}, of which a token uses {c.experts_per_token}",
        "Parameters that a token uses": f"{count_active_parameters(c):,}",
    }


def _training(model: StoredModel) -> dict[str, Any]:
    resolved, loss = model.header.get("resolved"), model.header.get("val_loss")
    facts: dict[str, Any] = {}
    if model.step:
        facts["Training steps"] = f"{model.step:,}"
    if isinstance(resolved, dict):
        facts["Optimizer"] = resolved.get("optimizer")
        facts["Learning rate"] = resolved.get("learning_rate")
        if resolved.get("memory") == "low":
            facts["Weights in training"] = "bfloat16 with stochastic rounding"
    if isinstance(loss, float):
        facts["Validation loss"] = f"{loss:.4f} nats per token"
    sha256 = model.header.get("data_sha256")
    if isinstance(sha256, str):
        facts["SHA-256 of the text"] = f"`{sha256}`"
    return {name: value for name, value in facts.items() if value is not None}
