"""The command that looks at a file of reviews and writes the configuration that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sealr.data.inspect import Findings

app = typer.Typer()
PRIVATE = "Reviews are personal data: the rows above and the file's own lines belong in no ticket and no repository."


@app.command(epilog="Example: sealr inspect export/reviews.csv.gz --out my-shop.yaml")
def inspect(
    file: Annotated[str, typer.Argument(help="A file, a folder of parts, a URL, or with --query a database.")],
    out: Annotated[str, typer.Option(help="Write the configuration here; without it, it is printed.")] = "",
    query: Annotated[str, typer.Option(help="SQL query, for a database such as postgresql://host/shop.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --out.")] = False,
) -> None:
    """Look at a file of reviews, say what it is, and write the configuration that reads it."""
    if out and not out.endswith((".yaml", ".yml")):
        raise ValueError(f"--out {out}: the name of a configuration ends in .yaml")
    if out and Path(out).exists() and not force:
        raise ValueError(f"{out} exists: choose another name with --out, or overwrite it with --force")
    import yaml

    from sealr.config import from_dict
    from sealr.data.download import fetch
    from sealr.data.inspect import look
    from sealr.data.proposal import preview, write_yaml
    from sealr.data.sources.dates import DateError
    from sealr.settings import DataConfig, RemoteFile

    location = file if "://" in file else str(Path(file).resolve())
    if "://" not in file and not Path(file).exists():
        raise ValueError(f"{file} does not exist")
    path = fetch(RemoteFile(location, query=query))
    findings = look(path)
    text, note = write_yaml(findings, location, query), ""
    _report(findings)
    config = from_dict(DataConfig, yaml.safe_load(text)["data"])
    try:
        seen = preview(config, path)
    except DateError as error:
        note = f"Decide this before you run the job: {error}"
    else:
        text = write_yaml(findings, location, query, seen.core)
        print("\nRows as they are read, with users and texts cut short:")
        print("\n".join(f"  {example}" for example in seen.examples))
        print(f"{seen.summary()[0].upper()}{seen.summary()[1:]}")
    if out:
        Path(out).write_text(text, encoding="utf-8")
    print(f"\nWrote {out}. Check it, then: sealr run --data {out}" if out else f"\n{text}")
    print("\n".join(filter(None, (note, PRIVATE))))


def _report(findings: Findings) -> None:
    print(f"{findings.path.name}: {findings.release or findings.kind}, {findings.rows:,} rows looked at")
    for name, guess in (*findings.columns.items(), *findings.settings.items()):
        value = guess.value if guess.value != "" else "-"
        print(f"  {name:12}  {value!s:24.60}  {guess}")
