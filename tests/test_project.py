"""The project's files agree with each other."""

import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def conda():
    return yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]


def test_pyproject_has_the_pins_of_conda_yaml():
    pins = next(d["pip"] for d in conda() if isinstance(d, dict))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(pins) == sorted(project["dependencies"])
    assert all("==" in pin for pin in pins + sum(project["optional-dependencies"].values(), []))


def test_pyproject_has_the_python_of_conda_yaml():
    assert "python=3.11" in conda()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].startswith(">=3.11,")


def test_every_entry_point_names_a_module_and_uses_its_parameters():
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert {"main", "finetune", "ingest", "label", "retrieve", "evaluate"} <= set(entries)
    for name, entry in entries.items():
        module = entry["command"].split()[2]
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), name
        assert all(f"{{{parameter}}}" in entry["command"] for parameter in entry["parameters"]), name


def test_every_deployment_names_a_flow_and_its_parameters():
    import importlib

    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        file, function = deployment["entrypoint"].split(":")
        flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), function)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
        assert bool(deployment["schedules"]) == (function == "refresh"), deployment["name"]
        assert deployment["concurrency_limit"]["limit"] == 1 and deployment["tags"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_loads(path):
    from sealr.config import load_config

    data, base = ("demo", path.stem) if "rerank:" in path.read_text() and "data:" not in path.read_text() else (path.stem, "")
    assert load_config(data, base).data.name


def test_imports_run_downwards_only():
    """data <- emotion <- retrieve <- rerank <- registry; evaluate.metrics and protocols are pure and free for all."""
    import ast

    floors = ["data", "emotion", "retrieve", "rerank", "registry"]
    for floor in floors:
        for path in (ROOT / "sealr" / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                for name in names:
                    assert not name.startswith(("prefect", "flows")), f"{path}: {name}"
                    if name.startswith("mlflow"):
                        assert floor == "registry", f"{path}: {name}"
                    part = name.split(".")[1] if name.startswith("sealr.") else ""
                    if part in floors:
                        assert floors.index(part) <= floors.index(floor), f"{path} imports {name} from a floor above"
