"""`/v1/completions` gives what the model writes, in OpenAI's form, whole and in pieces alike."""

import json
from typing import Any

import numpy as np
import pytest

from homespun.config import SamplingConfig
from homespun.generation.batching import log_softmax
from homespun.language_model import LanguageModel
from tests.server.conftest import Server

NO_END = {"0": -100}
"""A bias with which a text never ends by itself."""


def alone(model: LanguageModel, prompt: str | None, **settings: Any) -> Any:
    config = SamplingConfig(**{"min_p": 0.0, "temperature": 1.0} | settings)
    return model.session.generate(prompt, config, 1)[0]


def joined(events: list[Any], index: int = 0) -> dict[str, Any]:
    """The choice whose pieces these events hold."""
    pieces = [c for e in events for c in e["choices"] if c["index"] == index]
    whole: dict[str, Any] = {"text": "".join(piece["text"] for piece in pieces)}
    whole["finish_reason"] = pieces[-1]["finish_reason"]
    assert all(piece["finish_reason"] is None for piece in pieces[:-1])
    logprobs = [piece["logprobs"] for piece in pieces if piece["logprobs"]]
    whole["logprobs"] = {
        name: [value for one in logprobs for value in one[name]] for name in (logprobs or [{}])[0]
    }
    return whole


