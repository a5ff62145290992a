"""Running a configuration that only JavaScript itself can compute: twice, for at most ten seconds, if its owner counts."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from typing import Any

from impetusd.core.trust import Trust
from impetusd.files import vetted
from impetusd.interop.importing.model import CLOSE, MIDDLE, MOST_BYTES, OPEN, ImportFault, Ran, reference
from impetusd.interop.importing.scanner import Object

SCRIPT = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "node", "ecosystem.cjs"
)
LONGEST = 10.0  # seconds that one run may take
HANDED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")
_MARKER = re.compile(f"{OPEN}(\\w+){MIDDLE}{CLOSE}", re.ASCII)


class _Failed(ImportFault):
    """What node itself says against the file."""


def run(path: str) -> Ran:
    """What the module exports. If it fails, as it does in a checkout without .env and node_modules, or without variables that
    it checks, it is run once more with what is not here taken as empty, and with markers for variables. Raises ImportFault.
    """
    node = shutil.which("node")
    if node is None:
        raise ImportFault(path, 1, "it contains JavaScript that must be run, but node is not installed")
    distrust = vetted.examine(path, Trust(os.geteuid()))
    if distrust is not None:
        raise ImportFault(
            path,
            1,
            f"it contains JavaScript that must be run, but running it is unsafe: {distrust.what}; {distrust.fix}",
        )
    first: _Failed | None = None
    for how in ("", "e", "m", "em"):
        try:
            plain, missing, files = _run(node, path, how)
            break
        except _Failed as failed:
            first = first or failed
    else:
        assert first is not None
        raise first
    if "m" in how:
        return Ran(_unmarked(plain), plain, files, missing, needs=True)
    try:
        marked = _run(node, path, f"m{how}")[0]
    except ImportFault:
        marked = None
    return Ran(plain, marked, files, missing, needs=False)


def _run(node: str, path: str, how: str) -> tuple[Any, list[str], dict[str, dict[str, str]]]:
    env = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    reading, writing = os.pipe()
    with open(reading, "rb") as result:
        try:
            # Descriptor 3 by way of a shell: whatever number `writing` has here.
            process = subprocess.Popen(
                [node, SCRIPT, path, str(writing), how],
                cwd=os.path.dirname(path),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            assert process.stderr is not None
            data, said = _output(path, result, process.stderr)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it is not waited for yet, so the number is its own
            code = process.wait()
            assert process.stderr is not None
            process.stderr.close()
    if not data:
        reason = said.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {code}"]
        raise _Failed(path, 1, f"node cannot run it: {reason[0][:200]}")
    try:
        found = json.loads(data, object_pairs_hook=_object)
        given = found["value"], found["missing"], {**found["files"]}
    except (ValueError, TypeError, KeyError):
        raise ImportFault(path, 1, "node did not print JSON for it") from None
    return given


def _output(path: str, result: Any, errors: Any) -> tuple[bytes, bytes]:
    """All that comes on both until the first has ended."""
    found = {result: b"", errors: b""}
    deadline = time.monotonic() + LONGEST
    with selectors.DefaultSelector() as selector:
        for each in found:
            selector.register(each, selectors.EVENT_READ)
        while result in (key.fileobj for key in selector.get_map().values()):
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                raise ImportFault(path, 1, f"node did not finish within {LONGEST:.0f} s, and was killed")
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                found[key.fileobj] += data
                if not data:
                    selector.unregister(key.fileobj)
                if len(found[result]) > MOST_BYTES:
                    raise ImportFault(path, 1, f"its output is larger than {MOST_BYTES} bytes")
                found[errors] = found[errors][-4096:]
    return found[result], found[errors]


def _object(pairs: list[tuple[str, Any]]) -> Object:
    return Object(dict(pairs))


def _unmarked(value: Any) -> Any:
    """The same with None for each leaf that has a marker in it."""
    if isinstance(value, Object):
        return Object({key: _unmarked(each) for key, each in value.items()})
    if isinstance(value, list):
        return [_unmarked(each) for each in value]
    return None if isinstance(value, str) and _MARKER.search(value) else value


def merged(plain: Any, marked: Any, notes: list[str], where: str = "") -> Any:
    """One value of both runs: a leaf with a marker in it becomes a reference, with what it was without one as the default.

    What differs otherwise depends on the environment: it stays as in the first run, and `notes` says so.
    """
    if isinstance(plain, Object) and isinstance(marked, Object):
        return Object(
            {
                key: merged(plain.get(key), marked.get(key), notes, f"{where}.{key}".lstrip("."))
                for key in {**plain, **marked}
            }
        )
    if isinstance(plain, list) and isinstance(marked, list) and len(plain) == len(marked):
        return [
            merged(one, other, notes, f"{where}[{number}]")
            for number, (one, other) in enumerate(zip(plain, marked, strict=True))
        ]
    if isinstance(marked, str) and (match := _MARKER.search(marked)):
        if _MARKER.fullmatch(marked):
            return reference(match[1], "" if plain is None else plain if isinstance(plain, str) else json.dumps(plain))
        before, after = marked[: match.start()], marked[match.end() :]
        default = ""
        if isinstance(plain, str) and not _MARKER.search(after) and plain.startswith(before) and plain.endswith(after):
            default = plain[len(before) : len(plain) - len(after)].replace("undefined", "")
        return _MARKER.sub(lambda each: reference(each[1], default), marked)
    if plain != marked:
        notes.append(where)
    return plain
