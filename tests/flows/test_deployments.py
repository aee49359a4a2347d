"""prefect.yaml and `python -m sealr.flows.serve` describe the same deployments."""

import yaml
from prefect.client.schemas.objects import ConcurrencyLimitStrategy

from sealr.flows.serve import PROJECT, deployments


def test_the_same_deployments_as_prefect_yaml():
    entries = {e["name"]: e for e in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]}
    found = {d.name: d for d in deployments()}
    assert found.keys() == entries.keys() and {"nightly", "ingest", "label", "retrieve", "finetune"} <= found.keys()
    for name, one in found.items():
        assert one.parameters == entries[name]["parameters"] and one.tags == entries[name]["tags"]
        assert one.concurrency_limit == 1 and one.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE
    assert [n for n, d in found.items() if d.schedules] == ["nightly"]
    (schedule,) = found["nightly"].schedules
    assert schedule.schedule.cron == "0 3 * * *" and schedule.schedule.timezone == "UTC" and schedule.active


def test_a_site_gives_its_own_data_and_hour():
    found = {d.name: d for d in deployments(data="my-shop.yaml", overrides="registry.drift.hold=true", cron="30 4 * * *")}
    assert found["nightly"].schedules[0].schedule.cron == "30 4 * * *"
    assert found["nightly"].parameters == {
        "data": "my-shop.yaml",
        "base": "smollm2-135m",
        "overrides": "registry.drift.hold=true",
    }
    assert not found["ingest"].schedules
