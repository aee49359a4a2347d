"""Pages of results: every table has a command, every command can be given today, every plot and page is linked."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from sealr.cli import app
from sealr.config import load_config
from sealr.pipeline.comparison_files import select_comparisons

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
PAGES = sorted([*FOLDER.glob("*.md"), *FOLDER.glob("studies/*.md"), *FOLDER.glob("tables/*.md")])
NAMES = [str(page.relative_to(FOLDER)) for page in PAGES]
COMMAND = re.compile(r"(?:[A-Z_]+=(?:<[^>]*>|\S+) )*((?:sealr |python -m benchmarks\.|python benchmarks/).*)")
REPEATS = "In short"  # a section with figures of the others


def commands(text):
    """Commands in code spans and code blocks, on one line, without the environment variables in front."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    found = [COMMAND.fullmatch(re.split(r"  +#", line)[0].strip()) for line in [*lines, *spans]]
    return [match[1] for match in found if match and " -" in match[1]]  # a mere mention has no options


def sections(text):
    """(heading, its own text, that and the text of the sections around it)."""
    around = {}
    for marks, heading, own in re.findall(r"^(#+) (.*?)\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL):
        around = {depth: other for depth, other in around.items() if depth < len(marks)} | {len(marks): own}
        yield heading, own, "\n".join(around.values())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_table_has_a_command(page):
    for heading, own, around in sections(page.read_text()):
        if heading != REPEATS and re.search(r"^\|[-: |]+\|$", own, re.MULTILINE):
            assert commands(around), heading


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_can_be_given_today(page):
    for command in commands(page.read_text()):
        program, *arguments = shlex.split(command)
        (check_sealr if program == "sealr" else check_script)(arguments)


def check_script(arguments):
    """The script exists and knows the options."""
    name = arguments[1] if arguments[0] == "-m" else arguments[0].removesuffix(".py").replace("/", ".")
    source = (ROOT / f"{name.replace('.', '/')}.py").read_text()
    for option in [argument.split("=")[0] for argument in arguments if argument.startswith("--")]:
        assert f'"{option}"' in source or f"{option[2:].replace('-', '_')}:" in source, option  # typer names parameters


def check_sealr(arguments):
    """The command line, the data sets, the comparison and the settings are known."""
    main = typer.main.get_command(app)
    context = main.make_context("sealr", [], resilient_parsing=True)
    name, *rest = arguments
    subcommand = main.get_command(context, name)
    assert subcommand, name
    if hasattr(subcommand, "commands"):
        name, *rest = rest
        subcommand = subcommand.commands[name]
    given = subcommand.make_context(name, rest, parent=context).params
    names = [given["data"]] if given.get("data") else []
    if name == "benchmark":
        _, specs = select_comparisons(given["table"], given["data"], given["only"], given["figure"])
        names = [spec.configuration for spec in specs.values()]
    for data in names:
        if not data.endswith(".yaml"):  # somebody's own
            load_config(data, overrides=" ".join(given["settings"]))


def test_every_plot_and_page_is_linked():
    pages = [*PAGES, *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    links = {page: re.findall(r"\]\(([^)#]+)", page.read_text()) for page in pages}
    linked = {(page.parent / link).resolve() for page, found in links.items() for link in found}
    kept = {*FOLDER.glob("plots/*"), *FOLDER.glob("studies/*"), *FOLDER.glob("tables/*")}
    assert kept == {path for path in linked if path.parent.parent == FOLDER}
