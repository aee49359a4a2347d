"""The image, the servers beside it and the page about both, as far as they can be checked without a builder."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from sealr import __version__
from sealr.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "conda.yaml").read_text(encoding="utf-8")


def steps() -> list[tuple[str, str, str]]:
    """(stage, instruction, rest) of the Dockerfile; continued lines are joined."""
    lines = (line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line[:1] != "#")
    found, stage = [], ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            stage = rest.split(" AS ")[1]
        found.append((stage, instruction, rest.strip()))
    return found


STEPS = steps()
STAGES = ("jobs", "serving")


def of(stage: str, instruction: str) -> list[str]:
    return [rest for s, i, rest in STEPS if s == stage and i == instruction]


def command_of(words: list[str]) -> None:
    """Raises where a command line of `sealr` has an unknown command or option, or a value of the wrong kind."""
    group = typer.main.get_command(app)
    name, *rest = words
    with group.make_context("sealr", [name, *rest], resilient_parsing=True) as context:
        found = group.get_command(context, name)
        assert found is not None, name
        found.make_context(name, rest, parent=context)


def test_what_is_copied_exists_and_reaches_the_builder():
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for rest in of("base", "COPY"):
        *sources, _ = rest.split()
        for source in sources:
            assert (ROOT / source).exists() and source in kept, source
    copied = {word for rest in of("base", "COPY") for word in rest.split()[:-1]}
    assert set(kept) == copied  # nothing else reaches the builder: no data, no state, no credentials
    assert {"sealr", "flows", "configs", "expectations", PROJECT["readme"], *PROJECT["license-files"]} <= copied


@pytest.mark.parametrize("stage", STAGES)
def test_extras_exist_and_every_version_is_locked(stage):
    (install,) = [rest for rest in of(stage, "RUN") if rest.startswith("pip install")]
    words = shlex.split(install)
    assert words[:4] == ["pip", "install", "--constraint", "/opt/constraints.txt"] and len(words) == 5
    extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[4])[1]
    assert {e for e in (extras or "").split(",") if e} <= set(PROJECT["optional-dependencies"])


def test_constraints_are_the_lock(tmp_path):
    """The build's own command, on the real lock."""
    (made,) = [rest for rest in of("base", "RUN") if "constraints" in rest]
    line = made.replace("/opt/constraints.txt", str(tmp_path / "constraints.txt"))
    subprocess.run(["bash", "-euc", line], cwd=ROOT, check=True)
    made = (tmp_path / "constraints.txt").read_text().splitlines()
    pins = next(d["pip"] for d in yaml.safe_load(LOCK)["dependencies"] if isinstance(d, dict))
    assert made == [re.sub(r"\[.*\]", "", pin) for pin in pins]


def test_images_are_pinned_and_named_without_a_host():
    tags = [rest.split("=")[1] for s, i, rest in STEPS if i == "ARG" and rest.startswith("PYTHON=")]
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += [rest.split()[0].replace("${PYTHON}", tags[0]) for _, i, rest in STEPS if i == "FROM"]
    outside = [image for image in images if image.split(":")[0] not in ("base", "sealr", "sealr-jobs")]
    assert {image.split(":")[0] for image in outside} == {"python", "postgres"}
    for image in outside:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-[a-z-]+", image), image
    assert {image for image in images if image.startswith("sealr")} == {
        f"sealr:{__version__}",
        f"sealr-jobs:{__version__}",
    }
    assert f'version="{__version__}"' in of("base", "LABEL")[0]


