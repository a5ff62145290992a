"""Files of the checkout that are made from what the programs go by.

`python -m impetusd.cli.install.manual conf/man` is one that makes them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def write(files: Mapping[str, str]) -> None:
    """Write each text under its name into the directory that the command line names."""
    os.makedirs(sys.argv[1], exist_ok=True)
    for name, text in files.items():
        with open(os.path.join(sys.argv[1], name), "w", encoding="utf-8") as file:
            file.write(text)
