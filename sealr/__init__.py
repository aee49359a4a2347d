"""SEALR learns from reviews and recommends the next items to each user.

``sealr.fit`` and ``sealr.load`` are the Python API (`sealr.api`); ``sealr`` in a shell is the command (`sealr.cli`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__version__ = "0.2.0"
__all__ = ["Model", "fit", "load"]

# In a checkout, flows, configs and expectations are next to this folder; in an installed package they are inside it
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "flows").is_dir():
    __path__.append(str(_CHECKOUT))


def __getattr__(name: str) -> Any:
    """Loads the API on first use, so that ``import sealr`` is fast."""
    if name in __all__:
        from sealr import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
