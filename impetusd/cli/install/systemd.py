"""The host's systemd, as `startup` and `unstartup` need it: where unit files lie, whose they are, and systemctl."""

from __future__ import annotations

import contextlib
import os
import subprocess

from impetusd.cli.failure import Failure
from impetusd.cli.install import unitfiles

BOOTED = "/run/systemd/system"  # is there when systemd is PID 1: sd_booted(3)
SYSTEM_UNITS = "/etc/systemd/system"
LINGER = "/var/lib/systemd/linger"  # a file in it for each user whose services run without a login


class Manager:
    """The system's manager, or with `user` the calling user's."""

    def __init__(self, *, user: bool) -> None:
        self.user = user
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        self.folder = f"{home}/systemd/user" if user else SYSTEM_UNITS
        self.command = "systemctl --user" if user else "systemctl"  # as the operator types it

    def require(self, verb: str, command: str) -> None:
        """Raise Failure where this process may not, or cannot, change services. `command` is how impetusd is called."""
        if not self.user and os.geteuid() != 0:
            raise Failure(
                f"only root can {verb} a system service: run as root, or {verb} a user service with:"
                f" {command} {'startup' if verb == 'install' else 'unstartup'} --user"
            )
        if not os.path.isdir(BOOTED):
            raise Failure(
                f"this host does not use systemd ({BOOTED} does not exist); nothing was changed."
                f" `{command} startup {'--user ' * self.user}--print` prints the unit file for another host"
            )

    def units_of(self, conf: str) -> list[str]:
        """The names, without .service, of the units that `startup` has written for this INI file."""
        mark = unitfiles.mark(conf) + "\n"
        try:
            names = sorted(name for name in os.listdir(self.folder) if name.endswith(".service"))
        except OSError:
            return []
        return [name.removesuffix(".service") for name in names if read(f"{self.folder}/{name}").startswith(mark)]

    def ask(self, *words: str) -> str:
        """The output of systemctl, whatever its exit status."""
        return self._run(words).stdout.strip()

    def facts(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit, as far as systemd reports them."""
        lines = self.ask("show", f"--property={','.join(names)}", unit).splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def job(self, unit: str) -> str:
        """The job of systemd for a unit, pending or running: start, stop, restart …; "" if none, or unknown."""
        for line in self.ask("list-jobs", "--no-legend", unit).splitlines():
            words = line.split()  # id, unit, type, state
            if len(words) == 4 and words[1] == unit:
                return words[2]
        return ""

    def run(self, *words: str) -> None:
        """Run a systemctl command. Raises Failure with its own message if it fails."""
        done = self._run(words)
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"exit {done.returncode}"
            hint = ""
            if self.user and "connect to bus" in said:
                hint = (
                    "; a user service needs your systemd --user, which runs only while you are logged in (su and sudo"
                    " do not count), or always after: sudo loginctl enable-linger $USER"
                )
            raise Failure(f"`{self.command} {' '.join(words)}` failed: {said}{hint}")

    def state(self, name: str) -> str:
        """active, activating, deactivating, reloading, failed or inactive."""
        return self.ask("is-active", f"{name}.service") or "inactive"

    def _run(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        command = ["systemctl", *(["--user"] if self.user else []), "--no-ask-password", *words]
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except OSError as error:
            raise Failure(f"cannot execute systemctl: {error.strerror}") from None


def read(path: str) -> str:
    """The text of a file; "" if there is none that can be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write(path: str, text: str) -> bool:
    """Make `path` hold `text`, at once or not at all. False if it did already; Failure if it cannot be written."""
    if os.path.exists(path) and read(path) == text:
        return False
    aside = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(aside, 0o644)
        os.rename(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    return True


def remove(path: str) -> bool:
    """Remove a file; False if there is none. Raises Failure if it cannot be removed."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Failure(f"cannot remove {path}: {error.strerror}") from None
    return True


def drop_in_path(folder: str, name: str, profile: str) -> str:
    """The path of a profile's drop-in."""
    return f"{folder}/{name}.service.d/impetusd-{profile}.conf"
