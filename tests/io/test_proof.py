"""Whether a supervisor of the code on the disk could take over is tried in a folder that is removed afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import threading

from fake_supervisor import paths_in
from taken_over import configuration

from impetusd.supervisor import proof
from impetusd.supervisor.api.applying import CONFIG


def test_nothing_writes_into_the_folder_any_more_once_it_is_proved(tmp_path, monkeypatch):
    """A record that waits for the disk is written by a thread, which made a file in the folder while it was being removed."""
    paths, folder = paths_in(tmp_path), tmp_path / "aside"
    folder.mkdir()
    waiting = json.dumps({"n": 7, "at": 1.0, "kind": "daemon"}) + "\n"
    blobs = {CONFIG: configuration("[program:x]\ncommand = sleep 1\n"), "ledger:7": waiting}
    hello = {"pid": os.getpid(), "shutdown": False, "command": [], "table": [], "blobs": blobs}
    (tmp_path / "hello").write_text(json.dumps(hello))
    snapshot = os.open(tmp_path / "hello", os.O_RDONLY)
    monkeypatch.setattr(proof, "SNAPSHOT", snapshot)
    made = []
    real = proof.Daemon
    monkeypatch.setattr(proof, "Daemon", lambda *args, **kwargs: made.append(real(*args, **kwargs)) or made[0])
    try:
        asyncio.run(proof.prove(paths.conf, paths, boot=False, folder=str(folder)))
        assert (folder / "ledger.jsonl").read_text() == waiting
        assert {"ledger", "log writer"}.isdisjoint(thread.name for thread in threading.enumerate())
    finally:
        made[0].close()
        os.close(snapshot)