def test_a_greedy_text_is_that_of_the_model(server: Server, model: LanguageModel) -> None:
    answer = server.complete("Once upon", temperature=0, max_tokens=20)
    expected = alone(model, "Once upon", temperature=0, max_tokens=20)
    assert answer.status == 200
    assert answer.json["choices"] == [
        {
            "index": 0,
            "text": expected.text,
            "logprobs": None,
            "finish_reason": "length" if expected.finish == "length" else "stop",
        }
    ]
    n_prompt = len(model.session.prompt_ids("Once upon"))
    n_written = len(expected.token_ids)
    assert answer.json["usage"] == {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_written,
        "total_tokens": n_prompt + n_written,
    }
    assert answer.json["object"] == "text_completion"
    assert answer.json["model"] == "small"


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_whole_in_pieces(server: Server, seed: int) -> None:
    fields = {"seed": seed, "max_tokens": 30, "n": 3, "stop": ["a", "the"], "logprobs": 2}
    whole = server.complete("Once", **fields)
    stream = server.complete("Once", **fields, stream=True, stream_options={"include_usage": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    *events, last = stream.events
    assert last["choices"] == []
    assert last["usage"] == whole.json["usage"]
    assert all(event["usage"] is None for event in events)
    assert len({event["id"] for event in stream.events}) == 1
    for index, choice in enumerate(whole.json["choices"]):
        assert joined(events, index) == {name: choice[name] for name in choice if name != "index"}


def test_without_the_option_a_stream_has_no_usage(server: Server) -> None:
    assert all("usage" not in event for event in server.complete(stream=True).events)


def test_a_seed_gives_the_text_that_the_command_line_gives(
    server: Server, model: LanguageModel
) -> None:
    for seed in range(3):
        answer = server.complete("A day", seed=seed, max_tokens=12)
        expected = alone(model, "A day", seed=seed, max_tokens=12)
        assert answer.json["choices"][0]["text"] == expected.text
    config = SamplingConfig(min_p=0.0, temperature=1.0, seed=5, max_tokens=12)
    several = server.complete("A day", seed=5, n=4, max_tokens=12).json["choices"]
    samples = model.session.generate("A day", config, 4)
    assert [choice["text"] for choice in several] == [sample.text for sample in samples]
    assert len({choice["text"] for choice in several}) == 4


def test_without_a_seed_texts_differ(server: Server) -> None:
    texts = {server.complete(max_tokens=12).json["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == 3


def test_settings_reach_the_sampler(server: Server, model: LanguageModel) -> None:
    settings = {
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 9,
        "min_p": 0.05,
        "repetition_penalty": 1.3,
        "seed": 1,
        "max_tokens": 25,
    }
    answer = server.complete("Once", **settings)
    assert answer.json["choices"][0]["text"] == alone(model, "Once", **settings).text


def test_a_stop_string_is_not_in_the_text(server: Server, model: LanguageModel) -> None:
    full = server.complete("Once", temperature=0, max_tokens=30, logit_bias=NO_END).json
    text = full["choices"][0]["text"]
    stop = text[7:9]
    for given in (stop, [stop, "never"]):
        cut = server.complete(
            "Once", temperature=0, max_tokens=30, stop=given, logit_bias=NO_END, logprobs=0
        ).json
        [choice] = cut["choices"]
        assert choice["text"] == text[: text.find(stop)]
        assert choice["finish_reason"] == "stop"
        offsets = choice["logprobs"]["text_offset"]
        assert max(offsets) < len(choice["text"])
        assert cut["usage"]["completion_tokens"] >= len(offsets)


def test_prompts_may_be_several_texts_or_tokens(server: Server, model: LanguageModel) -> None:
    texts = ["Once", "A day", "The red"]
    settings = {"temperature": 0, "max_tokens": 6}
    several = server.complete(texts, **settings, n=2).json
    assert [choice["index"] for choice in several["choices"]] == list(range(6))
    for index, choice in enumerate(several["choices"]):
        assert choice["text"] == alone(model, texts[index // 2], **settings).text
    ids = [model.session.prompt_ids(text) for text in texts]
    as_ids = server.complete(ids, **settings, n=2).json
    assert [c["text"] for c in as_ids["choices"]] == [c["text"] for c in several["choices"]]
    one = server.complete(ids[0], **settings).json
    assert one["choices"][0]["text"] == several["choices"][0]["text"]
    assert one["usage"]["prompt_tokens"] == len(ids[0])


@pytest.mark.parametrize("prompt", ["", None, [""]])
def test_without_a_prompt_the_model_begins(
    server: Server, model: LanguageModel, prompt: Any
) -> None:
    answer = server.complete(prompt, temperature=0, max_tokens=5)
    assert answer.json["choices"][0]["text"] == alone(model, None, temperature=0, max_tokens=5).text


def test_a_text_may_grow_past_the_context(server: Server, model: LanguageModel) -> None:
    answer = server.complete("Once", seed=3, max_tokens=150, logit_bias=NO_END)
    assert answer.json["usage"]["completion_tokens"] == 150


def test_an_echo_repeats_the_prompt(server: Server) -> None:
    settings = {"temperature": 0, "max_tokens": 5}
    plain = server.complete("Once upon", **settings).json["choices"][0]["text"]
    for stream in (False, True):
        answer = server.complete("Once upon", echo=True, stream=stream, **settings)
        text = joined(answer.events)["text"] if stream else answer.json["choices"][0]["text"]
        assert text == "Once upon" + plain


@pytest.mark.parametrize("as_tokens", [False, True])
def test_an_echo_with_logprobs_scores_the_prompt(
    server: Server, model: LanguageModel, as_tokens: bool
) -> None:
    ids = model.session.prompt_ids("Once upon")
    prompt = ids[1:] if as_tokens else "Once upon"
    answer = server.complete(prompt, echo=True, logprobs=3, max_tokens=0)
    [choice] = answer.json["choices"]
    assert choice["text"] == "Once upon"
    assert choice["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] == 0
    found = choice["logprobs"]
    read = ids[1:] if as_tokens else ids
    logits = model(np.array(read))
    expected = [
        float(log_softmax(row)[token]) for row, token in zip(logits, read[1:], strict=False)
    ]
    expected = [None, *expected] if as_tokens else expected
    assert found["token_logprobs"] == [
        e if e is None else pytest.approx(e, abs=1e-5) for e in expected
    ]
    assert "".join(found["tokens"]) == "Once upon"
    assert found["text_offset"][0] == 0
    both = server.complete(prompt, echo=True, logprobs=3, max_tokens=4, temperature=0)
    tokens = both.json["choices"][0]["logprobs"]
    n = len(expected)
    assert tokens["token_logprobs"][:n] == found["token_logprobs"]
    assert tokens["text_offset"][n] == len("Once upon")
    streamed = server.complete(
        prompt, echo=True, logprobs=3, max_tokens=4, temperature=0, stream=True
    )
    assert joined(streamed.events)["logprobs"] == tokens


def test_logprobs_are_those_of_the_model_itself(server: Server, model: LanguageModel) -> None:
    answer = server.complete("Once", temperature=0, max_tokens=6, logprobs=4, logit_bias=NO_END)
    logprobs = answer.json["choices"][0]["logprobs"]
    ids = model.session.prompt_ids("Once")
    for token_logprob, top in zip(
        logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        expected = log_softmax(model(np.array(ids))[-1])
        token = int(np.argmax(np.where(np.arange(len(expected)) == 0, -np.inf, expected)))
        assert token_logprob == pytest.approx(expected[token], abs=1e-4)
        assert len(top) in (4, 5)
        assert max(top.values()) == pytest.approx(expected.max(), abs=1e-4)
        ids.append(token)


def test_a_bias_chooses_tokens(server: Server, model: LanguageModel) -> None:
    [letter] = model.tokenizer.encode("Z")
    answer = server.complete("Once", temperature=0, max_tokens=5, logit_bias={str(letter): 100})
    assert answer.json["choices"][0]["text"] == "ZZZZZ"


def test_only_the_loaded_model_answers(server: Server) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        other = server.ask(path, {"model": "gpt-4", "prompt": "a", "messages": []})
        assert other.status == 404
        assert other.json["error"]["code"] == "model_not_found"
        assert server.ask(path, {"prompt": "a"}).status == 400
    assert server.ask("/v1/models/other").status == 404
    [listed] = server.ask("/v1/models").json["data"]
    assert listed["id"] == "small"
    assert server.ask("/v1/models/small").json == listed


def test_an_unknown_field_is_refused_and_null_is_no_value(server: Server) -> None:
    assert "unknown field 'tempreature'" in server.complete(tempreature=1).message
    assert server.complete(suffix=None, best_of=None, user=None, max_tokens=1).status == 200
    assert server.complete(user="me", presence_penalty=0, frequency_penalty=0.0).status == 200
    assert server.complete(presence_penalty=1).status == 400
    assert server.complete(suffix="x").status == 400


def test_health_and_metrics_count(model: LanguageModel, start: Any) -> None:
    server = start(model)
    assert server.ask("/health").json == {"status": "ok", "running": 0, "waiting": 0}
    written = server.complete(max_tokens=7, logit_bias=NO_END).json["usage"]
    server.ask("/v1/completions", b"{")
    server.ask("/etc/passwd")
    text = server.ask("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert values['homespun_requests_total{route="/v1/completions",status="200"}'] == "1"
    assert values['homespun_requests_total{route="/v1/completions",status="400"}'] == "1"
    assert values['homespun_requests_total{route="other",status="404"}'] == "1"
    assert values["homespun_tokens_written_total"] == "7"
    assert values["homespun_prompt_tokens_total"] == str(written["prompt_tokens"])
    assert values["homespun_first_token_seconds_count"] == "1"
    assert (
        values['homespun_request_seconds_bucket{le="+Inf"}']
        == values["homespun_request_seconds_count"]
    )
    assert "passwd" not in text


def test_a_long_count_is_exact(model: LanguageModel, start: Any) -> None:
    server = start(model)
    server.service.batcher.tokens_written = 12_345_678
    assert "homespun_tokens_written_total 12345678\n" in server.ask("/metrics").body.decode()


def test_errors_have_the_form_that_clients_know(server: Server) -> None:
    for answer in (
        server.ask("/nothing"),
        server.ask("/v1/completions"),
        server.ask("/v1/completions", b"[]"),
        server.complete(n=0),
    ):
        assert answer.json.keys() == {"error"}
        assert answer.json["error"].keys() == {"message", "type", "param", "code"}
        assert json.dumps(answer.json).count("\\n") == 0
