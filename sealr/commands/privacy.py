"""The command that removes a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sealr.commands.options import Base, Data, use_tracking

if TYPE_CHECKING:
    from sealr.pipeline.forget import Forgotten

app = typer.Typer()


@app.command(epilog="Example: sealr forget u0001 --data my-shop.yaml; docs/privacy.md says what it does.")
def forget(
    user: Annotated[str, typer.Argument(help="The user's id, as in the reviews.")],
    data: Data = "demo",
    base: Base = "smollm2-135m",
) -> None:
    """Remove a user from stages, caches and registered versions, and prove it by a search; exit code 1 if some is left.

    Stage folders of the user are deleted, and the next job makes them anew. Versions that hold the user are rewritten
    without, and their aliases move along. Each later ingest drops the user. Your data file is not changed.
    """
    import os

    name, source = named(data, base)
    use_tracking()

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from sealr.flows import quiet_libraries
    from sealr.pipeline.forget import forget as forget_user

    quiet_libraries()  # those that were imported just now
    found = forget_user(user, name)
    print_findings(found)
    left = {place: n for place, n in found.after.items() if n}
    if left:
        print(f"\nNot forgotten: {sum(left.values())} findings are left in {', '.join(left)}. {ADVICE}")
        raise typer.Exit(1)
    print(f"\nNothing is left in {found.searched:,} files of the state folder, nor in MLflow. What remains:")
    print("\n".join(f"* {sentence}" for sentence in remains(found, source, data)))


ADVICE = (
    "If a job of this data set is running, repeat the command when it has ended. Runs of MLflow and Prefect whose "
    "messages name the user have to be deleted there (`mlflow gc`, `prefect flow-run delete`)."
)


def print_findings(found: Forgotten) -> None:
    """Prints the findings by place, before and after. The user's id is not printed: logs are kept, too."""
    places = list(dict.fromkeys([*found.before, *found.after]))
    width = max(map(len, places))
    print(f"{'findings of the id and the texts':{width}}  {'before':>8}  {'after':>8}")
    for place in [place for place in places if found.before.get(place, 0) + found.after.get(place, 0)]:
        note = f"  deleted, replaced by {found.replaced[place]}" if place in found.replaced else ""
        before, after = (f"{n[place]:,}" if place in n else "-" for n in (found.before, found.after))
        print(f"{place:{width}}  {before:>8}  {after:>8}{note}")
    clear = [place for place in places if not found.before.get(place, 0) + found.after.get(place, 0)]
    print(f"None before and after: {', '.join(clear)}")
    print(f"{found.stages} stage {'folder' if found.stages == 1 else 'folders'} deleted")


def named(data: str, base: str) -> tuple[str, str]:
    """Name of a data set, and where its reviews are. Data sets of `sealr.fit` have a name and no configuration."""
    from sealr.config import ConfigError, load_config
    from sealr.data.manifest import state_dir

    try:
        config = load_config(data, base).data
    except ConfigError:
        if "/" in data or not (state_dir() / data / "frames").is_dir():
            raise
        return data, "the frames that sealr.fit was given"
    return config.name, config.reviews.path or f"the source {config.source}"


def remains(found: Forgotten, source: str, data: str) -> list[str]:
    """What the command cannot undo, and what to do about it."""
    said = [
        f"Your own data ({source}) were not touched: remove the user's rows there. Until then, each ingest reads and "
        f"drops them. It knows them by the user's salted id in {found.list}.",
        "Models that were trained with the user's reviews do not unlearn them: train a new one without them, with "
        f"`sealr run --data {data}`. Then delete the old versions in MLflow.",
        "Copies elsewhere are yours to delete: backups, downloads, outputs of `sealr score`, logs, servers that have "
        "loaded a deleted version by its number.",
    ]
    if found.others:
        said.append(f"{', '.join(found.others)} has a user of the same id: if it is the same person, forget it there.")
    return said
