"""What both peers' scripts share. They run in their own environments, so nothing here imports sealr."""

from __future__ import annotations

import argparse
import gzip
import resource
from collections.abc import Iterator
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of both scripts."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = made.add_argument
    option("--sequences", type=Path, required=True, help="text file with a line a user: user item item ...; may be .gz")
    option("--share", type=float, default=0.05, help="share of an epoch's batches that is timed")
    option("--full", action="store_true", help="time one whole epoch instead")
    option("--accuracy", type=int, default=0, metavar="EPOCHS", help="also train to early stopping, at most so long")
    option("--hidden", type=int, default=64)
    option("--layers", type=int, default=2)
    option("--heads", type=int, default=1)
    option("--max-len", type=int, default=50)
    option("--dropout", type=float, help="of the network; without it, the library's own")
    option("--batch-size", type=int, default=2048, help="predictions a step")
    option("--threads", type=int, default=0, help="0: as PyTorch chooses")
    option("--seed", type=int, default=0)
    return made


def sequences(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each user of the file, and the items, oldest first."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as source:
        for line in source:
            user, *items = line.split()
            yield user, items


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
