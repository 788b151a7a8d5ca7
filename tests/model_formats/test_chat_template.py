"""A template goes with its model through every format, and other programs turn messages into the same ids."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from homespun.config import ReaderConfig
from homespun.language_model import load_stored
from homespun.model_formats import gguf
from homespun.model_formats.formats import EXPORTS, open_model
from homespun.model_formats.stored_model import StoredModel
from homespun.tokenizer import ChatTemplate, Message, Tokenizer
from homespun.tokenizer.messages import ASSISTANT, USER
from tests.model_formats.conftest import WHOLE, small_config, small_model, small_tokenizer
from tests.model_formats.test_formats import written
from tests.tokenizer import kinds
from tests.tokenizer.test_chat_template import CHATML, LLAMA2, LLAMA3

QUESTION: list[Message] = [{"role": USER, "content": "Who has the ball?"}]
TALK = [*QUESTION, {"role": ASSISTANT, "content": "Anna."}, {"role": USER, "content": "Where?"}]
NAMES = ["own", "smollm2", "llama3", "llama2"]


def with_template(name: str) -> StoredModel:
    """A model that was trained here, or one with the tokenizer and the template of others."""
    if name == "own":
        model = small_model(small_config("llama"))
        return dataclasses.replace(model, chat_template=ChatTemplate(small_tokenizer()).stored())
    tokenizer = Tokenizer.from_json(kinds.as_json(name))
    config = dataclasses.replace(small_config("llama"), vocab_size=tokenizer.vocab_size + 3)
    source, bos, eos = {
        "smollm2": (CHATML, "<|im_start|>", "<|im_end|>"),
        "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
        "llama2": (LLAMA2, "<s>", "</s>"),
    }[name]
    stored = {"source": source, "bos_token": bos, "eos_token": eos}
    model = small_model(config, tokenizer)
    return dataclasses.replace(model, chat_template=stored, step=0, header={})


@pytest.mark.parametrize("to", WHOLE)
@pytest.mark.parametrize("name", NAMES)
def test_a_template_comes_back(name: str, to: str, tmp_path: Path) -> None:
    model = with_template(name)
    back = open_model(written(model, tmp_path, to))
    assert back.chat_template == model.chat_template
    assert back.tokenizer.eot_id == model.tokenizer.eot_id
    expected, found = model.template(), back.template()
    assert expected is not None
    assert found is not None
    assert found.prompt(TALK) == expected.prompt(TALK)
    assert found.end_id == expected.end_id


@pytest.mark.parametrize("to", ["huggingface", "mlx"])
@pytest.mark.parametrize("name", NAMES)
def test_transformers_asks_and_stops_as_we_do(name: str, to: str, tmp_path: Path) -> None:
    model = with_template(name)
    path = written(model, tmp_path, to)
    theirs, template = AutoTokenizer.from_pretrained(path), model.template()
    assert template is not None
    found = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=True)
    assert found["input_ids"] == template.prompt(TALK)
    ends = GenerationConfig.from_pretrained(path).eos_token_id
    assert template.end_id in (ends if isinstance(ends, list) else [ends])


def test_a_model_without_a_template_has_none(tmp_path: Path) -> None:
    for to in WHOLE:
        assert (
            open_model(written(small_model(small_config("llama")), tmp_path, to)).chat_template
            is None
        )


def test_an_answer_ends_at_the_token_of_the_template(tmp_path: Path) -> None:
    """Weights that always give the token that ends a turn, which is not the one that separates documents."""
    model = with_template("smollm2")
    template = model.template()
    assert template is not None
    assert template.end_id != model.tokenizer.eot_id
    end = template.end_id

    def tensors():  # type: ignore[no-untyped-def]
        for name, values in model.tensors():
            changed = values.copy()
            if "embed_tokens" in name:
                changed[:] = 0.01 * values
                changed[:, 0] = 1.0
                changed[end, 0] = 50.0
            elif values.ndim == 2:
                changed[:] = 0
            yield name, changed

    told = load_stored(dataclasses.replace(model, tensors=tensors), ReaderConfig(engine="numpy"))
    [written_text] = told.generate_batch([template.prompt(QUESTION)], temperature=0, max_tokens=5)
    assert (written_text.finish, written_text.token_ids) == ("end", ())
    assert told.chat("Who?", temperature=0) == ""


def test_several_templates_and_other_names(tmp_path: Path) -> None:
    path = written(with_template("own"), tmp_path, "huggingface")
    config = json.loads((path / "tokenizer_config.json").read_text())
    sources = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    config |= {
        "chat_template": sources,
        "eos_token": {"content": "<|endoftext|>"},
        "bos_token": None,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    found = open_model(path).chat_template
    assert found == {"source": CHATML, "eos_token": "<|endoftext|>"}
    (path / "chat_template.jinja").write_text("newer")
    assert (open_model(path).chat_template or {})["source"] == "newer"


def test_the_modelfile_of_ollama() -> None:
    own, other = with_template("own"), with_template("llama3")
    assert 'TEMPLATE """{{ range $n, $m := .Messages }}' in gguf.modelfile(own, "m.gguf")
    assert "{{ end }}<|endoftext|>assistant\n" in gguf.modelfile(own, "m.gguf")
    assert "TEMPLATE" not in gguf.modelfile(other, "m.gguf")
    plain = small_model(small_config("llama"))
    assert 'TEMPLATE """{{ .Prompt }}"""' in gguf.modelfile(plain, "m.gguf")


def test_every_format_is_covered() -> None:
    assert set(WHOLE) == EXPORTS.keys() - {"peft"}
