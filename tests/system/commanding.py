"""Commands of impetusd as a test gives them: processes whose interpreter has been started, and has imported, before."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, AnyStr, ClassVar

COMMAND = [f"{os.path.dirname(sys.executable)}/impetusd"]


class Host:
    """A process by `fork_host` that others are forks of; it runs `program` from the first fork to `close_all`."""

    running: ClassVar[list[Host]] = []

    def __init__(self, program: Path) -> None:
        self._program = program
        self._sock: socket.socket | None = None

    def fork(self, fds: dict[int, int], **wanted: object) -> int:
        """The pid of a new child of this process; `fds`: by the number that each has there. More: see fork_host."""
        if self._sock is None:
            self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            argv = [sys.executable, self._program, str(theirs.fileno())]
            self._process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], env={"PATH": os.defpath})
            theirs.close()
            self.running.append(self)
        socket.send_fds(self._sock, [json.dumps({"fds": [*fds], **wanted}).encode()], [*fds.values()])
        return int(self._sock.recv(20))

    @classmethod
    def close_all(cls) -> None:
        while cls.running:
            host = cls.running.pop()
            assert host._sock is not None
            host._sock.close()
            host._sock = None
            host._process.wait()


atexit.register(Host.close_all)


class Forked(subprocess.Popen[AnyStr]):
    """As Popen, for what `host` runs; `cwd` and `env` must be given, and with a user its group and groups."""

    host = Host(Path(__file__).with_name("command_host.py"))

    def _execute_child(self, args: list[str], *how: Any) -> None:
        passed, cwd, env, stdin, stdout, stderr = (how[number] for number in (3, 4, 5, 9, 12, 14))
        gid, groups, uid = how[16:19]
        user = None if uid is None else (uid, gid, groups)
        streams = {number: fd if fd >= 0 else number for number, fd in enumerate((stdin, stdout, stderr))}
        try:
            wanted = {"argv": args, "cwd": os.fspath(cwd), "env": env, "user": user}
            self.pid = self.host.fork({**streams, **{fd: fd for fd in passed}}, **wanted)
        finally:
            self._close_pipe_fds(*how[9:15])  # type: ignore[attr-defined]
        self._child_created = True


def popen(argv: list[str], env: dict[str, str], **how: Any) -> subprocess.Popen[str]:
    """Start `argv`. It is executed where another process than a fork of ours can tell the difference."""
    same = argv[:1] == COMMAND
    decoded = [name for name in env if name.startswith(("LANG", "LC_", "PYTHON"))]  # at the start of an interpreter
    return (subprocess.Popen if decoded or not same else Forked)(argv, env=env, **how)
