"""``python -m sealr``: the command where its script is not installed, such as in MLflow's own environments."""

from sealr.cli import main

main()
