"""Commands of impetusd as a test gives them: processes whose interpreter has been started, and has imported, before."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = [f"{os.path.dirname(sys.executable)}/impetusd"]
HOST = Path(__file__).with_name("command_host.py")


class Host:
    """The process that the commands are forks of."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, HOST, str(theirs.fileno())], pass_fds=[theirs.fileno()], env={"PATH": os.defpath}
        )
        theirs.close()

    def fork(self, fds: list[int], **command: object) -> int:
        """The pid of a new child of this process, which runs the command with these streams."""
        socket.send_fds(self._sock, [json.dumps(command).encode()], fds)
        return int(self._sock.recv(20))

    def close(self) -> None:
        self._sock.close()
        self._process.wait()


_hosts: list[Host] = []


def _host() -> Host:
    if not _hosts:
        _hosts.append(Host())
        atexit.register(_hosts[0].close)
    return _hosts[0]


class Forked(subprocess.Popen[str]):
    """As Popen, for COMMAND as whoever asks; `cwd`, `env` and the three streams must be given."""

    def _execute_child(self, args: list[str], *how: Any) -> None:
        cwd, env, stdin, stdout, stderr = how[4], how[5], how[9], how[12], how[14]
        try:
            self.pid = _host().fork([stdin, stdout, stderr], argv=args, cwd=os.fspath(cwd), env=env)
        finally:
            self._close_pipe_fds(*how[9:15])  # type: ignore[attr-defined]
        self._child_created = True


def popen(argv: list[str], env: dict[str, str], **how: Any) -> subprocess.Popen[str]:
    """Start `argv`. It is executed where another process than a fork of ours can tell the difference."""
    same = argv[:1] == COMMAND and how.get("user") is None
    decoded = [name for name in env if name.startswith(("LANG", "LC_", "PYTHON"))]  # at the start of an interpreter
    return (subprocess.Popen if decoded or not same else Forked)(argv, env=env, **how)
