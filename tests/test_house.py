"""The house rules that a machine can check: layers, circles, sizes, and what may be imported where."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"sealr": ROOT / "sealr", "sealr.flows": ROOT / "flows"}
# From the ground up: a module imports from its own layer or from layers before it
LAYERS = [
    ("sealr", "sealr.resources", "sealr.redact", "sealr.progress", "sealr.settings", "sealr.config"),
    ("sealr.data",),
    ("sealr.weights", "sealr.weights_package", "sealr.tracking", "sealr.tracked", "sealr.study"),
    ("sealr.trainer",),
    ("sealr.emotion",),
    ("sealr.content",),
    ("sealr.evaluate",),
    ("sealr.satisfaction",),
    ("sealr.retrieve",),
    ("sealr.rerank",),
    ("sealr.serving",),
    ("sealr.registry",),
    ("sealr.pipeline",),
    ("sealr.report",),
    ("sealr.flows",),
    ("sealr.export",),
    ("sealr.api",),
    ("sealr.explore",),
    ("sealr.cli", "sealr.commands", "sealr.doctor", "sealr.__main__"),
]
FREE = ("sealr.configs", "sealr.expectations")  # folders of files


def modules():
    """Name -> path of every module of the package."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


MODULES = modules()


def layer(name):
    place = [
        i
        for i, names in enumerate(LAYERS)
        if any(name == n or (n != "sealr" and name.startswith(n + ".")) for n in names)
    ]
    return place[0] if place else None


def imports(name, lazy=True):
    """Modules of the package that a module imports; with ``lazy`` also within functions; not for type checking."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    hidden = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and "TYPE_CHECKING" in ast.unparse(node.test)
        or (not lazy and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in MODULES else node.module for a in node.names
            }
    return {f for f in found if f in MODULES and f != name}


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name):
    """sealr/__init__.py offers `fit` and `load` by name and loads them on first use: it is the one way up."""
    if name == "sealr":
        assert not imports(name, lazy=False)
        return
    assert layer(name) is not None, f"{name} has no layer: add it to LAYERS"
    above = [other for other in imports(name) if other not in FREE and layer(other) > layer(name)]
    assert not above, f"{name} imports from a layer above: {above}"


def test_there_are_no_circles():
    done, trail = set(), []

    def visit(name):
        assert name not in trail, f"circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name in done:
            return
        trail.append(name)
        for other in sorted(imports(name) - {"sealr"}):
            visit(other)
        trail.pop()
        done.add(name)

    for name in sorted(set(MODULES) - {"sealr"}):
        visit(name)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_reads_in_one_sitting(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("sealr.flows")])
def test_only_flows_know_prefect(name):
    if name.startswith(("sealr.cli", "sealr.commands", "sealr.doctor")):
        return  # commands start flows and doctor asks the Prefect server
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert not [n for n in names if n.split(".")[0] in ("prefect", "argparse")]


def test_every_import_is_declared():
    """Each top-level library that the package imports is a dependency, or belongs to an extra."""
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    specs = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    declared = {re.split(r"[\[<>=!~ ]", s)[0].lower().replace("-", "_") for s in specs}
    names = {"yaml": "pyyaml", "faiss": "faiss_cpu", "py4j": "pyspark", "huggingface_hub": "huggingface_hub"}
    used = set()
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            used |= {f.split(".")[0] for f in found}
    used -= set(sys.stdlib_module_names) | {"sealr", "__future__"}
    missing = {u for u in used if names.get(u, u) not in declared}
    assert not missing, f"imported but not declared in pyproject.toml: {sorted(missing)}"


PAGES = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*.md"))]


@pytest.mark.parametrize("path", [*MODULES.values(), *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_fit(path):
    """Tables, pictures and commands of pages cannot be wrapped."""
    fenced, long = False, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= path.suffix == ".md" and line.startswith("```")
        if len(line) > 120 and not fenced and not line.lstrip().startswith(("|", "![")):
            long.append(number)
    assert not long, f"{path}: lines over 120 characters: {long}"


def test_files_of_tests_have_their_own_names():
    """pytest imports them without their folders, so the second of a name is not run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
