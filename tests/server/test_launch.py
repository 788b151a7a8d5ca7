"""Where a server listens, and how it starts and stops."""

import importlib.util
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from homespun.cli.main import main
from homespun.errors import UserError
from homespun.server import launch
from homespun.server.serve import read_key, served_name


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_another_address_without_a_key_refuses_to_start(host: str) -> None:
    with pytest.raises(UserError, match="a key is needed: name a file"):
        launch.bind(host, 0, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_this_machine_needs_no_key(host: str) -> None:
    with launch.bind(host, 0, None) as listening:
        assert launch.address(listening).startswith("http://127.0.0.")


def test_with_a_key_any_address_will_do() -> None:
    with launch.bind("0.0.0.0", 0, "k" * 16) as listening:
        assert listening.getsockname()[0] == "0.0.0.0"


def test_a_port_that_is_taken_gives_one_line(model_file: Path, capsys: Any) -> None:
    with launch.bind("127.0.0.1", 0, None) as listening:
        port = listening.getsockname()[1]
        assert main(["serve", str(model_file), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"port {port} is in use: choose another one with --port" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "256.1.1.1", "--key-file", "key"], "there is no address 256.1.1.1"),
        (["--host", "192.0.2.1", "--key-file", "key"], "is not an address of this machine"),
        (["--port", "70000"], "--port is 70000"),
        (["--key-file", "missing"], "missing cannot be read"),
        (["--key-file", "short"], "short holds no key"),
        (["nothing.npz", "--port", "0"], "nothing.npz"),
        (["--host", "0.0.0.0"], "a key is needed"),
    ],
)
def test_bad_settings_give_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key").write_text("k" * 16 + "\n")
    Path("short").write_text("short")
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: Any, capsys: Any) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name)
    )
    assert main(["serve"]) == 2
    assert "homespun serve needs uvicorn: pip install 'homespun[studio]'" in capsys.readouterr().err


def test_a_key_is_a_line_of_letters_and_digits(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("0123456789abcdef\n")
    assert read_key(file) == "0123456789abcdef"
    for bad in ("", "short", "0123456789 abcdef", "0123456789\nabcdefgh", "ä" * 20):
        file.write_text(bad)
        with pytest.raises(UserError, match="holds no key"):
            read_key(file)
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match="holds no key"):
        read_key(file)


def test_a_model_has_the_name_of_its_file_or_folder(tmp_path: Path, monkeypatch: Any) -> None:
    assert served_name("some/where/small.npz") == "small"
    assert served_name("SmolLM2-1.7B/") == "SmolLM2-1.7B"
    assert served_name(None) == "checkpoints"
    assert served_name("run\udce9") == "run\\udce9"
    monkeypatch.chdir(tmp_path)
    assert served_name(".") == tmp_path.name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_also_in_mid_stream(
    number: signal.Signals, model_file: Path
) -> None:
    command = [sys.executable, "-m", "homespun", "serve", str(model_file), "--port", "0"]
    command += ["--engine", "numpy"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout
    lines = []
    try:
        while not lines or not lines[-1].startswith("Ctrl-C"):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        [address] = [line.split()[1] for line in lines if line.startswith("address")]
        body = (
            b'{"model": "small", "prompt": "a", "stream": true, "max_tokens": 4000, '
            b'"logit_bias": {"0": -100}}'
        )
        with urllib.request.urlopen(f"{address}/completions", body) as stream:
            assert stream.readline().startswith(b"data: ")
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    assert "Traceback" not in output
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address.split(":")[2].split("/")[0])))
