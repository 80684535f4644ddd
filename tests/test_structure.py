"""Imports point one way, and importing changes nothing."""

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import implicit_adam

PACKAGE = Path(implicit_adam.__file__).parent

# Bottom to top: a module imports only from rows above its own.
LAYERS = [
    {"types", "reprs", "files"},
    {"checks"},
    {"datasets", "eigenpairs", "loops", "programs", "vectors"},
    {"objective", "sweeps", "networks"},
    {"rules"},
    {"inputs"},
    {"fields"},
    {"runs"},
    {"bias"},
    {"losses"},
    {"measures"},
    {"diagnosis"},
    {"studies", "plotting"},
    {"paper"},
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


def test_only_runs_and_what_takes_their_solvers_import_diffrax():
    users = {room(path) for path in modules() if any(m.split(".")[0] == "diffrax" for m, _ in imports(path))}
    assert users == {"runs", "measures", "diagnosis", "studies", "paper", "cli"}


def test_the_package_root_shows_the_architecture():
    """Few modules, and folders of related ones."""
    assert len(list(PACKAGE.glob("*.py"))) <= 11
    assert all(
        sum(1 for _ in folder.glob("*.py")) > 1
        for folder in PACKAGE.iterdir()
        if folder.suffix == "" and folder.name != "__pycache__"
    )


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
        "assert not {'matplotlib', 'sklearn', 'tqdm', 'chex', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_top_level_only_re_exports_and_lists_what_it_does():
    exported = []
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.FunctionDef):
            assert node.name in ("__getattr__", "__dir__")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("implicit_adam"):
            assert all(alias.asname == alias.name for alias in node.names)
            exported += [alias.name for alias in node.names]
    assert sorted(exported) == sorted(implicit_adam.__all__)


def test_tab_completion_shows_what_is_public_and_nothing_else():
    shown = {name for name in dir(implicit_adam) if not name.startswith("__")}
    assert shown == {*implicit_adam.__all__, "datasets", "networks", "plotting"}
    for name in shown:
        assert getattr(implicit_adam, name) is not None
    for module in ("modified_losses", "penalties", "problems", "plotting", "networks", "datasets", "rules"):
        room = getattr(implicit_adam, module)
        assert dir(room) == sorted(room.__all__), module
        for name in dir(room):
            assert getattr(room, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Adamm'"):
        implicit_adam.Adamm  # noqa: B018


def test_pictures_are_reached_from_the_top_without_loading_matplotlib():
    program = (
        "import sys, implicit_adam as ia\n"
        "assert 'implicit_adam.plotting' not in sys.modules\n"
        "assert ia.plotting.plot_sweep and ia.networks and ia.datasets\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_version_is_that_of_the_package():
    assert implicit_adam.__version__ == version("implicit-adam")


def test_what_the_benchmarks_import_is_there():
    for path in sorted((PACKAGE.parent / "benchmarks").glob("*.py")):
        for module, names in imports(path):
            if names and module.startswith("implicit_adam"):
                owner = importlib.import_module(module)
                assert [name for name in names if not hasattr(owner, name)] == [], (path.name, module)
