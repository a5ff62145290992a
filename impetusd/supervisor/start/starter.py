"""Turns a decision to start a process into orders to the shim: how it is executed or forked, and its descriptors.

Descriptors in the shim's store go by these names:
    log:7:out:r  log:7:out:w  log:7:err:r  log:7:err:w   the pipes of one slot, which outlive its processes
    chan:12                                              our end of the command channel of worker process 12
    listen:web:127.0.0.1:8080                            a unit's listening socket
    inherited:gateway  inherited:gateway:theirs          see `supervisor.api.inherited`
    cells:web                                            the page of memory that a pool's workers share
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.core.config import node, runtime
from impetusd.core.config.environment import handed_on
from impetusd.core.config.gateway import CHANNEL as INHERITED
from impetusd.core.config.model import Kind, Unit
from impetusd.supervisor.disk.ledger import Ledger
from impetusd.supervisor.logs import logpipe
from impetusd.supervisor.logs.writer import Writer
from impetusd.supervisor.slots.entry import FORKING, Entry, Role, serving, slot_name
from impetusd.supervisor.start import childspec
from impetusd.supervisor.start.channels import Channels
from impetusd.supervisor.start.childspec import Found
from impetusd.supervisor.start.link import Link, Mark, Outbox
from impetusd.supervisor.start.listeners import Listeners
from impetusd.supervisor.start.lookups import LookUps
from impetusd.supervisor.start.pipes import LogPipes

# Variables that a forked worker does not get from its template.
OF_A_FORK = ("INVOCATION_ID", "IMPETUSD_NAME", "INSTANCE", "NOTIFY_SOCKET", "WATCHDOG_USEC")


class Starter:
    """Starts processes; `outbox` is what a round asks for, the others hold the descriptors of each kind."""

    def __init__(self, link: Link, writer: Writer, ledger: Ledger, environ: Mapping[str, str], log_dir: str) -> None:
        """`environ` is the daemon's environment, of which a few variables are handed on."""
        self.outbox = Outbox(link, ledger)
        self.pipes = LogPipes(self.outbox, writer, log_dir)
        self.listeners = Listeners(self.outbox, writer)
        self.channels = Channels(self.outbox)
        self.look_ups = LookUps()
        self._environ = dict(environ)  # os.environ decodes each variable whenever it is asked
        self._passed: dict[tuple[str, ...], dict[str, str]] = {}
        self._uid = os.geteuid()
        self._next_process = 1
        # The NOTIFY_SOCKET of a process of a unit, which runs as the user. Raises CannotStart.
        self.notify_address: Callable[[str, int], str] = lambda _unit, _uid: ""

    # Processes.

    def launch(self, entry: Entry, found: Found, template: int | None) -> int:
        """Start the slot's process, forked from `template` if one is given, and note its secrets. Returns its number.
        Raises CannotStart.

        If it raises, the caller must call `roll_back`.
        """
        unit = entry.unit
        process = self._next_process
        name = entry.name if entry.role is not Role.NEXT else slot_name(unit, serving(unit), entry.index)
        passed = self._passed.get(unit.env_pass) or self._pass_on(unit.env_pass)
        spec = childspec.spec(unit, name, entry.index, passed, found)
        env, uid = spec["env"], found.identity.get("uid", self._uid)
        if unit.wait_ready or entry.policy.watchdog or (unit.ready is not None and node.listens(unit)):
            env["NOTIFY_SOCKET"] = self.notify_address(unit.name, uid)
        if entry.policy.watchdog:
            env["WATCHDOG_USEC"] = str(round(entry.policy.watchdog * 1_000_000))
        self._next_process += 1  # also if nothing comes of it
        if unit.listen and (entry.serves or entry.role is Role.PROGRAM):
            self.listeners.let_in(unit)
        listeners = self.listeners.bind(unit, found) if unit.listen else []
        pipe = entry.rec.pipe if entry.rec.pipe is not None else self.pipes.make(entry)
        if self.pipes.owners.get(pipe, self._uid) != uid:
            self.pipes.own(pipe, uid)
        stdio = ["", f"log:{pipe}:out:w", f"log:{pipe}:err:w"]
        # Carried in case all their holders die: with the pipes' other ends a process outlives all of impetusd
        # without SIGPIPE.
        carried = [f"log:{pipe}:out:r", f"log:{pipe}:err:r"]
        theirs: list[str] = []
        # The line by which it is ready may come before we hear that it runs.
        awaited = unit.ready.value.encode() if unit.ready is not None and unit.ready.kind == "log" else None
        logpipe.begin_run(self.pipes.of[pipe], awaited)
        if entry.works:
            self.channels.open(process)
            carried = [*carried, f"chan:{process}"]
        if entry.serves:
            self.channels.put_to_work(process, entry.name)
        if template is not None:
            spec = {
                "env": {key: env[key] for key in (*OF_A_FORK, *unit.per_instance, unit.increment_var) if key in env},
                "fds": [*stdio[1:], f"chan:{process}:theirs", *carried],
                "stop": spec["stop"],
                "limits": spec["limits"],
            }
            operation = {"op": "fork", "process": process, "via": template}
        else:
            fds = stdio + listeners
            if unit.made is not None:
                env[INHERITED] = str(len(fds))
                fds.append(f"inherited:{unit.name}:theirs")
                carried.append(f"inherited:{unit.name}")
            if unit.listen and node.is_loaded(unit):
                theirs = self._node(unit, process, listeners, env)
            if unit.kind is Kind.POOL:
                self._of_pool(entry, spec, fds, f"chan:{process}:theirs")
            if listeners:
                env.update(LISTEN_FDS=str(len(listeners)), LISTEN_FDNAMES=":".join([unit.name] * len(listeners)))
            fds += theirs
            spec["listen"] = len(listeners)
            spec["fds"] = {str(number): name for number, name in enumerate(fds)}
            after = len(fds) + ("fork_fd" in spec)
            spec["fds"].update({str(number): name for number, name in enumerate(carried, after)})
            operation = {"op": "spawn", "process": process}
        spec["group"] = f"{unit.name}-{process}"
        self.outbox.ask({**operation, "spec": spec})
        if entry.works or theirs:
            self.outbox.drop(f"chan:{process}:theirs")
        entry.secrets = redact.secrets(found.env_file.items()) if found.env_file else ()  # the others are known
        return process

    def _pass_on(self, env_pass: tuple[str, ...]) -> dict[str, str]:
        """For all units with this env_pass, computed once: what the daemon's environment is made of does not change."""
        passed = self._passed[env_pass] = childspec.passed_on(self._environ, env_pass)
        return passed

    def handed_on(self, unit: Unit) -> dict[str, str]:
        """The part of the daemon's environment that the unit's processes get."""
        return handed_on(self._environ, unit.env_pass)

    def _node(self, unit: Unit, process: int, listeners: list[str], env: dict[str, str]) -> list[str]:
        """Load our preload into a program: its variables into `env`; returns what it needs besides its sockets.

        Node can write no datagram to a path, but any descriptor. Raises CannotStart.
        """
        theirs: list[str] = []
        notify = None
        if "NOTIFY_SOCKET" in env:
            theirs = [f"chan:{process}:theirs"]
            fd = childspec.connect_to(env["NOTIFY_SOCKET"])
            try:
                notify = 3 + len(listeners), os.fstat(fd).st_ino
                self.outbox.keep(theirs[0], fd, ours=False)
            except BaseException:
                os.close(fd)
                raise
        inodes = [os.fstat(self.outbox.fds[name]).st_ino for name in listeners]
        env.update(childspec.of_node(unit, env, inodes, notify))
        return theirs

    def _of_pool(self, entry: Entry, spec: dict[str, Any], fds: list[str], channel: str) -> None:
        """What a template or worker that is executed has besides, into `spec` and `fds`."""
        unit, env = entry.unit, spec["env"]
        env.update(runtime.variables(unit, env))
        env["PYTHONUNBUFFERED"] = "1"
        page = self.listeners.page(unit)
        if page:
            env[childspec.CELLS_FD] = str(len(fds))
            fds.append(page)
        if entry.role in FORKING:
            env[childspec.FORK_FD] = str(len(fds))
            spec["argv"] = runtime.command(unit, "template")
            spec["fork_fd"] = len(fds)
        else:
            env[childspec.CHANNEL_FD] = str(len(fds))
            spec["argv"] = runtime.command(unit, "serve")
            fds.append(channel)

    def roll_back(self, mark: Mark) -> None:
        """Do not send the orders of a start since `mark`."""
        self.outbox.roll_back(mark)
        self.listeners.roll_back()

    def continue_from(self, process: int, pipes: set[int]) -> None:
        """Begin with `process`, the first unused number, and close descriptors that the records do not name.

        A supervisor that died between two messages may have left descriptors that no record speaks of. Their numbers
        count as used: within a round descriptors are stored before others are dropped, in whatever order they were
        added.
        """
        self._next_process = process
        for name in list(self.outbox.fds):
            kind, _, rest = name.partition(":")
            number = rest.partition(":")[0]
            if kind == "chan":
                self._next_process = max(self._next_process, int(number) + 1)
            unknown = (kind == "log" and int(number) not in pipes) or (kind == "chan" and int(number) >= process)
            if unknown or kind == "aside":
                self.outbox.drop(name)

    # New code.

    def spawn_helper(self, argv: list[str], out: int) -> int:
        """Start a command that belongs to no slot, with the shim's snapshot at descriptor 3. Returns its number.

        What it prints goes to `out`, which is the starter's from now on until `end_helper`.
        """
        process = self._next_process
        self._next_process += 1
        self.outbox.keep("aside:out", out, ours=True)
        self.outbox.ask({"op": "snapshot", "name": "aside:told"})
        spec = {
            "argv": argv,
            "env": dict(os.environ),
            "cwd": "/",
            "fds": {"0": "", "1": "aside:out", "2": "aside:out", "3": "aside:told"},
            "umask": 0o022,
            "nice": 0,
            "oom_score_adj": 0,
            "affinity": [],
            "rlimits": [],
        }
        self.outbox.ask({"op": "spawn", "process": process, "spec": spec})
        self.outbox.flush()
        return process

    def end_helper(self, process: int) -> None:
        """It has ended, and what it printed was read."""
        self.outbox.ack(process)
        self.outbox.drop("aside:told")
        self.outbox.drop("aside:out")
        self.outbox.flush()

    def upgrade_shim(self) -> None:
        """Let the shim switch to the code now on the disk: it answers `upgraded` or `refused`."""
        self.outbox.ask({"op": "upgrade"})
        self.outbox.flush()
