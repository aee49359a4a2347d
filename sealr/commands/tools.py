"""Commands around the jobs: configurations, checks, deployments, and tidying up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sealr.commands.options import NOTHING, Base, Data, Set, use_tracking

app = typer.Typer()
config_app = typer.Typer(help="Show or check a configuration.", epilog="Example: sealr config show --data my-shop.yaml")
app.add_typer(config_app, name="config")


@config_app.command(epilog="Example: sealr config show --data my-shop.yaml --set 'retrieve.epochs=20' --changed")
def show(
    data: Data = "demo",
    base: Base = "smollm2-135m",
    settings: Set = NOTHING,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
) -> None:
    """Print the resolved configuration as YAML; --data reads it again."""
    import yaml

    from sealr.config import load_config, to_dict
    from sealr.settings import Config, DataConfig

    values = to_dict(load_config(data, base, " ".join(settings)))
    if changed:
        values = differences(values, to_dict(Config(DataConfig("unnamed"))))
    print(yaml.safe_dump(plain(values), sort_keys=False, allow_unicode=True), end="")


def differences(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults, section by section."""
    found = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            if inner := differences(value, default):
                found[name] = inner
        elif value != default:
            found[name] = value
    return found


def plain(value: Any) -> Any:
    """The value with lists for tuples, which YAML does not have."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


@config_app.command(epilog="Example: sealr config check --data my-shop.yaml --base llama2-7b")
def check(data: Data = "demo", base: Base = "smollm2-135m", settings: Set = NOTHING) -> None:
    """Check a configuration against its reviews, where they are on this machine: prints ok, or the mistake."""
    from sealr.config import load_config
    from sealr.data.download import data_dir, local_path
    from sealr.data.proposal import preview
    from sealr.doctor import check_retriever

    whole = load_config(data, base, " ".join(settings))
    check_retriever(whole)
    config = whole.data
    path = local_path(config.reviews, data_dir())
    if config.source == "demo":
        print("ok")
    elif not path.exists():
        print(f"ok, but {path} is not on this machine, so no column was looked up")
    else:
        seen = preview(config, path)
        if not seen.examples or (seen.whole and seen.core < config.k_core):
            why = f"with data.k_core={config.k_core} none is left" if seen.examples else "all are rejected"
            raise ValueError(f"{path}: {seen.summary()}; {why}")
        print(f"ok: {path.name}: {seen.summary()}")


@app.command(epilog="Example: sealr doctor --data my-shop.yaml")
def doctor(data: Data = "demo", base: Base = "smollm2-135m", settings: Set = NOTHING) -> None:
    """Check versions, weights, disk, memory, servers and data, and say how to mend what is wrong."""
    from sealr.config import load_config
    from sealr.doctor import diagnose

    failed = 0
    for line in diagnose(load_config(data, base, " ".join(settings))):
        print(f"{line.status:4}  {line.name:20}  {line.text}", flush=True)
        failed += line.status == "fail"
    if failed:
        print(f"\n{failed} {'check' if failed == 1 else 'checks'} failed")
        raise typer.Exit(1)


@app.command(epilog="Example: sealr weights HuggingFaceTB/SmolLM2-135M-Instruct")
def weights(name: Annotated[str, typer.Argument(help="A folder, or a repository name such as owner/model.")]) -> None:
    """Fetch pretrained weights, unless they are here, and print their folder."""
    from sealr.weights import resolve

    print(resolve(name))


@app.command(epilog="Example: sealr deployments --data my-shop.yaml --cron '30 4 * * *'")
def deployments(
    data: Annotated[str, typer.Option(help="Data set of all deployments; empty: as in prefect.yaml.")] = "",
    base: Annotated[str, typer.Option(help="Base model of all deployments; empty: as in prefect.yaml.")] = "",
    settings: Set = NOTHING,
    cron: Annotated[str, typer.Option(help="When refresh runs, in UTC; empty: as in prefect.yaml.")] = "",
    webhook: Annotated[
        str, typer.Option(envvar="SEALR_WEBHOOK", help="Address that is told of failed and crashed runs, as JSON.")
    ] = "",
) -> None:
    """Serve the deployments of prefect.yaml from this process, one run at a time."""
    import os

    from sealr.config import load_config
    from sealr.doctor import check_job
    from sealr.flows import set_defaults

    if not os.environ.get("PREFECT_API_URL"):
        raise ValueError("set PREFECT_API_URL to a Prefect server, such as http://127.0.0.1:4200/api")
    if webhook and not webhook.startswith(("http://", "https://")):
        raise ValueError("--webhook is an address such as https://chat.example.org/hooks/sealr")
    os.environ["SEALR_WEBHOOK"] = webhook  # runs are processes of their own, with this environment
    overrides = " ".join(settings)
    check_job(load_config(data or "demo", base or "smollm2-135m", overrides))
    set_defaults()
    from sealr.flows.deployments import serve_deployments

    serve_deployments(data, base, overrides, cron)


@app.command(epilog="Example: sealr prune --keep 2 --delete")
def prune(
    keep: Annotated[int, typer.Option(min=1, help="Jobs of each data set, newest first, whose stages are kept.")] = 2,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the folders; without it they are only listed.")
    ] = False,
) -> None:
    """List, or remove, stage folders that no registered version and none of the last jobs uses."""
    use_tracking()
    from sealr import tracking
    from sealr.data.prune import remove, unused
    from sealr.registry.promote import stage_keys

    found = unused(tracking.stage_keys(keep) | stage_keys())
    gone = remove(found) if delete else found
    for folder in gone:
        print(f"  {folder.bytes / 1e6:10,.1f} MB  {folder.path}")
    done = "removed" if delete else "would be removed with --delete"
    print(
        f"{len(gone)} {'folder' if len(gone) == 1 else 'folders'}, {sum(f.bytes for f in gone) / 1e6:,.1f} MB: {done}"
    )
