"""Reading the files that an import is made of."""

from __future__ import annotations

import errno

from impetusd.core.config import envfile
from impetusd.files import vetted
from impetusd.interop.importing.model import MOST_BYTES, ImportFault


def text_of(path: str, at: tuple[str, int] | None = None) -> str:
    """The file's text. Raises ImportFault, at the place that names it."""
    file, line = at or (path, 1)
    said = "" if at is None else f"{path}: "
    try:
        data, _ = vetted.read(path, MOST_BYTES, None)
    except OSError as error:
        reason = f"it is larger than {MOST_BYTES} bytes" if error.errno == errno.EFBIG else error.strerror or str(error)
        raise ImportFault(file, line, f"{said}cannot be read: {reason}") from None
    except ValueError:
        raise ImportFault(file, line, f"{said}is not the path of a file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ImportFault(path, number, "this is not UTF-8; save it as UTF-8") from None
    if "\0" in text or any("\ufdd0" <= char <= "\ufdef" for char in text):
        raise ImportFault(path, 1, "it is not a text file: it contains NUL or noncharacters")
    return text


def variables_of(path: str) -> dict[str, str] | None:
    """Of an env_file; None if it cannot be read."""
    try:
        return envfile.parse(text_of(path).encode())
    except (ImportFault, envfile.Fault):
        return None
