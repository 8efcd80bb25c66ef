"""Who may import whom, how long a file may be, and what must start without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sgpo", "baselines", "benchmarks")
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "transformers", "tokenizers", "safetensors")
MAX_LINES = 300
MAX_FUNCTION_LINES = 70


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(names: set[str]) -> set[str]:
    return {n for n in names if n.split(".")[0] in PACKAGES}


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_the_rules_below_see_the_files():
    modules = {module_of(p) for p in FILES}
    assert {
        "sgpo.core.trainer",
        "sgpo.method",
        "baselines.grpo",
        "benchmarks.store.stats",
    } <= modules
    assert "sgpo.core.rollout" in imports_of(ROOT / "baselines" / "grpo.py")


def test_core_imports_nothing_of_the_project_but_core():
    for path in FILES:
        if inside(module_of(path), "sgpo.core"):
            outside = {n for n in ours(imports_of(path)) if not inside(n, "sgpo.core")}
            assert outside <= {"sgpo"}, f"{path.name}: {outside}"


def test_a_baseline_imports_core_and_no_other_method():
    for path in FILES:
        if inside(module_of(path), "baselines"):
            outside = {n for n in ours(imports_of(path)) if not inside(n, "sgpo.core")}
            assert not outside, f"{path.name}: {outside}"


@pytest.mark.parametrize("name", ["method", "objective", "guidance"])
def test_the_method_files_import_core_and_each_other(name):
    allowed = ("sgpo.core", "sgpo.objective", "sgpo.guidance")
    for used in ours(imports_of(ROOT / "sgpo" / f"{name}.py")) - {"sgpo"}:
        assert any(inside(used, a) for a in allowed), used


def test_the_package_does_not_depend_on_the_benchmarks():
    """Only the command line reaches them, when a verb needs them."""
    for path in FILES:
        if inside(module_of(path), "sgpo") and path.parent.name != "commands":
            used = {n for n in imports_of(path) if n.split(".")[0] in ("benchmarks", "baselines")}
            assert not used, f"{path.name}: {used}"


def test_files_and_functions_stay_short():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= MAX_LINES, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = ast.get_docstring(node) or ""
                lines = node.end_lineno - node.lineno + 1 - len(doc.splitlines())
                assert lines <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {lines} lines"


def test_nothing_is_pickled_swallowed_or_left_undone():
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert not {"pickle", "dill", "joblib"} & imports_of(path), path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path.name}:{node.lineno}: bare except"
            if isinstance(node, ast.Attribute) and node.attr in ("load", "save"):
                value = node.value
                assert not (isinstance(value, ast.Name) and value.id == "torch"), path.name
        for word in ("TODO", "FIXME", "NotImplementedError"):
            assert word not in path.read_text(), f"{path.name}: {word}"


# What makes tables and pages must run where nothing heavy is installed.
LIGHT = [
    "stats", "loading", "estimates", "report", "claims", "pages", "html", "document", "style",
    "regrade", "tables.table1", "tables.budget", "tables.claims_table", "tables.tuning",
    "tables.regime", "tables.kin", "figures.maps", "figures.delta_classes", "figures.equal_cost",
    "figures.degraded", "figures.eq4", "figures.lines", "experiments", "figures.curves",
    "figures.fig4", "figures.scaling", "figures.bands",
]  # fmt: skip


def heavy_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after ``code``."""
    code += f"\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules], sep=',')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split(",")) - {""}


def test_statistics_and_reports_need_no_torch():
    modules = [f"benchmarks.{name}" for name in LIGHT]
    assert all((ROOT / (m.replace(".", "/") + ".py")).exists() for m in modules)
    assert heavy_after("\n".join(f"import {m}" for m in modules)) == set()


def test_the_verifier_needs_no_torch():
    assert heavy_after("import sgpo.core.verifier") == set()


def test_help_starts_without_torch():
    code = (
        "from benchmarks.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0"
    )
    assert heavy_after(code) == set()


def test_the_probe_would_notice_torch():
    assert "torch" in heavy_after("import sgpo.core.trainer")
