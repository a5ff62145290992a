"""The unit files for systemd, as text: those that `startup` installs, and those in conf/systemd. Pure.

`python -m impetusd.cli.install.unitfiles DIR` writes the latter.

A restriction of the unit applies to every program that it runs, hence three profiles. The default keeps programs off
the kernel's settings and off /usr and /etc; `hardened` denies what most services do without; `compatible` leaves
everything as in a shell. No profile may have ProtectControlGroups (each program gets a cgroup below the unit's) or
OOMScoreAdjust (the shim protects itself, and programs get the value it started with).
"""

from __future__ import annotations

import re
import sys

from impetusd.cli.install import generated
from impetusd.core.config.location import SYSTEM_DIRS, Paths
from impetusd.core.protocol import EXIT_OCCUPIED, EXIT_USAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FINAL = (EXIT_USAGE, EXIT_OCCUPIED)  # statuses that no restart changes
DEFAULT, HARDENED, COMPATIBLE = PROFILES = ("default", "hardened", "compatible")
MARK = "# Written by `impetusd startup` for "
# Directories that systemd makes, and removes or keeps, as what each is for: where it has them, the key, and the mode.
MADE = {
    "run_dir": ("/run/", "RuntimeDirectory", "0755"),
    "state_dir": ("/var/lib/", "StateDirectory", "0700"),
    "log_dir": ("/var/log/", "LogsDirectory", "0750"),
}
HOMES = ("/home/", "/root/", "/run/user/")

SERVICE = """\
{mark}
# To change it, leave it as it is and use: systemctl{user} edit {name}

[Unit]
Description=impetusd, which runs what {conf} describes
Wants={helper}
After={helper}
{unit}StartLimitIntervalSec=0

[Service]
Type=notify
# Only the shim, which is the main process, may notify systemd; the programs that it runs may not.
NotifyAccess=main
EnvironmentFile=-{environment}
ExecStart={program} -c {conf_word} run
ExecReload={program} -c {conf_word} apply
# Ready when all programs are up, which may take as long as they take to start.
TimeoutStartSec=infinity
# Programs are stopped in order, each with its own kill_timeout; impetusd extends this as needed.
TimeoutStopSec=90
# When impetusd itself is killed, its programs keep running and the next start takes them over, using the table in the
# run directory (which is preserved) and the file descriptors stored in systemd. After a stop, ExecStopPost= kills what
# is left; {helper} does so if the stop comes while systemd is waiting to restart the service,
# because then systemd runs no command. So RestartSec= is short, and ExecStopPost= makes the pause between two starts.
KillMode=process
FileDescriptorStoreMax=16384
RuntimeDirectoryPreserve=yes
ExecStopPost={program} -c {conf_word} reap-leftovers
WatchdogSec=20
# Not `always`: after `impetusd stop` it stays down. A restart cannot fix a mistake in the INI file (2), or remove
# another impetusd that uses the same folders, or leftover programs that cannot be taken over (73).
Restart=on-failure
RestartSec=1ms
RestartPreventExitStatus={final}
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
{directories}{restrictions}
[Install]
WantedBy={target}
"""

HELPER = """\
# {name}.service starts this unit. If that service is stopped just after impetusd was killed, systemd has no process
# left to stop; this unit then stops the programs that impetusd had started.

[Unit]
Description=Stops programs orphaned by a killed impetusd, for {name}.service
StopWhenUnneeded=yes
RefuseManualStart=yes
{unit}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop={program} -c {conf_word} reap-leftovers --after {name}.service
"""

RESTRICTIONS = """
# These also apply to programs: see the profiles in `impetusd startup --help`.
ProtectSystem=full
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectHostname=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
"""

HARDENED_TEXT = """\
# A drop-in for impetusd.service, from `impetusd startup --profile hardened`: for programs that serve the network and keep
# their files in the directories below. The restrictions also apply to programs; loosen them in your own drop-in:
#   another directory that they may write to:     ReadWritePaths=/srv/shop/uploads
#   just-in-time compilers (node, java, luajit):  MemoryDenyWriteExecute=no
#   programs that access devices:                 PrivateDevices=no, DevicePolicy=auto
# Even stricter with `User=`: CapabilityBoundingSet= (none), and no `user` in the INI file.

[Service]
NoNewPrivileges=yes
# Needed to run programs as other users, signal them, measure their memory, and listen on ports below 1024.
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL CAP_CHOWN CAP_DAC_OVERRIDE CAP_SYS_PTRACE CAP_SYS_RESOURCE CAP_NET_BIND_SERVICE
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectKernelLogs=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
# Costs 10 ms per program start: without clone3(2), a process is moved into its cgroup after the fork.
RestrictNamespaces=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
UMask=0077
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{writable}"""

COMPATIBLE_TEXT = """\
# A drop-in for impetusd.service, from `impetusd startup --profile compatible`: for programs that change the host, like
# timers that renew certificates in /etc or install packages. Nothing is restricted, as if started from a shell.

[Service]
ProtectSystem=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectHostname=no
LockPersonality=no
RestrictRealtime=no
RestrictSUIDSGID=no
"""


