"""Hosts for `impetusd -H`: a real sshd for each connection, without a port, and an instance of its own behind each name.

ssh's ProxyCommand is `sshd -i`. As root it is run where /run is a tmpfs of its own, for it wants a folder there that only a
boot makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from instance import COMMAND, Instance

SSHD = "/usr/sbin/sshd"
NEEDED = (SSHD, "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/unshare")


class Hosts:
    """The hosts of `instances`, by name; `environ` is what a command needs that reaches them. A context manager."""

    def __init__(self, instances: Mapping[str, Instance]) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to log in by sshd")
        lacks = [path for path in NEEDED if not os.access(path, os.X_OK)]
        if lacks:
            pytest.skip(f"needs {', '.join(lacks)}")
        self.folder = Path(tempfile.mkdtemp(prefix="imph", dir="/tmp"))
        for key in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / key)]
            subprocess.run(words, check=True)
        known = (self.folder / "host.pub").read_text()
        config = ""
        for name, instance in instances.items():
            (self.folder / f"{name}.sshd").write_text(
                f"HostKey {self.folder}/host\nAuthorizedKeysFile {self.folder}/user.pub\nStrictModes no\nUsePAM no\n"
                f"PermitRootLogin prohibit-password\nPidFile none\nPrintMotd no\nLogLevel ERROR\n"
                f"SetEnv IMPETUSD_CONF={instance.conf} PATH={Path(COMMAND[0]).parent}:/usr/bin:/bin\n"
            )
            inside = f"mount -t tmpfs none /run && mkdir /run/sshd && exec {SSHD} -i -f {self.folder}/{name}.sshd"
            config += f"Host {name}\nProxyCommand unshare --mount sh -c '{inside}'\n"
        (self.folder / "known").write_text("".join(f"{name} {known}" for name in instances))
        config += f"""Host gone
ProxyCommand false
Host *
User root
IdentityFile {self.folder}/user
IdentitiesOnly yes
UserKnownHostsFile {self.folder}/known
StrictHostKeyChecking yes
LogLevel ERROR
"""
        (self.folder / "config").write_text(config)
        self.environ = {"IMPETUSD_SSH": f"ssh -F {self.folder}/config"}

    def close(self) -> None:
        shutil.rmtree(self.folder)
