"""Report a failed start: as a reason, and as the text that supervisors of the first version read.

The reason is JSON of `core.reasons`, which the shim does not import: a `start_failed` with the stage, what it was done to,
and why it failed.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The first version compares these.
STAGES = {"exec": "executing", "cwd": "changing directory to", "fork": "forking a worker"}
CAUSES = {
    "no_file": "no such file",
    "no_program": "no such program in PATH",
    "no_interpreter": "the interpreter named in its first line does not exist",
    "template_gone": "its template process no longer exists",
    "template_ended": "its template process exited",
    "template_senseless": "its template process sent an invalid response",
}


def failed(stage: str, cause: dict[str, Any], what: str = "") -> dict[str, Any]:
    """The fields of an `exited` event for it. `stage` is one of `core.reasons`' STAGES."""
    words = STAGES.get(stage, stage.replace("_", " "))
    facts = {"stage": stage, "what": what, "cause": cause}
    first = {"stage": f"{words} {what}".rstrip(), "error": text(cause)}
    return {**first, "cause": {"key": "start_failed", "facts": facts}}


def because(key: str, **facts: Any) -> dict[str, Any]:
    """A cause."""
    return {"key": key, "facts": facts}


def of_error(error: BaseException) -> dict[str, Any]:
    """The cause of an exception: its errno where it has one, else its text."""
    number = error.errno if isinstance(error, OSError) else None
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
    return of_errno(number, said) if number else because("text", text=said)


def of_errno(number: int, said: str) -> dict[str, Any]:
    """The cause of an errno; `said`: the text that came with it."""
    return because("os_error", errno=number, detail="" if said == os.strerror(number) else said)


def text(cause: dict[str, Any]) -> str:
    """A cause in words."""
    facts = cause["facts"]
    if cause["key"] == "os_error":
        return str(facts["detail"] or os.strerror(facts["errno"]))
    if cause["key"] == "template_mute":
        return f"its template process does not respond: {text(facts['cause'])}"
    return CAUSES.get(cause["key"]) or str(facts.get("text", cause["key"]))
