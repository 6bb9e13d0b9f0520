"""Packages that only a part of the work needs: imported where that part begins, missed in one sentence.

The core (prune, analyze, measure, save, load) needs torch, numpy, safetensors and scipy and nothing else. Whatever
needs another package asks for it here first.
"""

from __future__ import annotations

import sys
from typing import Any

from secateur.core.errors import MissingExtraError

DISTRIBUTIONS = {
    "PIL": "pillow",
    "lightning_fabric": "lightning-fabric",
    "ot": "POT",
    "sklearn": "scikit-learn",
    "torch.utils.tensorboard": "tensorboard",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
"""Name to import → name to install, where the two differ."""


def need(package: str, *, for_: str, extra: str = "") -> Any:
    """Import and return `package`, for the purpose `for_`: the subject of a sentence that goes on with "needs".

    `extra` is the extra of ours that installs it; without one it is installed by its own name. Raises
    `MissingExtraError` where it can't be imported.

    >>> need("math", for_="A square root").sqrt(4)
    2.0
    """
    try:
        __import__(package)
    except ImportError as error:
        top = package.partition(".")[0]
        missing = DISTRIBUTIONS.get(package) or DISTRIBUTIONS.get(top, top)
        raise MissingExtraError(missing, extra, for_) from error
    return sys.modules[package]
