"""prefect.yaml and `sealr deployments` describe the same deployments."""

from importlib.metadata import version
from pathlib import Path

import yaml
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.flows import load_flow_from_entrypoint

from sealr import flows
from sealr.flows.deployments import FILE, deployments

ENTRIES = {e["name"]: e for e in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]}


def test_the_same_deployments_as_prefect_yaml():
    found = {d.name: d for d in deployments()}
    assert found.keys() == ENTRIES.keys() and {"nightly", "ingest", "label", "retrieve", "finetune"} <= found.keys()
    for name, one in found.items():
        assert one.parameters == ENTRIES[name]["parameters"] and one.tags == ENTRIES[name]["tags"]
        assert one.entrypoint == ENTRIES[name]["entrypoint"]
        assert one.concurrency_limit == 1
        assert one.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE
        assert load_flow_from_entrypoint(one.entrypoint).name == one.flow_name  # as a worker loads it
    assert [n for n, d in found.items() if d.schedules] == ["nightly"]
    (schedule,) = found["nightly"].schedules
    assert schedule.schedule.cron == "0 3 * * *" and schedule.schedule.timezone == "UTC" and schedule.active


def test_a_site_gives_its_own_data_and_hour():
    found = {
        d.name: d for d in deployments(data="my-shop.yaml", overrides="registry.drift.hold=true", cron="30 4 * * *")
    }
    assert found["nightly"].schedules[0].schedule.cron == "30 4 * * *"
    assert found["nightly"].parameters == {
        "data": "my-shop.yaml",
        "base": "smollm2-135m",
        "overrides": "registry.drift.hold=true",
    }
    assert not found["ingest"].schedules


def test_the_form_for_a_run_offers_what_is_packaged_and_takes_files():
    for one in deployments():
        flow = load_flow_from_entrypoint(one.entrypoint)
        shape = flow.parameters.properties
        if "base" not in shape:  # a comparison names data sets of its own
            continue
        for name, known, other in (("data", "amazon-beauty", "smollm2-135m"), ("base", "smollm2-135m", "demo")):
            packaged, free = shape[name]["anyOf"]
            assert known in packaged["enum"] and other not in packaged["enum"] and "enum" not in free
            assert shape[name]["default"] in packaged["enum"]
        given = {"data": "my-shop.yaml", "base": "llama2-7b"}
        assert given.items() <= flow.validate_parameters(given).items()


def test_workers_get_the_environment_of_a_job_by_hand():
    """A worker imports Prefect before a flow, so prefect.yaml holds what `set_defaults` sets for a job by hand."""
    by_hand = flows.defaults()
    for entry in ENTRIES.values():
        env = entry["work_pool"]["job_variables"]["env"]
        assert env and env == {name: by_hand[name] for name in env}
        assert {"PREFECT_LOGGING_EXTRA_LOGGERS", "OMP_WAIT_POLICY"} <= env.keys()


def test_the_package_sets_no_environment_when_it_is_imported():
    import subprocess
    import sys

    code = "import os; before = dict(os.environ); import sealr.flows; print(before == dict(os.environ))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_a_temporary_server_has_a_folder_for_each_version_of_prefect():
    """An older Prefect cannot open a database that a newer one has migrated."""
    assert Path(flows.defaults()["PREFECT_HOME"]).name == f"prefect-{version('prefect')}"
