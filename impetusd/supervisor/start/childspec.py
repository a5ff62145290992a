"""From a unit to the spec that the shim starts: argv, environment, identity, limits.

The environment is built, not inherited: a short list of the daemon's own variables, then what the INI gives, then what
the protocols need. So what a program sees does not depend on whose shell started the daemon, unless env_pass says so.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from impetusd.core.config import capabilities, envfile, node, schema
from impetusd.core.config.agreement import is_number
from impetusd.core.config.environment import handed_on, passes_path
from impetusd.core.config.model import Kind, Listen, Unit, user_and_group
from impetusd.core.reasons import Reason, because, not_started, of_os_error, said
from impetusd.core.trust import Trust
from impetusd.core.values import dataclass
from impetusd.files import vetted
from impetusd.files.folders import open_folder
from impetusd.linux import host
from impetusd.linux.host import Account

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHANNEL_FD = "IMPETUSD_CHANNEL_FD"
FORK_FD = "IMPETUSD_FORK_FD"
CELLS_FD = "IMPETUSD_CELLS_FD"
CPU_PERIOD = 100_000  # microseconds, the kernel's own


class CannotStart(Exception):
    """A start failed before there was a process: at a stage of `reasons.STAGES`, which is about `what`.

    `port`: that another process has.
    """

    def __init__(self, stage: str, cause: Reason, what: str = "", *, port: int = 0) -> None:
        self.reason = not_started(stage, cause, what)
        super().__init__(stage, cause, what)
        self.port = port

    def __str__(self) -> str:
        return str(self.reason)


Address = tuple[int, int, int, Any]  # family, kind, protocol and address of a socket


@dataclass(frozen=True, slots=True)
class Found:
    """The host's answers about a unit. Each may take for ever: a name service or a disk gives it."""

    identity: Mapping[str, Any] = field(default_factory=dict)
    home: Mapping[str, str] = field(default_factory=dict)  # the variables that a user brings
    env_file: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of unix sockets: uid and gid
    hosts: Mapping[str, Address] = field(default_factory=dict)  # of TCP sockets that have a name for an address


NOTHING = Found()  # of a unit that asks nothing of the host


class LookUp:
    """Looks up on the host what a start of `unit` needs; called in a thread, because it may hang. `stage` says in which
    step, and of what (`reasons.STAGES`).
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.stage = "account", ""

    @property
    def needed(self) -> bool:
        """Whether there is anything to look up."""
        unit = self.unit
        named = any(each.owner or _is_name(each) for each in unit.listen)
        return bool(unit.user or unit.group or unit.env_file or named or unit.made)

    def __call__(self) -> Found:
        """Raises CannotStart."""
        unit = self.unit
        who, home = identity(unit), home_of(unit)
        if node.is_loaded(unit):
            self.stage = "node", ""
            refuse_unreadable(node.PRELOAD, user_and_group(unit.user)[0])
        if unit.made is not None:
            self.stage = "own_folder", unit.made.folder
            own_folder(unit.made.folder, who.get("uid"), user_and_group(unit.user)[0])
        self.stage = "socket_owner", ""
        owners = {each.owner: owner_of(each.owner) for each in unit.listen if each.owner}
        self.stage = "listen_host", ""
        hosts = {each.host: address_of(each.host) for each in unit.listen if _is_name(each)}
        self.stage = "env_file", " ".join(unit.env_file)
        return Found(who, home, read_env_files(unit), owners, hosts)


def identity(unit: Unit) -> dict[str, Any]:
    """uid, gid and the explicit list of groups, or none of them when the unit runs as the daemon does.

    Raises CannotStart when the user or group has gone since the configuration was checked.
    """
    if not unit.user and not unit.group:
        return {}
    user, group = user_and_group(unit.user)
    group = unit.group or group
    if not user:
        gid = gid_of(group)
        return {"uid": os.geteuid(), "gid": gid, "groups": [gid]}
    person = person_of(user)
    gid = gid_of(group) if group else person.gid
    return {"uid": person.uid, "gid": gid, "groups": host.groups_of(person, gid)}


def home_of(unit: Unit) -> dict[str, str]:
    """The variables that the unit's user brings; none when it runs as the daemon does. Raises CannotStart."""
    user, _ = user_and_group(unit.user)
    if not user:
        return {}
    person = person_of(user)
    name = person.name or str(person.uid)
    return {"HOME": person.home, "USER": name, "LOGNAME": name, "SHELL": person.shell}


def owner_of(owner: str) -> tuple[int, int]:
    """uid and gid of a socket's owner: "user", "user:group" or ":group". Raises CannotStart."""
    user, group = user_and_group(owner)
    person = person_of(user) if user else None
    uid = person.uid if person is not None else os.geteuid()
    return uid, gid_of(group) if group else person.gid if person is not None else os.getegid()


