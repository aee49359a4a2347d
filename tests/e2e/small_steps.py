"""``python -m tests.e2e.small_steps run ...``: the command with frequent checkpoints, for tests that kill it."""

import functools

from sealr.flows import set_defaults

set_defaults()

from sealr.cli import main  # noqa: E402
from sealr.emotion import label  # noqa: E402
from sealr.rerank import training  # noqa: E402

label.label = functools.partial(label.label, part_rows=4)
training.CHECKPOINT_STEPS = 1

if __name__ == "__main__":
    main()
