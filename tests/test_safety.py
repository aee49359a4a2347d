"""Nothing from disk or network is executed or unpickled; checked on the syntax of every product file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = sorted(path for folder in ("sealr", "flows", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
    "tarfile",
}
CALLS = {
    "eval": "executes text",
    "exec": "executes text",
    "compile": "executes text",
    "__import__": "imports what text names",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "pd.read_pickle": "unpickles",
    "pandas.read_pickle": "unpickles",
    "yaml.load": "may build any object: use yaml.safe_load or a SafeLoader",
    "yaml.unsafe_load": "builds any object",
    "yaml.full_load": "builds many objects",
    "shutil.unpack_archive": "unpacks without looking",
    "torch.hub.load": "runs code of a repository",
    "zipfile.ZipFile.extractall": "unpacks without looking",
}
ZIPS = {"sealr/weights_package.py"}  # reads archives member by member, with checks (tests/test_weights.py)


def dangers(tree: ast.AST, path: str = "") -> list[str]:
    """The dangerous parts of a syntax tree, as "line: reason"."""
    found = []
    safe_loaders = {
        n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and "SafeLoader" in map(_last, n.bases)
    }
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES]
            found += [
                f"{node.lineno}: reads zips unchecked" for name in names if name == "zipfile" and path not in ZIPS
            ]
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        last = name.rpartition(".")[2]
        loader = options.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        if name in CALLS and not (
            name == "yaml.load" and loader is not None and _last(loader) in safe_loaders | {"SafeLoader"}
        ):
            found.append(f"{node.lineno}: {name} {CALLS[name]}")
        if name == "torch.load" and not _is(options.get("weights_only"), True):
            found.append(f"{node.lineno}: torch.load without weights_only=True unpickles")
        if last in ("load", "read_npy") and name.split(".")[0] in ("np", "numpy") and not _never_pickles(options):
            found.append(f"{node.lineno}: np.load with allow_pickle unpickles")
        if last in ("extractall", "extract") and path not in ZIPS | {"sealr/data/sources"}:
            found.append(f"{node.lineno}: {name} unpacks without looking")
        if "trust_remote_code" in options and not _is(options["trust_remote_code"], False):
            found.append(f"{node.lineno}: trust_remote_code runs code of a repository")
        if last == "from_pretrained" and _is(options.get("use_safetensors"), False):
            found.append(f"{node.lineno}: from_pretrained of pickled weights")
        if name.startswith("subprocess.") and not _is(options.get("shell", ast.Constant(False)), False):
            found.append(f"{node.lineno}: runs a shell")
    return found


def _never_pickles(options: dict[str | None, ast.expr]) -> bool:
    unknown = None in options  # **options may hold anything
    return _is(options.get("allow_pickle", ast.Constant(False)), False) and not unknown


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _last(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_product_file_executes_or_unpickles_what_it_reads(path):
    assert dangers(ast.parse(path.read_text()), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import tarfile",
        "import zipfile",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, **options)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.load(text)",
        "archive.extractall(folder)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
        "pd.read_pickle(path)",
    ],
)
def test_the_check_finds(code):
    assert dangers(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "ast.literal_eval(text)",
        "re.compile(text)",
        "np.load(path, allow_pickle=False)",
        "np.load(path)",
        "yaml.safe_load(text)",
        "yaml.load(text, yaml.SafeLoader)",
        "class Mine(yaml.SafeLoader): pass\nyaml.load(text, Loader=Mine)",
        "torch.load(path, weights_only=True)",
        "json.load(file)",
    ],
)
def test_the_check_lets_pass(code):
    assert dangers(ast.parse(code)) == []