def person_of(user: str) -> Account:
    """By name or by number. Raises CannotStart."""
    try:
        return host.account(user)
    except (KeyError, ValueError):
        raise CannotStart("account", because("no_user", name=user)) from None


def gid_of(group: str) -> int:
    """By name or by number. Raises CannotStart."""
    try:
        return host.gid_of(group)
    except (KeyError, ValueError):
        raise CannotStart("account", because("no_group", name=group)) from None


def refuse_unreadable(path: str, user: str) -> None:
    """Raises CannotStart if `user` cannot read a file of ours that it needs (only root may): Node would end with a
    traceback. "" is impetusd's own user.
    """
    closed = "" if user in {"", "root", "0"} else host.closed_to_others(path)
    if closed:
        raise CannotStart("node", because("closed_to_others", name=user, path=closed))


def own_folder(path: str, uid: int | None, user: str) -> None:
    """Make the folder `path` if missing, owned by the user like its contents; no other user may enter. Raises
    CannotStart.

    `uid`: None is impetusd's own. It is in state_dir, which others may pass through then, and not list.
    """
    try:
        fd = open_folder(path, make=0o700)
        try:
            there = os.fstat(fd)
            if stat.S_IMODE(there.st_mode) != 0o700:  # as another thread's umask had it, for one
                os.chmod(f"/proc/self/fd/{fd}", 0o700)
            if uid not in {None, there.st_uid}:
                _give_to_user(fd, uid, user, path)
            parent = os.stat("..", dir_fd=fd)
            if uid not in {None, 0, parent.st_uid} and not parent.st_mode & stat.S_IXOTH:
                os.chmod(os.path.dirname(path), stat.S_IMODE(parent.st_mode) | stat.S_IXOTH)
        finally:
            os.close(fd)
        closed = "" if uid in {None, 0} else host.closed_to_others(os.path.dirname(path), stat.S_IXOTH)
    except OSError as error:
        raise CannotStart("own_folder", of_os_error(error), path) from None
    if closed:
        raise CannotStart("own_folder", because("no_way", name=user, path=closed), path)


def _give_to_user(folder: int, uid: int, user: str, path: str) -> None:
    try:
        _give(folder, uid)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EINVAL}:  # no CAP_CHOWN; no such number in this user namespace
            raise
        raise CannotStart("own_folder", because("no_other_user", cause=of_os_error(error), name=user), path) from None


def _give(folder: int, uid: int) -> None:
    """Give the folder, and each file in it that is its owner's under no other name, to another user. Raises OSError."""
    before = os.fstat(folder).st_uid
    for name in os.listdir(f"/proc/self/fd/{folder}"):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            there = os.fstat(fd)
            if stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and there.st_uid == before:
                os.chown(f"/proc/self/fd/{fd}", uid, -1)
        finally:
            os.close(fd)
    os.chown(f"/proc/self/fd/{folder}", uid, -1)


def _is_name(address: Listen) -> bool:
    """Whether its host is a name, which must be resolved."""
    return ":" not in address.host and bool(address.host.strip("0123456789."))


def address_of(host: str) -> Address:
    """Where to bind for `host`; the port is 0. Raises CannotStart."""
    try:
        family, kind, proto, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise CannotStart("host", of_os_error(error), host) from None
    return family, kind, proto, where


def passed_on(daemon: Mapping[str, str], env_pass: Sequence[str]) -> dict[str, str]:
    """What the processes of a unit get of the daemon's environment, and the PATH that they begin with."""
    env = handed_on(daemon, env_pass)
    path, own = env.get("PATH", DEFAULT_PATH), os.path.dirname(sys.executable)
    env["PATH"] = path if passes_path(env_pass) else f"{own}:{path}"
    return env


def environment(unit: Unit, name: str, index: int, passed: Mapping[str, str], found: Found = NOTHING) -> dict[str, str]:
    """The environment of slot `name`: `passed_on`, of the user, from its env_file, from the INI file, our own. What env_pass
    names outright is as in `passed_on`, not as the user has it.

    Raises CannotStart if increment_var has nothing to count from.
    """
    env = {**passed, **{name: value for name, value in found.home.items() if name not in unit.env_pass}}
    env.update(found.env_file)
    env.update(unit.env)
    if unit.increment_var:
        env[unit.increment_var] = _incremented(unit.increment_var, env, index)
    env.update(
        INVOCATION_ID=os.urandom(16).hex(),
        IMPETUSD_UNIT=unit.name,
        IMPETUSD_NAME=name,
        INSTANCE=str(index),
    )
    return env


def _incremented(variable: str, env: Mapping[str, str], index: int) -> str:
    """Raises CannotStart: an env_file is not known before the start."""
    value = env.get(variable)
    if value is None or not is_number(value):
        cause = because("not_set", name=variable) if value is None else because("no_number", name=variable)
        raise CannotStart("increment_var", cause, variable)
    return str(int(value) + index)


