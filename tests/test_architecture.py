"""Who may import whom, and that nothing heavy is loaded before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "homespun"
MODULES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {"torch", "mlx", "transformers", "jax"}
NEVER = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}

LAYERS = [
    ("homespun.errors", set()),
    ("homespun.durable", set()),
    ("homespun.terminal", set()),
    ("homespun.config", {"errors"}),
    ("homespun.toml_file", {"errors"}),
    ("homespun.arguments", {"config", "errors", "terminal"}),
    ("homespun.workspace", {"errors", "durable"}),
    ("homespun.model", {"config", "errors"}),
    ("homespun.checkpoint", {"config", "errors", "durable"}),
    ("homespun.monitoring", {"config", "errors", "durable", "terminal"}),
    ("homespun.stories", set()),
    ("homespun.tokenizer", {"errors", "durable"}),
    (
        "homespun.data",
        {"config", "errors", "durable", "workspace", "terminal", "tokenizer", "stories"},
    ),
    (
        "homespun.verify",
        {"errors", "durable", "checkpoint", "data", "monitoring", "tokenizer"},
    ),
    ("homespun.engine", {"config", "errors", "model"}),
    (
        "homespun.doctor",
        {
            "config",
            "terminal",
            "model",
            "engine.base",
            "engine.main_memory",
            "engine.memory",
            "engine.numpy_engine",
            "engine.numpy_optimizer",
            "engine.select",
        },
    ),
    ("homespun.generation", {"config", "errors", "terminal", "engine.base", "tokenizer"}),
    (
        "homespun.training",
        {
            "config",
            "errors",
            "workspace",
            "terminal",
            "model",
            "data",
            "tokenizer",
            "checkpoint",
            "monitoring",
            "engine.base",
            "engine.main_memory",
            "engine.memory",
            "engine.select",
            "generation",
        },
    ),
]


def imports(path: Path) -> set[str]:
    """Everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(("owner", "allowed"), LAYERS, ids=[owner for owner, _ in LAYERS])
def test_a_part_imports_only_what_it_may(owner: str, allowed: set[str]) -> None:
    inside = [
        path for path in MODULES if name_of(path) == owner or name_of(path).startswith(owner + ".")
    ]
    assert inside
    for path in inside:
        for imported in imports(path):
            if imported.startswith("homespun.") and not (imported + ".").startswith(owner + "."):
                part = imported.removeprefix("homespun.")
                assert any(
                    (part + ".").startswith(one + ".") or one.startswith(part + ".")
                    for one in allowed
                ), f"{path.name} imports {imported}"


def test_only_engines_know_a_framework_and_only_select_knows_engines() -> None:
    for path in MODULES:
        name = name_of(path)
        found = imports(path)
        if not name.startswith(("homespun.engine.torch_engine", "homespun.engine.mlx_engine")):
            assert not {one.split(".")[0] for one in found} & FRAMEWORKS, path
            if name != "homespun.engine.select":
                assert not any("torch_engine" in one or "mlx_engine" in one for one in found), path


def test_nothing_can_execute_what_it_reads() -> None:
    for path in MODULES:
        assert not {one.split(".")[0] for one in imports(path)} & NEVER, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "yaml.load"}, (
                    f"{path}:{node.lineno}"
                )
                for keyword in node.keywords:
                    if keyword.arg in {"allow_pickle", "trust_remote_code", "shell"}:
                        assert ast.unparse(keyword.value) == "False", f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "statement",
    [
        "import homespun",
        "from homespun.cli import main; main(['models'])",
        "from homespun.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from homespun.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
        "import homespun.data.download, homespun.data.train_tokenizer, homespun.data.prepare",
        "import homespun.checkpoint.folder, homespun.generation.generate",
        "import homespun.training.loop, homespun.api",
    ],
)
def test_engine_free_work_loads_no_framework(statement: str) -> None:
    heavy = FRAMEWORKS | {"matplotlib", "pyarrow", "huggingface_hub"}
    script = f"import sys\n{statement}\nfound = set(sys.modules) & {heavy!r}\nsys.exit(', '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
