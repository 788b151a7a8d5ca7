"""Rules of the package: allowed imports between parts, framework code, names of model families, and lazy imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homespun.architectures.families import FAMILIES

PACKAGE = Path(__file__).parent.parent / "homespun"
MODULES = sorted(PACKAGE.rglob("*.py"))
ENGINES = ("homespun.engine.torch", "homespun.engine.mlx")
FRAMEWORKS = {"torch", "mlx", "transformers", "jax"}
NEVER = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}

LAYERS = {
    # 1: only the standard library and the listed parts
    "errors": set(),
    "bfloat16": set(),
    "durable": {"errors"},
    "terminal": set(),
    "child_process": set(),
    "named_array": set(),
    "config": {"errors"},
    "workspace": {"errors", "durable"},
    # 2: file formats; NumPy and format libraries allowed
    "architectures": {"config", "errors"},
    "tokenizer": {"errors", "durable"},
    "stories": set(),
    "data": {
        "config",
        "errors",
        "child_process",
        "durable",
        "workspace",
        "terminal",
        "tokenizer",
        "stories",
    },
    "checkpoint": {"config", "errors", "bfloat16", "durable", "named_array", "terminal"},
    "records": {"config", "errors", "durable", "terminal"},
    # 3: computation behind one interface, and its cost
    "engine": {
        "config",
        "errors",
        "durable",
        "named_array",
        "bfloat16",
        "child_process",
        "terminal",
        "architectures",
        "data.batch",
    },
    "planning": {
        "config",
        "errors",
        "terminal",
        "architectures",
        "engine.base",
        "engine.low_memory",
        "engine.launcher",
        "engine.muon",
        "engine.probe",
        "engine.select",
        "engine.traits",
    },
    # 4: work with a model
    "generation": {
        "config",
        "errors",
        "durable",
        "terminal",
        "engine.base",
        "tokenizer",
        "data.batch",
    },
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
        "engine.low_memory",
        "engine.probe",
        "engine.select",
        "planning",
        "generation",
        "model_formats",
        "evaluation.scoring",
        "stories",
    },
    "model_formats": {
        "config",
        "errors",
        "bfloat16",
        "durable",
        "named_array",
        "architectures",
        "tokenizer",
        "checkpoint",
    },
    "language_model": {
        "config",
        "errors",
        "terminal",
        "tokenizer",
        "architectures",
        "model_formats",
        "data.batch",
        "checkpoint",
        "engine.base",
        "engine.inside",
        "engine.select",
        "generation",
    },
    "evaluation": {
        "config",
        "errors",
        "workspace",
        "terminal",
        "data",
        "tokenizer",
        "checkpoint.origin",
        "records.events",
        "engine.base",
        "model_formats",
        "language_model",
        "stories",
    },
    "exporting": {
        "config",
        "errors",
        "durable",
        "terminal",
        "data.batch",
        "model_formats",
        "language_model",
    },
    "forecast": {
        "config",
        "errors",
        "workspace",
        "terminal",
        "architectures",
        "data",
        "tokenizer",
        "engine.base",
        "engine.decoding_probe",
        "engine.hardware",
        "engine.probe",
        "engine.select",
        "model_formats",
        "planning",
        "training",
    },
    "preparing": {
        "config",
        "errors",
        "durable",
        "workspace",
        "terminal",
        "data",
        "tokenizer",
        "engine.hardware",
        "training.text_stage",
    },
    "reporting": {
        "config",
        "errors",
        "durable",
        "terminal",
        "architectures",
        "data",
        "checkpoint",
        "records",
        "engine.base",
        "planning.resolved",
        "training.diagnostics",
        "training.checkpointing.position",
    },
    "steps": {
        "config",
        "errors",
        "terminal",
        "architectures",
        "data",
        "tokenizer",
        "checkpoint",
        "engine.base",
        "engine.select",
        "language_model",
        "model_formats",
        "planning",
        "training.fine_tuning.initial_model",
        "training.schedule",
        "training.stages",
    },
    # 5: work with many runs
    "tuning": {
        "config",
        "errors",
        "child_process",
        "durable",
        "workspace",
        "terminal",
        "architectures.presets",
        "data",
        "tokenizer",
        "checkpoint.folder",
        "checkpoint.names",
        "records",
        "engine.base",
        "engine.hardware",
        "engine.select",
        "model_formats.stored_model",
        "planning",
        "training",
        "forecast",
    },
    # 6: programs and people that ask over HTTP
    "server": {
        "config",
        "errors",
        "durable",
        "child_process",
        "terminal",
        "architectures",
        "checkpoint",
        "records",
        "planning.resolved",
        "reporting",
        "tuning.reading",
        "tokenizer",
        "stories",
        "engine.base",
        "engine.inside",
        "generation",
        "model_formats",
        "language_model",
    },
    "bench": {
        "config",
        "errors",
        "durable",
        "terminal",
        "architectures",
        "engine.base",
        "engine.decoding_probe",
        "engine.hardware",
        "engine.probe",
        "engine.select",
        "planning.estimate",
    },
    "importing": {"config", "errors", "terminal", "data", "checkpoint", "model_formats"},
    "verify": {"errors", "durable", "terminal", "checkpoint", "data", "records", "tokenizer"},
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
"""For each part of the package, the parts that it may import."""
MAY_IMPORT_ALL = {"__init__", "__main__", "api", "cli"}
"""The public functions and the commands."""


def imports(path: Path) -> set[str]:
    """All modules that a module imports, at its top level and in functions."""
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


def test_every_part_has_a_layer() -> None:
    parts = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in MODULES}
    assert parts - MAY_IMPORT_ALL == LAYERS.keys()


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


def imported_when_loaded(path: Path) -> set[str]:
    """The modules of the package that a module imports at its top level, outside functions."""
    modules = {name_of(other) for other in MODULES}
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    found = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found & modules


def a_cycle(arrows: dict[str, set[str]]) -> list[str]:
    """The nodes of one cycle, in order; empty if there is none."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in finished:
            for following in sorted(arrows.get(node, ())):
                if found := visit(following, [*path, node]):
                    return found
            finished.add(node)
        return []

    return next((found for node in sorted(arrows) if (found := visit(node, []))), [])