def connect_to(address: str) -> int:
    """A datagram socket that is connected to NOTIFY_SOCKET's `address`. Raises CannotStart."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            return sock.detach()
    except OSError as error:
        raise CannotStart("notify_socket", of_os_error(error), address) from None


def of_node(unit: Unit, env: Mapping[str, str], inodes: list[int], notify: tuple[int, int] | None) -> dict[str, str]:
    """The variables of a program that our preload is loaded into; see `core.config.node`."""
    signal = schema.show_signal(unit.kill_signal)
    variables = {
        "IMPETUSD_NODE": node.environment(unit, inodes, notify, signal, sys.executable),
        "NODE_OPTIONS": node.options(env.get("NODE_OPTIONS", "")),
    }
    port = next((address.port for address in unit.listen if address.port), 0)
    return {**({"PORT": str(port)} if port and "PORT" not in env else {}), **variables}


def spec(unit: Unit, name: str, index: int, passed: Mapping[str, str], found: Found = NOTHING) -> dict[str, Any]:
    """The spec (see `shim.spawn`) of a process of slot `name`, without its descriptors and its group.

    Raises CannotStart, as `environment`.
    """
    return {
        "argv": list(unit.command),
        "env": environment(unit, name, index, passed, found),
        "cwd": unit.cwd,
        "umask": unit.umask,
        "nice": unit.nice,
        "oom_score_adj": unit.oom_score_adj,
        "affinity": list(unit.cpu_affinity),
        "rlimits": [list(limit) for limit in unit.rlimits],
        "stop": stop(unit),
        "limits": limits(unit),
        **found.identity,
        **({} if unit.no_new_privs == "auto" else {"no_new_privs": unit.no_new_privs == "yes"}),
        **({"capabilities": capabilities.numbers(unit.capabilities)} if unit.capabilities else {}),
    }


def beside(unit: Unit, index: int, daemon: Mapping[str, str], found: Found) -> dict[str, Any]:
    """The spec of a command in the surroundings of instance `index`, without its sockets, pipes and argv.

    Raises CannotStart, as `environment`.
    """
    name = f"{unit.name}:{index}" if unit.kind in {Kind.POOL, Kind.PROGRAM} else unit.name
    whole = spec(unit, name, index, passed_on(daemon, unit.env_pass), found)
    return {key: value for key, value in whole.items() if key not in {"argv", "stop", "limits"}}


def named(
    units: Mapping[str, Unit], name: str, instances: Callable[[Unit], int] = lambda unit: unit.instances_max
) -> tuple[str, int] | None:
    """The unit, and the number of its instance, that `name` means: a unit (0) or one of its `instances` (UNIT:N)."""
    unit, _, number = name.rpartition(":")
    if name in units:
        return name, 0
    if unit in units and number.isascii() and number.isdecimal() and len(number) < 6:
        return (unit, int(number)) if int(number) < instances(units[unit]) else None
    return None


def limits(unit: Unit) -> dict[str, str]:
    """What is written into the files of the cgroup of each process of the unit."""
    memory = {"memory.max": str(unit.memory_max), "memory.oom.group": "1"} if unit.memory_max else {}
    return {**memory, **({"cpu.max": f"{unit.cpu_max * CPU_PERIOD // 100} {CPU_PERIOD}"} if unit.cpu_max else {})}


def stop(unit: Unit) -> list[Any]:
    """How the shim stops a process of the unit, if there is no supervisor: signal, seconds until SIGKILL, treekill."""
    return [int(unit.kill_signal), unit.kill_timeout, unit.treekill]


def read_env_files(unit: Unit) -> dict[str, str]:
    """The variables of the unit's env_file, read anew at each start: see `core.config.envfile`. Raises CannotStart."""
    found: dict[str, str] = {}
    trust = trust_of(unit) if unit.env_file else None
    for path, optional in map(envfile.named, unit.env_file):
        try:
            found.update(envfile.parse(_env_file(path, trust, optional=optional), unit.rules))
        except envfile.Fault as fault:
            raise CannotStart("env_file", said(str(fault)), path) from None
    return found


def trust_of(unit: Unit) -> Trust | None:
    """Whose files root trusts for this unit: root's own and those of the unit's user. None if we are not root.

    Raises CannotStart, as `identity`.
    """
    if os.geteuid() != 0:
        return None
    who = identity(unit)
    return Trust(who["uid"], frozenset(who["groups"])) if who.get("uid") else Trust()


def _env_file(path: str, trust: Trust | None, *, optional: bool) -> bytes:
    """Its text. Raises CannotStart; also for a file that others may write: LD_PRELOAD in it would run their
    code."""
    try:
        data, fault = vetted.read(path, vetted.MOST_ENV_FILE, trust)
    except OSError as error:
        if optional and error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return b""
        raise CannotStart("env_file", of_os_error(error), path) from None
    if fault is not None:
        raise CannotStart("env_file", because("untrusted", what=fault.what, fix=fault.fix), path)
    return data
