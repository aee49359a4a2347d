"""The command ``sealr``. Every subcommand lives in `sealr.commands`; this module turns errors into messages.

Exit codes: 0 success; 1 a failure outside the command, or a defect; 2 a mistake that the user can correct; 130 Ctrl-C.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from sealr.commands import compare, explore, export, inspect, items, jobs, labeller, models, privacy, report, tools


class Commands(typer.core.TyperGroup):
    """Lists commands with their whole first sentence; click would cut it to the width of the terminal."""

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        found = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=200)) for name, command in found])


TYPERS = {
    "Input should be greater than or equal to": "it must be at least",
    "Input should be less than or equal to": "it must be at most",
    "Input should be a valid integer, .*": "it must be a whole number",
    "Input should be a valid number, .*": "it must be a number",
    r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)": r"unexpected argument \1",
}
CONTINUE = "Nothing that was finished is lost; the same command continues from there."
app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,  # rich would double the time of --help
    pretty_exceptions_enable=False,
    epilog="Example: sealr run --data demo",
)
for _part in (jobs, report, models, compare, explore, export, items, labeller, tools, privacy, inspect):
    app.add_typer(_part.app)


def _version(asked: bool) -> None:
    if asked:
        from sealr import __version__

        print(f"sealr {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Recommend the next items from reviews and the feelings in them."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs the command. Always raises SystemExit.

    argv: arguments, for callers within Python. Without them this is a process of its own, which Prefect may not block.
    """
    arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    code = 1
    try:
        # --debug may stand anywhere
        code = app([a for a in arguments if a != "--debug"], prog_name="sealr", standalone_mode=False) or 0
        if code == 130:
            print("interrupted", file=sys.stderr)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        raise
    except Exception as error:
        code, message = explain(error)
        if not message or "--debug" in arguments:
            _print(traceback.format_exc())
        defect = f"{type(error).__name__} is a defect of sealr, not your mistake; please report it with the lines above"
        _print(f"error: {message or defect}")
        if run_id := os.environ.get("MLFLOW_RUN_ID"):  # `mlflow run` made it, and no job has taken it over
            _describe(run_id, message or defect, arguments)
    finally:
        if argv is None:
            gc.freeze()  # or the last collection walks through all of torch and Prefect, which takes seconds
            if "sealr.flows.job" in sys.modules:
                from sealr.flows.job import EXIT_SECONDS, force_exit_after

                force_exit_after(EXIT_SECONDS, code)
    raise SystemExit(code)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence for an error; an empty sentence for a defect, whose traceback is needed."""
    if hasattr(error, "format_message"):  # typer: an unknown command or option, a wrong value
        context = getattr(error, "ctx", None)
        return 2, _usage(error) + (f" (see {context.command_path} --help)" if context else "")
    if "sealr.flows.job" in sys.modules:
        from sealr.flows.job import external_failure

        if cause := external_failure(error):
            return 1, f"{cause}. {CONTINUE}"
    if isinstance(error, ModuleNotFoundError):
        return (2, hint) if (hint := _extra(error.name or "")) else (1, "")
    if isinstance(error, OSError) or type(error).__module__.startswith("mlflow.") or _raised_by_us(error):
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            return 2, f"{error.filename}: {error.strerror}"  # without Python's [Errno 2]
        return 2, str(getattr(error, "message", None) or error)
    return 1, ""


def _usage(error: Any) -> str:
    """Typer's message in words of ours, with the nearest known name."""
    from sealr.config import nearest

    said = str(error.format_message()).replace("Value error, ", "").rstrip(".")
    for theirs, ours in TYPERS.items():
        said = re.sub(theirs, ours, said)
    if options := getattr(error, "possibilities", None):
        return f"No such option: {error.option_name}{nearest(error.option_name, list(options))}"
    if choice := re.search("'([^']*)' is not one of (.*)", said):
        said += nearest(choice[1], re.findall("'(.*?)'", choice[2]))
    return said


def _raised_by_us(error: Exception) -> bool:
    """Whether our own code raised an error of a type that stands for mistakes of users."""
    if type(error).__module__.startswith("sealr."):
        return True
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    ours = last is not None and last.tb_frame.f_globals.get("__name__", "").startswith("sealr.")
    missing_extra = isinstance(error, ImportError) and error.name is None  # the import statement sets a name
    return ours and (missing_extra or isinstance(error, (ValueError, ArithmeticError)))


def _extra(module: str) -> str:
    """How to install a missing library that an extra of the package brings; empty for other modules."""
    from sealr import resources

    name = module.partition(".")[0].replace("_", "-")
    for extra in ("train", "spark", "ray", "index", "team", "explore", "export"):
        if any(line.startswith(name) for line in resources.requirements(extra)):  # faiss: faiss-cpu
            return f"this command needs {name}, which is not installed: pip install 'sealr[{extra}]'"
    return ""


def _describe(run_id: str, why: str, arguments: list[str]) -> None:
    """Names a run of `mlflow run` after the command, and says in it why the command failed."""
    from sealr.doctor import check_tracking

    try:
        check_tracking()  # MLflow would try for minutes
    except OSError:
        return
    from sealr import tracking

    tracking.setup()
    data = arguments[arguments.index("--data") + 1] if "--data" in arguments[:-1] else ""
    tracking.describe_failure(run_id, why, f"{arguments[0]} {data}".strip())


def _print(text: str) -> None:
    from sealr.redact import redact

    print(redact(text), file=sys.stderr)


if __name__ == "__main__":
    main()