def part_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_cycle_of_imports() -> None:
    modules = {name_of(path): imported_when_loaded(path) for path in MODULES}
    assert not a_cycle(modules)
    parts: dict[str, set[str]] = {}
    for module, imported in modules.items():
        others = set(map(part_of, imported)) - {part_of(module)}
        parts.setdefault(part_of(module), set()).update(others)
    assert not a_cycle(parts)


def test_a_cycle_is_found() -> None:
    assert a_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert a_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def families_named_in(code: str) -> Iterator[str]:
    """Each string or identifier in the code that names a model family, with its line. Comments are ignored.

    A string names a family if it equals the name, or if it is part of an f-string and contains the name.
    """
    any_name = "|".join(FAMILIES)
    equals = re.compile(any_name)
    contains = re.compile(rf"(?<![a-z0-9])({any_name})(?![a-z0-9])", re.IGNORECASE)
    for node in ast.walk(ast.parse(code)):
        found: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [node.value] if equals.fullmatch(node.value) else []
        elif isinstance(node, ast.JoinedStr):
            pieces = [piece.value for piece in node.values if isinstance(piece, ast.Constant)]
            found = [piece for piece in pieces if contains.search(piece)]
        else:
            names = (
                getattr(node, field, None) for field in ("id", "attr", "arg", "name", "module")
            )
            found = [name for name in names if isinstance(name, str) and contains.search(name)]
        for text in found:
            yield f"line {getattr(node, 'lineno', '?')}: {text}"


NAMES_OF_TOKENIZERS = {"homespun.model_formats.gguf_tokenizer"}
"""Modules in which such a name means a kind of tokenizer."""
KNOWS_FAMILIES = re.compile(r"homespun\.(architectures|engine\.\w+\.models)(\.|$)")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_architectures_and_model_files_name_a_family(path: Path) -> None:
    if not KNOWS_FAMILIES.match(name_of(path)) and name_of(path) not in NAMES_OF_TOKENIZERS:
        assert not list(families_named_in(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "c.architecture == 'gpt2'",
        "names = {'qwen3': 1}",
        "self.gpt2 = True",
        "def _qwen3_block(): pass",
        "from homespun.engine.torch.models import llama",
        "import homespun.architectures.llama",
        "model = Qwen3()",
        "def f(llama=None): pass",
        "f'no {x} in gpt2'",
    ],
)
def test_code_that_names_a_family_is_found(code: str) -> None:
    assert list(families_named_in(code))


@pytest.mark.parametrize("code", ['"""About gpt2."""', "x = 'gpt2-small'  # a size of gpt2"])
def test_prose_and_sizes_may_name_a_family(code: str) -> None:
    assert not list(families_named_in(code))


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
        "from homespun.cli.main import main\ntry: main(['tune', '--help'])\nexcept SystemExit: pass",
        "import homespun.data.download, homespun.data.train_tokenizer, homespun.data.prepare",
        "import homespun.checkpoint.folder, homespun.generation.session",
        "import homespun.training.train, homespun.api",
        "import homespun.reporting.report, homespun.reporting.doctor",
        "import homespun.server.studio.app",
        "import homespun.server.serve",
    ],
)
def test_engine_free_work_loads_no_framework(statement: str) -> None:
    heavy = FRAMEWORKS | {"matplotlib", "optuna", "scipy", "pyarrow", "huggingface_hub"}
    script = f"import sys\n{statement}\nfound = set(sys.modules) & {heavy!r}\nsys.exit(', '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
