"""The project's files agree with each other."""

import importlib
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def conda():
    return yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_lock_holds_one_version_of_every_dependency_within_its_range():
    pins = {p.name.lower(): p for p in map(Requirement, next(d["pip"] for d in conda() if isinstance(d, dict)))}
    extras = project()["optional-dependencies"]
    wanted = [Requirement(r) for r in project()["dependencies"] + extras["fast"] + extras["train"]]
    wanted = [r for r in wanted if r.name != "sealr"]
    assert {r.name.lower() for r in wanted} == set(pins)
    for requirement in wanted:
        (version,) = [s.version for s in pins[requirement.name.lower()].specifier if s.operator == "=="]
        assert requirement.specifier.contains(version), (
            f"conda.yaml has {requirement.name} {version}, outside of {requirement}"
        )


def test_dependencies_are_ranges_and_the_lock_is_exact():
    assert not [r for r in project()["dependencies"] if "==" in r]
    assert all("==" in p for d in conda() if isinstance(d, dict) for p in d["pip"])


def test_python_starts_at_311():
    assert project()["requires-python"] == ">=3.11"
    assert "python=3.11" in conda()


def test_every_folder_of_code_is_packaged():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("sealr/**/__init__.py")}
    assert folders | {"sealr.flows", "sealr.configs", "sealr.expectations"} == set(setuptools["packages"])


def test_every_entry_point_is_a_command_and_uses_its_parameters():
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert {"main", "finetune", "ingest", "label", "retrieve", "evaluate"} <= set(entries)
    for name, entry in entries.items():
        assert entry["command"].startswith("python -m sealr "), name
        assert all(f"{{{parameter}}}" in entry["command"] for parameter in entry["parameters"]), name


def test_every_deployment_names_a_flow_and_its_parameters():
    for deployment in yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())["deployments"]:
        module, _, function = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), function)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
        assert bool(deployment["schedules"]) == (function == "refresh"), deployment["name"]
        assert deployment["concurrency_limit"]["limit"] == 1 and deployment["tags"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_loads(path):
    from sealr.config import load_config

    data, base = (
        ("demo", path.stem) if "rerank:" in path.read_text() and "data:" not in path.read_text() else (path.stem, "")
    )
    assert load_config(data, base).data.name


def test_the_readme_fits_one_reading():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= 700