def service(name: str, command: str, paths: Paths, *, user: bool = False) -> str:
    """The unit NAME.service. `command` is the path of impetusd. `user`: for systemd --user, which cannot restrict."""
    made, others = _directories(paths)
    directories = "" if user else made
    unit = "" if user else "Wants=network-online.target\nAfter=network-online.target nss-user-lookup.target\n"
    mounts = [] if user else sorted({paths.base_dir, *others} - {"/"})
    if [path for path in mounts if not path.startswith(("/etc/", "/run/"))]:
        unit += f"RequiresMountsFor={_words(mounts)}\n"
    restrictions = "" if user else RESTRICTIONS + _writable(others, ("/usr/", "/etc/", "/boot/"))
    return SERVICE.format(
        mark=mark(paths.conf),
        user=" --user" if user else "",
        name=name,
        unit=unit,
        conf=_on_a_line(paths.conf).replace("%", "%%"),
        environment=f"%h/.config/{name}.env" if user else f"/etc/default/{name}",
        program=_words([command]),  # of the program's own path no $ is expanded
        conf_word=_conf_word(paths),
        helper=helper_name(name),
        final=" ".join(map(str, FINAL)),
        directories=directories,
        restrictions=restrictions,
        target="default.target" if user else "multi-user.target",
    )


def helper(name: str, command: str, paths: Paths, *, user: bool = False) -> str:
    """The unit that goes with NAME.service, and is called as `helper_name` says."""
    mounts = [] if user else sorted({paths.base_dir, *_directories(paths)[1]} - {"/"})
    unit = f"RequiresMountsFor={_words(mounts)}\n" if mounts else ""
    return HELPER.format(name=name, program=_words([command]), conf_word=_conf_word(paths), unit=unit)


def helper_name(name: str) -> str:
    """impetusd → impetusd-leftovers.service, impetusd@shop → impetusd-leftovers@shop.service."""
    stem, at, instance = name.partition("@")
    return f"{stem}-leftovers{at}{instance}.service"


def drop_in(profile: str, command: str, paths: Paths) -> str:
    """The drop-in that makes the unit hardened or compatible; "" for the default profile."""
    if profile == DEFAULT:
        return ""
    if profile == COMPATIBLE:
        return COMPATIBLE_TEXT
    others = _directories(paths)[1]
    needed = (*others, paths.base_dir, paths.conf, command, sys.executable, sys.base_prefix)
    home = "read-only" if any(path.startswith(HOMES) for path in needed) else "yes"
    return HARDENED_TEXT.format(home=home, writable=_writable(others, ("/",)))


def _conf_word(paths: Paths) -> str:
    return _words([paths.conf]).replace("$", "$$")


def mark(conf: str) -> str:
    """The first line of a unit for this INI file: how `startup` and `unstartup` know it again."""
    return MARK + _on_a_line(conf)


def _on_a_line(path: str) -> str:
    return re.sub(r"[\x00-\x1f]", lambda sign: f"\\x{ord(sign[0]):02x}", path)


def _directories(paths: Paths) -> tuple[str, list[str]]:
    """The lines for directories that systemd makes, and the directories that it does not."""
    lines, others = [], []
    for field, (base, key, mode) in MADE.items():
        path = getattr(paths, field)
        below = path.removeprefix(base)
        if below != path and re.fullmatch(r"[\w@./-]+", below, re.ASCII):
            lines.append(f"{key}={below}\n{key}Mode={mode}\n")
        else:
            others.append(path)
    return "".join(lines), others


def _writable(paths: Sequence[str], below: tuple[str, ...]) -> str:
    found = [f"-{path}" for path in paths if path.startswith(below)]
    return f"ReadWritePaths={_words(found)}\n" if found else ""


def _words(words: Sequence[str]) -> str:
    """As systemd.syntax(7) reads them back: quoted where need be, `%` doubled."""
    quoted = []
    for word in words:
        word = word.replace("%", "%%")
        if re.search(r"[\s\"'\\;]", word):
            word = '"' + _on_a_line(word.replace("\\", "\\\\").replace('"', '\\"')) + '"'
        quoted.append(word)
    return " ".join(quoted)


def samples() -> dict[str, str]:
    """The files in conf/systemd, by name."""
    command, etc = "/usr/bin/impetusd", "/etc/impetusd"
    paths = Paths(conf=f"{etc}/impetusd.ini", base_dir=etc, **SYSTEM_DIRS)
    own = {key: f"{path}-INSTANCE" for key, path in SYSTEM_DIRS.items()}
    shop = Paths(conf=f"{etc}/INSTANCE.ini", base_dir=etc, **own)
    instance = service("impetusd@INSTANCE", command, shop)
    _, _, rest = instance.partition("\n\n")
    return {
        "impetusd.service": service("impetusd", command, paths),
        "impetusd@.service": INSTANCES + rest.replace("INSTANCE", "%i"),
        helper_name("impetusd"): helper("impetusd", command, paths),
        helper_name("impetusd@"): helper("impetusd@INSTANCE", command, shop).replace("INSTANCE", "%i"),
        "hardened.conf": HARDENED_TEXT.format(home="yes", writable=""),
        "compatible.conf": COMPATIBLE_TEXT,
    }


INSTANCES = """\
# Several instances on one host: `systemctl enable --now impetusd@shop` runs /etc/impetusd/shop.ini, with its files in
# /run/impetusd-shop, /var/lib/impetusd-shop and /var/log/impetusd-shop.

"""


if __name__ == "__main__":
    generated.write(samples())