def test_no_index_is_named():
    for name in ("Dockerfile", "compose.yaml", "docs/containers.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        hosts = set(re.findall(r"https?://([\w.-]+)", text))
        assert hosts <= {"127.0.0.1", "localhost", "mlflow", "prefect", "mlflow.example.org", "cpu-wheels.example.org"}
    assert all(rest == 'PIP_EXTRA_INDEX_URL=""' for _, i, rest in STEPS if i == "ARG" and "INDEX" in rest)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_runs_as_root(stage):
    order = [(i, rest) for s, i, rest in STEPS if s == stage]
    assert ("USER", "10001:10001") in order
    after = order[order.index(("USER", "10001:10001")) :]
    assert not [rest for i, rest in after if i == "USER" and not rest.startswith("10001")]
    weights = [rest for i, rest in after if i == "RUN"]
    assert len(weights) == 1 and "sealr weights" in weights[0]  # and so they are the user's


@pytest.mark.parametrize("stage", STAGES)
def test_commands_of_images_are_commands(stage):
    (words,) = map(json.loads, of(stage, "CMD"))
    assert words[0] == "sealr"
    command_of(words[1:])


def test_health_asks_the_port_that_is_served():
    (words,) = map(json.loads, of("serving", "CMD"))
    (port,) = of("serving", "EXPOSE")
    assert words[words.index("--port") + 1] == port
    (health,) = of("serving", "HEALTHCHECK")
    _, python, flag, code = (json.loads(health.partition("CMD ")[2])[i] for i in (0, 0, 1, 2))
    assert (python, flag) == ("python", "-c") and f"127.0.0.1:{port}/ready" in code


def test_the_health_check_works(tmp_path):
    """Its code against a server that is ready, one that is not, and none."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status[0] if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    _, _, code = json.loads(of("serving", "HEALTHCHECK")[0].partition("CMD ")[2])
    code = code.replace("5001", str(server.server_port))

    def code_of():
        return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode

    assert code_of() == 0
    status[0] = 503
    assert code_of() == 1
    server.shutdown()
    server.server_close()
    assert code_of() == 1


def test_services_agree_with_each_other():
    services = COMPOSE["services"]
    assert services.keys() == {"postgres", "mlflow", "prefect", "server", "deployments"}
    ports = {}
    for name, service in services.items():
        for port in service.get("ports", []):
            host, outer, inner = port.split(":")
            assert host == "127.0.0.1" and outer == inner  # no service has accounts
            ports[name] = inner
        assert set(service.get("depends_on", {})) <= services.keys()
        for other in service.get("depends_on", {}):
            assert "healthcheck" in services[other] or other == "server"
        named = [volume.split(":")[0] for volume in service.get("volumes", [])]
        assert set(named) <= COMPOSE["volumes"].keys()
        if "build" in service:
            assert service["build"]["target"] in STAGES
    assert ports == {"mlflow": "5000", "prefect": "4200", "server": "5001"}
    for name in ("server", "deployments"):
        assert services[name]["environment"]["MLFLOW_TRACKING_URI"] == f"http://mlflow:{ports['mlflow']}"
    assert services["deployments"]["environment"]["PREFECT_API_URL"] == f"http://prefect:{ports['prefect']}/api"
    assert services["deployments"]["profiles"] == ["jobs"]
    command_of(services["deployments"]["command"][1:3] + ["demo"])
    for name in ("mlflow", "prefect"):
        words = services[name]["command"]
        assert words[words.index("--port") + 1] == ports[name] and f":{ports[name]}/" in str(
            services[name]["healthcheck"]
        )
        assert f"{name}" in words[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_options_of_other_servers_exist(name):
    words = COMPOSE["services"][name]["command"]
    flags = [word for word in words if word.startswith("--")]
    before = words[: words.index(flags[0])]
    program = str(Path(sys.executable).with_name(before[0]))
    shown = subprocess.run([program, *before[1:], "--help"], capture_output=True, text=True).stdout
    assert flags and not [flag for flag in flags if flag not in shown]


def test_kubernetes_excerpt_agrees_with_the_image():
    (text,) = re.findall(r"```yaml\n(apiVersion: apps/v1.*?)```", PAGE, re.DOTALL)
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (port,) = of("serving", "EXPOSE")
    assert container["image"] == f"sealr:{__version__}" and container["ports"] == [{"containerPort": int(port)}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": int(port)}
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert pod["securityContext"]["runAsUser"] == 10001 and pod["securityContext"]["runAsNonRoot"]
    command_of(container["args"][1:])
    timeout = 60
    assert pod["terminationGracePeriodSeconds"] > timeout
    assert {e["name"] for e in container["env"]} == {"MLFLOW_TRACKING_URI"}


def test_the_page_names_every_service_and_option():
    for name in (*COMPOSE["services"], "PIP_EXTRA_INDEX_URL", "WEIGHTS", "POSTGRES_PASSWORD", "SEALR_WEBHOOK"):
        assert name in PAGE, name
