"""Who may import whom, and that nothing heavy is loaded before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "homespun"
MODULES = sorted(PACKAGE.rglob("*.py"))
ENGINES = ("homespun.engine.torch", "homespun.engine.mlx")
FRAMEWORKS = {"torch", "mlx", "transformers", "jax"}
NEVER = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}

LAYERS = {
    # 1: the standard library, and each other where listed
    "errors": set(),
    "durable": set(),
    "terminal": set(),
    "named_array": set(),
    "config": {"errors"},
    "workspace": {"errors", "durable"},
    # 2: formats, NumPy and their libraries
    "architectures": {"config", "errors"},
    "tokenizer": {"errors", "durable"},
    "stories": set(),
    "data": {"config", "errors", "durable", "workspace", "terminal", "tokenizer", "stories"},
    "checkpoint": {"config", "errors", "durable", "named_array", "terminal"},
    "records": {"config", "errors", "durable", "terminal"},
    # 3: what computes, behind one seam; what it costs
    "engine": {"config", "errors", "named_array", "architectures", "data.batch"},
    "planning": {"config", "errors", "terminal", "architectures", "engine.base", "engine.select"},
    # 4: work with a model
    "generation": {"config", "errors", "terminal", "engine.base", "tokenizer", "data.batch"},
    "training": {
        "config",
        "errors",
        "named_array",
        "workspace",
        "terminal",
        "architectures",
        "data",
        "tokenizer",
        "checkpoint",
        "records",
        "engine.base",
        "engine.hardware",
        "engine.select",
        "planning",
        "generation",
    },
    "stored_model": {"config", "errors", "architectures", "tokenizer", "checkpoint"},
    "language_model": {
        "config",
        "errors",
        "terminal",
        "stored_model",
        "data.batch",
        "checkpoint",
        "engine.base",
        "engine.select",
        "generation",
    },
    "verify": {"errors", "durable", "checkpoint", "data", "records", "tokenizer"},
    "doctor": {
        "config",
        "terminal",
        "architectures",
        "data.batch",
        "engine.base",
        "engine.hardware",
        "engine.numpy",
        "engine.select",
        "planning.estimate",
    },
}
"""For each part of the package the parts that it may import; the public functions and commands may import all."""


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


@pytest.mark.parametrize("part", LAYERS)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    owner, allowed = f"homespun.{part}", LAYERS[part]
    inside = [
        path for path in MODULES if name_of(path) == owner or name_of(path).startswith(owner + ".")
    ]
    assert inside
    for path in inside:
        for imported in imports(path):
            if imported.startswith("homespun.") and not (imported + ".").startswith(owner + "."):
                other = imported.removeprefix("homespun.")
                assert any(
                    (other + ".").startswith(one + ".") or one.startswith(other + ".")
                    for one in allowed
                ), f"{path.name} imports {imported}"


def test_only_engines_know_a_framework_and_only_select_knows_engines() -> None:
    for path in MODULES:
        name = name_of(path)
        found = imports(path)
        if not name.startswith(("homespun.engine.torch", "homespun.engine.mlx")):
            assert not {one.split(".")[0] for one in found} & FRAMEWORKS, path
            if name != "homespun.engine.select":
                assert not any(one.startswith(ENGINES) for one in found), path


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
        "from homespun.cli.main import main; main(['models'])",
        "from homespun.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from homespun.cli.main import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
        "import homespun.data.download, homespun.data.train_tokenizer, homespun.data.prepare",
        "import homespun.checkpoint.folder, homespun.generation.session",
        "import homespun.training.train, homespun.api",
    ],
)
def test_engine_free_work_loads_no_framework(statement: str) -> None:
    heavy = FRAMEWORKS | {"matplotlib", "pyarrow", "huggingface_hub"}
    script = f"import sys\n{statement}\nfound = set(sys.modules) & {heavy!r}\nsys.exit(', '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
