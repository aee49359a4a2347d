"""Commands for registered models: ask one, score all users, serve, promote, roll back."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sealr.commands.options import (
    NOTHING,
    AvailableFile,
    Category,
    Exclude,
    Gladness,
    Include,
    Model,
    Reason,
    TopK,
    WithSeen,
    use_tracking,
)

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()
CHAMPION = "models:/sealr@champion"
Name = Annotated[str, typer.Option(help="Registered model.")]


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


@app.command(epilog="Example: sealr recommend --user u0001 --user u0002 -k 5; or: sealr recommend --history me.json")
def recommend(
    user: Annotated[list[str], typer.Option(help="A user whose history the model knows. Repeatable.")] = NOTHING,
    history: Annotated[
        Path | None,
        typer.Option(help="A user's history, or its latest part: JSON or CSV with item and text, rating or sentiment."),
    ] = None,
    model: Model = CHAMPION,
    top_k: TopK = 10,
    with_seen: WithSeen = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Find reasons by leaving items of the history out; slower.")
    ] = False,
    satisfaction_weight: Gladness = 1.0,
    include_item: Include = NOTHING,
    exclude_item: Exclude = NOTHING,
    category: Category = NOTHING,
    available: AvailableFile = None,
    output: Annotated[Format, typer.Option("--format", help="Form of the lists.")] = Format.table,
) -> None:
    """Recommend items to known users, or to one user with a history file."""
    import warnings

    if not user and history is None:
        raise ValueError("name a --user, or give the --history of a new one")
    if len(user) > 1 and history is not None:
        raise ValueError("give one --user with a --history: it follows the history that the model has of this user")
    events = read_history(history) if history else None
    check_model(model)

    import sealr

    loaded = sealr.load(model)
    if available:
        loaded.recommender.watch(available)
    if satisfaction_weight != 1 and loaded.recommender.forecast is None:
        print("warning: this model foretells no satisfaction: --satisfaction-weight changes nothing", file=sys.stderr)
    seen = False if with_seen else None
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        asked = user[0] if events is not None and user else user or None
        weights_and_filters = (satisfaction_weight, include_item, exclude_item, category)
        found = loaded.recommend(asked, events, top_k, seen, explain, *weights_and_filters)
    for note in notes:
        print(f"warning: {note.message}", file=sys.stderr)
    print_lists(found, output)


def read_history(path: Path) -> list[dict[str, object]]:
    """Events of one user, oldest first. Raises ValueError, OSError."""
    import pandas as pd

    try:
        frame = pd.read_json(path, dtype=False) if path.suffix == ".json" else pd.read_csv(path, dtype={"item": str})
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if "item" not in frame:
        raise ValueError(f"{path} needs a column item, and has {', '.join(map(str, frame.columns)) or 'none'}")
    from sealr.serving.request import KEY, refuse_unknown

    refuse_unknown(KEY, frame.columns, place=f"{path}: ")
    return [{k: v for k, v in row.items() if not pd.isna(v)} for row in frame.to_dict("records")]


def print_lists(found: pd.DataFrame, output: Format) -> None:
    """Prints recommendations: a table for people, CSV or JSON for programs."""
    if output is Format.csv:
        print(found.to_csv(index=False), end="")
    elif output is Format.json:
        print(found.to_json(orient="records", indent=2, force_ascii=False))
    else:
        titled = (found["title"] != found["item"]).any()  # an item without a title has its id as one
        for user, rows in found.groupby("user", sort=False, dropna=False):
            print(f"\n{user}" if isinstance(user, str) else "\nthis history")
            for row in rows.itertuples():
                title = f"  {row.title:<40.40}" if titled else ""
                print(f"{row.rank:>4}  {row.item:<14.14}{title}  {row.score:>8.3f}  {row.reason}")


class UnknownModel(ValueError):
    """No model is registered under a name, alias or version; the message has those that are."""


def _listed(what: str, names: Collection[str]) -> str:
    return f"({what}: {', '.join(sorted(names, reverse=True)[:10]) or 'none'})"


def check_model(model: str) -> None:
    """Points MLflow at the registry and looks the model up. Raises UnknownModel, FileNotFoundError for a folder."""
    if not model.startswith("models:/"):
        if not Path(model).is_dir():
            raise FileNotFoundError(
                f"{model} is neither a folder nor of the form models:/NAME@ALIAS or models:/NAME/VERSION"
            )
        return
    use_tracking()
    import mlflow

    from sealr import tracking
    from sealr.config import nearest

    name = model.removeprefix("models:/").partition("@")[0].partition("/")[0]
    known = sorted(m.name for m in mlflow.MlflowClient().search_registered_models())
    if name not in known:
        raise UnknownModel(
            f"no model is registered as {name!r} at {tracking.address()}{nearest(name, known)}"
            + (f" (registered: {', '.join(known[:10])})" if known else ": train one with sealr run")
        )
    client, version, alias = mlflow.MlflowClient(), model.rpartition("/")[2], model.partition("@")[2]
    aliases = client.get_registered_model(name).aliases
    if alias and alias not in aliases:
        hint = "; sealr promote VERSION makes a version champion" if model == CHAMPION else ""
        raise UnknownModel(
            f"{name} has no alias {alias!r}{nearest(alias, list(aliases))} {_listed('aliases', aliases)}{hint}"
        )
    versions = [str(v.version) for v in client.search_model_versions(f"name = '{name}'")]
    if version.isdecimal() and model.count("/") == 2 and version not in versions:
        raise UnknownModel(f"{name} has no version {version} {_listed('versions', versions)}")


@app.command(epilog="Example: sealr score --users users.parquet --out recommendations.parquet")
def score(
    out: Annotated[str, typer.Option(help="FILE.parquet, FILE.csv, or a database: sqlite:///shop.db, with --table.")],
    users: Annotated[
        Path | None,
        typer.Option(help="Parquet, CSV or JSON lines with user or history; without it, all users of the model."),
    ] = None,
    model: Model = CHAMPION,
    top_k: TopK = 10,
    with_seen: WithSeen = False,
    satisfaction_weight: Gladness = 1.0,
    include_item: Include = NOTHING,
    exclude_item: Exclude = NOTHING,
    category: Category = NOTHING,
    available: AvailableFile = None,
    table: Annotated[str, typer.Option(help="Table of the database.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file or table if it exists.")] = False,
    master: Annotated[
        str, typer.Option(help="Use Spark: local[4] or a cluster's address; submit: as spark-submit says.")
    ] = "",
) -> None:
    """Recommend to all users of a table; on Spark with --master."""
    if master and (available or table or overwrite):
        raise ValueError("--available, --table and --overwrite are for one machine: leave out --master")
    check_model(model)
    params = {"top_k": top_k, "satisfaction_weight": satisfaction_weight, "categories": category}
    params |= {"include_items": include_item, "exclude_items": exclude_item}
    params |= {"exclude_seen": False} if with_seen else {}
    if master:
        from sealr.serving.spark import score_users

        print(f"{score_users(model, str(users) if users else None, out, params, master):,} rows in {out}")
        return
    import logging

    from sealr.redact import redact
    from sealr.serving import batch

    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("sealr").setLevel(logging.INFO)
    made = batch.score(model, users, out, params, table, overwrite, available)
    if made.warned:
        print(f"warning: {made.warned:,} requests have warnings, the first: {made.warning}", file=sys.stderr)
    empty = f", {made.empty:,} of them without recommendations" if made.empty else ""
    where = f"table {table} of {redact(out)}" if table else out
    print(f"{made.requests:,} requests{empty}; {made.items:,} recommended items in {where}")


@app.command(epilog="Example: sealr serve --model models:/sealr@champion --port 5001")
def serve(
    model: Model = CHAMPION,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 5001,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the alias.")] = 10.0,
    workers: Annotated[int, typer.Option(min=0, help="Passes at a time; 0: cores / torch's threads.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Waiting calls answered in one pass, at most.")] = 32,
    waiting: Annotated[int, typer.Option(min=0, help="Calls that may wait; more get 503.")] = 128,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one call; then it gets 504.")] = 60.0,
    body: Annotated[int, typer.Option(min=1, help="Bytes of a body; more get 413.")] = 4 << 20,
    available: AvailableFile = None,
    log: Annotated[
        Literal["plain", "json"], typer.Option(help="json: one line a call, without what it says.")
    ] = "plain",
    trace: Annotated[bool, typer.Option("--trace", help="Log a trace of each call in MLflow.")] = False,
) -> None:
    """Serve a model over HTTP, and follow its alias."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        check_model(model)
    except UnknownModel as error:  # the server waits for a first job to register it
        print(f"warning: {error}", file=sys.stderr)
    from sealr.serving.available import VARIABLE
    from sealr.serving.follower import ServerOptions
    from sealr.serving.server import serve as start_server

    if available:
        os.environ[VARIABLE] = str(available.resolve())  # every version that the server loads reads it

    options = ServerOptions(
        model=model, poll=poll, workers=workers, batch=batch, waiting=waiting, timeout=timeout, body=body, trace=trace
    )
    start_server(options, host, port, log)


@app.command(epilog="Example: sealr promote 3 --reason 'the A/B test preferred it'")
def promote(
    version: Annotated[int, typer.Argument(min=1, help="Version number.")],
    reason: Reason,
    name: Name = "sealr",
) -> None:
    """Make a version champion by hand, without a comparison."""
    check_model(f"models:/{name}/{version}")
    from sealr.registry import promote as registry

    before = registry.promote_manually(name, str(version), reason)
    after = f"version {before}" if before else "no champion"
    print(f"models:/{name}@champion is now version {version}, after {after}")


@app.command(epilog="Example: sealr rollback --reason 'complaints since Tuesday'")
def rollback(reason: Reason, name: Name = "sealr") -> None:
    """Bring the previous champion back."""
    check_model(f"models:/{name}")
    from sealr.registry import promote as registry

    version, before = registry.rollback(name, reason)
    print(f"models:/{name}@champion is version {version} again; version {before} was taken back")
