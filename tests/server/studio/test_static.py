"""The files of the page: small, complete, with licences, and without a word to any other machine."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from starlette.testclient import TestClient

from homespun.server.studio.app import STATIC, studio_app
from tests.browsing import PATIENCE
from tests.server.studio.asking import ask
from tests.server.studio.pages import TOKEN

ROOT = Path(__file__).parents[3]
MOST_BYTES = 300_000
OWN = [file for file in STATIC.iterdir() if file.suffix in (".js", ".css", ".html")]


def test_the_page_is_small() -> None:
    assert sum(file.stat().st_size for file in STATIC.rglob("*")) < MOST_BYTES


def test_the_page_is_in_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["homespun"]
    package = ROOT / "homespun"
    packed = {file for pattern in patterns for file in package.glob(pattern)}
    assert {file for file in STATIC.rglob("*") if file.is_file()} <= packed


def test_every_library_has_its_licence() -> None:
    libraries = {file.stem for file in (STATIC / "vendor").glob("*.js")}
    assert libraries == {"preact", "hooks", "htm", "uplot"}
    for name in libraries - {"hooks"}:  # hooks are a part of Preact
        text = (STATIC / "vendor" / f"LICENSE-{name}").read_text(encoding="utf-8")
        assert "MIT" in text or "Apache License" in text


def test_modules_import_only_what_is_there() -> None:
    for file in [*OWN, *(STATIC / "vendor").glob("*.js")]:
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r'\bfrom ?"([^"]+)"', text):
            assert name.startswith("./"), f"{file.name} imports {name}"
            assert (file.parent / name).is_file(), f"{file.name} imports {name}"


def test_the_page_writes_text_as_text_and_asks_nobody_else() -> None:
    for file in OWN:
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"(?i)innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text
        )
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text.replace('xmlns="http://www', "")), (
            file
        )


def test_the_guard_stands_before_everything(address: str) -> None:
    import http.client
    from urllib.parse import urlsplit

    for path in ("/", "/static/app.js", "/api/studio", "/nothing"):
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 401, path
        assert json.loads(answer.read())["error"]["message"]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        connection.close()
    assert ask(address, "/nothing")[0] == 404


def test_every_route_needs_the_token(work: Path) -> None:
    app = studio_app(work, TOKEN)
    client = TestClient(app, base_url="http://127.0.0.1")
    routes = app._app.routes  # type: ignore[attr-defined]
    assert len(routes) > 20
    for route in routes:
        for method in getattr(route, "methods", None) or ("GET",):
            body = b"{}" if method == "POST" else None
            assert client.request(method, route.path, content=body).status_code == 401, route.path


def test_help_needs_no_server_and_its_lack_is_one_line(tmp_path: Path) -> None:
    script = (
        "import sys\nfor name in ('starlette', 'uvicorn'): sys.modules[name] = None\n"
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name: None if name in ('starlette', 'uvicorn') else find(name)\n"
        "from homespun.cli.main import main\n"
        "assert main(['studio', '--help']) == 0\nsys.exit(main(['studio', '--no-browser']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: homespun studio needs starlette: pip install 'homespun[studio]'"
    ]
