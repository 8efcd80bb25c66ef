"""The house as one table: which room may import which, and what must start without torch."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sgpo", "baselines", "benchmarks")
HEAVY = ("torch", "transformers", "tokenizers", "safetensors", "datasets")
MAX_FUNCTION_LINES = 70

# Room -> the rooms that its files may import, from the ground up. A room is the longest prefix of
# a module's name that stands here; an arrow goes down only, so no two rooms can want each other.
CORE = ("sgpo.core.verifier", "sgpo.core")
METHODS = ("sgpo", "baselines", "sgpo.mini", "sgpo.strategies")
GROUND = (*CORE, *METHODS, "benchmarks.config")
ROOMS = {
    "sgpo.core.verifier": (),
    "sgpo.core": ("sgpo.core.verifier",),
    "sgpo": CORE,
    "sgpo.strategies": CORE,
    "baselines": ("sgpo.core",),
    "sgpo.mini": ("sgpo", *CORE),
    "benchmarks.config": (*CORE, *METHODS),
    "benchmarks.store": (*CORE, "benchmarks.config"),
    "benchmarks.data": (*GROUND, "benchmarks.store"),
    "benchmarks.profiles": (*GROUND, "benchmarks.store", "benchmarks.data"),
    "benchmarks.report": (*CORE, "benchmarks.store"),
    "benchmarks.analyses": (*GROUND, "benchmarks.store", "benchmarks.data"),
    "benchmarks.plan": (*GROUND, "benchmarks.store", "benchmarks.data", "benchmarks.profiles"),
}
BELOW_RUN = tuple(room for room in ROOMS if room.startswith("benchmarks."))
ROOMS["benchmarks.run"] = (*CORE, *METHODS, *BELOW_RUN)
for top in ("benchmarks.perf", "benchmarks.reliability"):
    ROOMS[top] = (*CORE, *METHODS, *BELOW_RUN, "benchmarks.run")
ROOMS["benchmarks.cli"] = tuple(ROOMS)
ROOMS["benchmarks"] = ()
MOST_CHILDREN = {"benchmarks": 12, "sgpo/core": 22}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}


def room_of(module: str) -> str:
    return max((r for r in ROOMS if f"{module}.".startswith(f"{r}.")), key=len)


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports anywhere, inside functions too."""
    names = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in inner}
    return names


@cache
def arrows() -> dict[str, set[str]]:
    """Module -> those of ours that it imports."""
    return {module: imports_of(path) & set(FILES) for module, path in FILES.items()}


def test_the_rules_below_see_the_files():
    assert {"sgpo.core.trainer", "sgpo.method", "baselines.grpo", "benchmarks.store.stats"} <= set(
        FILES
    )
    assert "sgpo.core.scoring" in arrows()["baselines.grpo"]
    assert room_of("sgpo.core.verifier.pool") == "sgpo.core.verifier"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room):
    wrong = [
        f"{module} -> {used}"
        for module, imported in arrows().items()
        if room_of(module) == room
        for used in imported
        if room_of(used) not in (room, *ROOMS[room])
    ]
    assert not wrong, wrong


def test_no_two_rooms_may_want_each_other():
    list(TopologicalSorter(ROOMS).static_order())  # raises CycleError


def test_no_two_files_import_each_other():
    list(TopologicalSorter(arrows()).static_order())  # raises CycleError


def test_a_baseline_imports_no_other_method():
    methods = {m for m in FILES if room_of(m) == "baselines"} | {"sgpo.method", "sgpo.objective"}
    for module in methods - {"sgpo.method"}:
        assert not arrows()[module] & methods, module


@pytest.mark.parametrize("folder", MOST_CHILDREN)
def test_a_room_fits_on_a_screen(folder):
    children = [
        p for p in (ROOT / folder).iterdir() if p.name not in ("__pycache__", "__init__.py")
    ]
    assert len(children) <= MOST_CHILDREN[folder], sorted(p.name for p in children)


def test_every_package_says_who_may_use_it():
    for module, path in FILES.items():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), module


def test_every_table_of_the_verifier_is_installed_with_it():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = ROOT / "sgpo" / "core" / "verifier"
    tables = {p.name for p in folder.iterdir() if p.suffix in (".toml", ".txt")}
    assert tables == set(listed["package-data"]["sgpo.core.verifier"])


def test_functions_fit_on_a_screen():
    for module, path in FILES.items():
        for node in nodes_of(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f"{module}: {node.name} has {lines} lines"


def test_nothing_is_pickled_swallowed_or_left_undone():
    for module, path in FILES.items():
        assert not {"pickle", "dill", "joblib"} & imports_of(path), module
        for node in nodes_of(path):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{module}:{node.lineno}: bare except"
            if isinstance(node, ast.Attribute) and node.attr in ("load", "save"):
                value = node.value
                assert not (isinstance(value, ast.Name) and value.id == "torch"), module
        for word in ("TODO", "FIXME", "NotImplementedError"):
            assert word not in path.read_text(), f"{module}: {word}"


FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "marshal.loads", "yaml.load", "pickle.loads",
    "torch.load", "np.load", "shelve.open", "sympy.sympify", "sympify", "parse_expr",
}  # fmt: skip


def test_nothing_is_evaluated_trusted_or_unpickled_and_no_shell_is_started():
    """What a checkpoint, a data file or a model's answer holds is data; weights are safetensors."""
    weights = 0
    for module, path in FILES.items():
        for call in (node for node in nodes_of(path) if isinstance(node, ast.Call)):
            name, where = ast.unparse(call.func), f"{module}:{call.lineno}"
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            owner, _, method = name.rpartition(".")
            # a GGUF file is a plain format, read without pickle
            if method == "from_pretrained" and "Model" in owner and "gguf_file" not in given:
                assert given.get("use_safetensors") == "True", where
                weights += 1
            assert name not in FORBIDDEN, where
            for keyword in ("trust_remote_code", "shell", "allow_pickle"):
                assert given.get(keyword, "False") == "False", where
    assert weights >= 2


def heavy_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after ``code``."""
    code += f"\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules], sep=',')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split(",")) - {""}


def test_statistics_reports_and_the_verifier_need_no_torch():
    light = ("benchmarks.report", "benchmarks.store", "sgpo.core.verifier")
    modules = [m for m in FILES if room_of(m) in light]
    modules += ["benchmarks.data.sources", "sgpo.mini.sets"]  # `sgpo compare` shows problems
    assert heavy_after("\n".join(f"import {m}" for m in modules)) == set()


LIGHT_VERBS = (
    ["--help"],
    ["status", "--out", "results/mini"],
    *(["list", what] for what in ("methods", "models", "benchmarks", "profiles")),
    ["list", "methods", "--profile", "paper"],
    ["list", "settings", "sdpo"],
    ["config", "sgpo", "--profile", "paper"],
    ["diff-configs", "sgpo", "opsd"],
)


def test_help_lists_and_the_state_of_a_study_start_without_torch():
    code = f"""
from benchmarks.cli import main
for words in {LIGHT_VERBS}:
    try:
        assert main(words) == 0, words
    except SystemExit as end:
        assert end.code == 0, words
"""
    assert heavy_after(code) == set()


def test_the_probe_would_notice_a_heavy_package():
    assert heavy_after("import safetensors") == {"safetensors"}
