"""The command that writes a model as files for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sealr.commands.models import CHAMPION, check_model
from sealr.commands.options import Model

app = typer.Typer()


class Exported(StrEnum):
    all = "all"
    retriever = "retriever"


@app.command(epilog="Example: sealr export --model models:/sealr@champion --out shop-model")
def export(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    model: Model = CHAMPION,
    what: Annotated[
        Exported, typer.Option(help="Everything, or the retriever alone, which needs no LLM weights.")
    ] = Exported.all,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a model as files for other tools: the retriever in ONNX, the LLM in Hugging Face format.

    Before the folder gets its name, what was written and the model answer the same histories, and must agree. The
    README.md in the folder says what each file is, and what the files can and cannot do alone.
    """
    check_model(model)
    from sealr.export.write import check_free, export
    from sealr.serving.packing import located

    check_free(out, overwrite)
    card = export(model, located(model), out, llm=what is Exported.all, overwrite=overwrite)
    for name in ("retriever", "llm"):
        if name in card:
            found = card[name]
            print(
                f"{name}: agrees with the model on {found['histories']} histories within "
                f"{found['largest_difference']:.1e} standard deviations of the scores"
            )
    if not card["weights"]["llm"]:
        print("llm: it has weight 0 in this version, so it is not exported")
    print(f"written: {out} (start with {out / 'README.md'})")
