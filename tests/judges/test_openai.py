"""The `openai` client talks to the server: completions, chats, streams, logprobs, errors, and its own retries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homespun.language_model import LanguageModel, load
from homespun.server.limits import Limits
from tests.server.conftest import Server, starting, write_model

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.judges

KEY = "0123456789abcdef"
NO_END = {"0": -100}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path: Path = tmp_path_factory.mktemp("model") / "answers.npz"
    write_model(path, answers=True)
    return load(path, engine="numpy", threads=1)


@pytest.fixture(scope="module")
def server(model: LanguageModel) -> Iterator[Server]:
    with starting() as start:
        yield start(model, Limits(), key=KEY)


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY)


def test_it_lists_the_model(client: Any) -> None:
    [model] = client.models.list().data
    assert model.id == "small"
    assert client.models.retrieve("small").owned_by == "homespun"


def test_completions_and_their_streams_agree(client: Any) -> None:
    fields = {"model": "small", "prompt": "Once", "max_tokens": 20, "seed": 3, "n": 2}
    whole = client.completions.create(**fields, logprobs=2)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert len(whole.choices[0].logprobs.token_logprobs) <= 20
    texts = ["", ""]
    usage = None
    stream = client.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert usage == whole.usage


def test_chats_and_their_streams_agree(client: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who found the key?"},
    ]
    fields = {"model": "small", "messages": messages, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**fields, logprobs=True, top_logprobs=2)
    [choice] = whole.choices
    assert choice.message.role == "assistant"
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**fields, stream=True)
    ]
    assert "".join(pieces).strip() == choice.message.content


def test_our_own_settings_go_in_the_extra_body(client: Any) -> None:
    answer = client.completions.create(
        model="small", prompt="Once", max_tokens=3, extra_body={"top_k": 1, "min_p": 0.1}
    )
    greedy = client.completions.create(model="small", prompt="Once", max_tokens=3, temperature=0)
    assert answer.choices[0].text == greedy.choices[0].text


def test_a_stream_that_is_closed_stops_the_model(client: Any, server: Server) -> None:
    stream = client.completions.create(
        model="small", prompt="Once", max_tokens=4000, stream=True, logit_bias=NO_END
    )
    next(iter(stream))
    stream.close()
    assert any(server.is_idle for _ in range(10_000_000))


def test_errors_are_those_of_the_client(client: Any, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature is 9"):
        client.completions.create(model="small", prompt="a", temperature=9)
    with pytest.raises(openai.NotFoundError, match="this server has small"):
        client.completions.create(model="gpt-4", prompt="a")
    wrong = openai.OpenAI(base_url=str(client.base_url), api_key="wrong")
    with pytest.raises(openai.AuthenticationError, match="needs its key"):
        wrong.models.list()


def test_a_full_queue_is_an_error_that_the_client_tries_again(model: LanguageModel) -> None:
    with starting() as start:
        server = start(model, Limits(slots=1, queue=0))
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0
        )
        running = client.completions.create(
            model="small", prompt="a", max_tokens=4000, stream=True, logit_bias=NO_END
        )
        next(iter(running))
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="small", prompt="b")
        assert int(refused.value.response.headers["retry-after"]) >= 1
        running.close()
        patient = client.with_options(max_retries=5)
        assert patient.completions.create(model="small", prompt="b", max_tokens=1).choices
