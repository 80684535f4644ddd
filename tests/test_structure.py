"""Imports point one way, and importing changes nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import implicit_adam

PACKAGE = Path(implicit_adam.__file__).parent

# Bottom to top: a module imports only from rows above its own.
LAYERS = [
    {"types", "reprs"},
    {"atomic", "checks"},
    {"captured"},
    {"datasets", "products", "sweeps"},
    {"accumulated_loss", "networks", "objective", "rules"},
    {"training", "trajectory", "slopes"},
    {"fields", "iterate"},
    {"smooth"},
    {"flow", "memoryless", "decomposition", "with_bias", "observables", "modified_losses", "regimes"},
    {"convergence", "penalties", "problems", "sharpness"},
    {"observed"},
    {"experiments"},
    {"plotting"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    for module, _ in imports(path):
        if module.startswith("implicit_adam."):
            target = module.split(".")[1]
            assert target == room(path) or LEVEL[target] < LEVEL[room(path)], module


def test_only_flow_and_what_takes_its_solvers_import_diffrax():
    users = {room(path) for path in modules() if any(m.split(".")[0] == "diffrax" for m, _ in imports(path))}
    assert users == {"smooth", "flow", "convergence", "experiments", "cli"}


def test_only_the_command_line_prints():
    for path in modules():
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = any(isinstance(call, ast.Name) and call.id == "print" for call in calls)
        assert not prints or room(path) == "cli", path


def test_importing_switches_nothing_and_loads_no_optional_package():
    program = (
        "import jax, warnings; before = dict(jax.config.values)\n"
        "import implicit_adam, sys\n"
        "assert dict(jax.config.values) == before\n"
        "assert not {'matplotlib', 'sklearn', 'tqdm', 'chex', 'matfree', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_top_level_only_re_exports():
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        assert isinstance(node, ast.ImportFrom | ast.Expr)
        if isinstance(node, ast.ImportFrom):
            assert all(alias.asname == alias.name for alias in node.names)
