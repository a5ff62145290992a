"""How a decision reaches the shim: records, operations and descriptors, gathered into one message a round.

Descriptors in the shim's store go by these names:
    log:7:out:r  log:7:out:w  log:7:err:r  log:7:err:w   the pipes of one slot, which outlive its processes
    chan:12                                              our end of the command channel of worker process 12
    listen:web:127.0.0.1:8080                            a unit's listening socket
    inherited:gateway  inherited:gateway:theirs          see `supervisor.api.inherited`
    cells:web                                            the page of memory that a pool's workers share
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import os
import resource
import socket
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from impetusd.core.config import node, runtime
from impetusd.core.config.gateway import CHANNEL as INHERITED
from impetusd.core.config.model import Kind, Unit
from impetusd.core.reasons import Reason, of_os_error
from impetusd.core.rules.lifecycle import Scope
from impetusd.files.folders import unlink_socket
from impetusd.linux.priority import WARNING
from impetusd.shim.wire import MOST_FDS
from impetusd.supervisor.api.measured import Measured
from impetusd.supervisor.disk.ledger import Ledger
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.logs.logpipe import own_end
from impetusd.supervisor.logs.stream import NAMES, STDOUT, Prefix
from impetusd.supervisor.logs.stream import STREAMS as LOG_STREAMS
from impetusd.supervisor.logs.writer import Options, Writer
from impetusd.supervisor.slots.entry import FORKING, PASSING, Entry, Role, log_files, serving, slot_name
from impetusd.supervisor.start import childspec
from impetusd.supervisor.start.childspec import CannotStart, Found
from impetusd.supervisor.start.link import Link
from impetusd.supervisor.start.lookups import LookUps
from impetusd.supervisor.start.socketfiles import SocketFiles
from impetusd.supervisor.start.sockets import adjust, bound_to, drop_new_connections, let_in, listen_on, refuse
from impetusd.worker import cells

STREAMS = ("out", "err")
RESERVE = 16  # descriptors that no program's pipes may take: `status` and `stop` are answered with them
# What of its environment a forked worker does not have from its template.
OF_A_FORK = ("INVOCATION_ID", "IMPETUSD_NAME", "INSTANCE", "NOTIFY_SOCKET", "WATCHDOG_USEC")


class Mark(NamedTuple):
    """How much of each a round has gathered."""

    puts: int
    ops: int
    keeps: int


class Starter:
    """Gathers what one round of the engine asks for, and sends it."""

    def __init__(self, link: Link, writer: Writer, ledger: Ledger, environ: Mapping[str, str], log_dir: str) -> None:
        """`environ` is the daemon's environment, of which a few variables are handed on."""
        self.files: SocketFiles | None = None
        self.faults = BARE
        self.measured: Measured | None = None
        self.prefix: Prefix | None = None  # with one, what has no file of its own in the INI goes to standard output
        self._ledger = ledger
        self._link = link
        self._writer = writer
        self._environ = dict(environ)  # os.environ decodes each variable whenever it is asked
        self._log_dir = log_dir
        self._puts: list[tuple[str, str | None]] = []
        self._ops: list[dict[str, Any]] = []
        self._keeps: list[tuple[str, int]] = []
        self._close_when_sent: list[tuple[str, int]] = []
        self._held = dict(link.fds)  # name → our copy, of what the shim holds
        self._listening = {name for name in self._held if name.startswith("listen:")}
        self.look_ups = LookUps()
        self._next_process = 1
        self._next_pipe = 1 + max([0, *(int(name.split(":")[1]) for name in self._held if name.startswith("log:"))])
        self.instances: Callable[[Unit], int] = lambda unit: unit.instances
        self.shown: Callable[[Entry], str] = lambda entry: entry.name
        # What NOTIFY_SOCKET is to say to a process of a unit, which runs as the user. Raises CannotStart.
        self.notify_address: Callable[[str, int], str] = lambda _unit, _uid: ""

    # Gathering and sending.

    def put(self, key: str, blob: str | None) -> None:
        """Have `blob` remembered under `key`; None forgets it."""
        self._puts.append((key, blob))

    def signal(self, process: int, number: int, scope: Scope) -> None:
        """Signal a process, its descendants, or both."""
        self._ops.append({"op": "signal", "process": process, "number": number, "scope": scope.value})

    def ack(self, process: int) -> None:
        """The exit of `process` is written down with this round's records: it may be reaped."""
        self._ops.append({"op": "ack", "process": process})

    def keep(self, name: str, fd: int, *, ours: bool) -> None:
        """Have the shim hold a descriptor; we keep our copy only when it is `ours`."""
        self._keeps.append((name, fd))
        if ours:
            self._held[name] = fd
        else:
            self._close_when_sent.append((name, fd))

    def keep_now(self, name: str, fd: int, blob: str) -> None:
        """Have the shim hold a descriptor, and remember `blob` under the same name, whatever becomes of the round."""
        ops = [{"op": "keep", "name": name}, {"op": "put", "key": name, "blob": blob}]
        self._link.send(ops, [fd], lambda: os.close(fd))

    def held(self, name: str) -> int | None:
        """What the supervisor before us had kept under `name`, for good: the descriptor is the caller's now."""
        return self._held.pop(name, None)

    def drop(self, name: str) -> None:
        """Have the shim close a descriptor, and close our copy."""
        self._ops.append({"op": "drop", "name": name})
        fd = self._held.pop(name, None)
        if fd is not None:
            self._close_when_sent.append((name, fd))

    def mark(self) -> Mark:
        """Where this round is now, for `roll_back`."""
        return Mark(len(self._puts), len(self._ops), len(self._keeps))

    def roll_back(self, mark: Mark) -> None:
        """What a start has asked for since `mark` is not sent. Log pipes stay: they are the slot's, not the process's."""
        del self._puts[mark.puts :], self._ops[mark.ops :]
        undone = [each for each in self._keeps[mark.keeps :] if not each[0].startswith("log:")]
        for each in undone:
            self._keeps.remove(each)
            if each in self._close_when_sent:
                self._close_when_sent.remove(each)
            else:
                self._held.pop(each[0], None)
            os.close(each[1])
        self._listening.intersection_update(self._held)

    def flush(self) -> None:
        """Send what was gathered as one message, so that the shim gets all of it or nothing.

        Of more descriptors than one message takes, the first go ahead: see `continue_from`.
        """
        self._puts += self._ledger.puts().items()
        if not (self._puts or self._ops or self._keeps):
            return
        keeps = self._keeps
        messages = []
        while len(keeps) > MOST_FDS:
            ahead, keeps = keeps[:MOST_FDS], keeps[MOST_FDS:]
            messages.append(([{"op": "keep", "name": name} for name, _ in ahead], [fd for _, fd in ahead]))
        ops: list[dict[str, Any]] = [{"op": "keep", "name": name} for name, _ in keeps]
        ops += [{"op": "put", "key": key, "blob": blob} for key, blob in dict(self._puts).items()]
        messages.append((ops + self._ops, [fd for _, fd in keeps]))
        closing = self._close_when_sent

        def sent() -> None:
            for _, fd in closing:
                os.close(fd)

        # What raises before this line leaves all as it was; after it, `Link.send` raises nothing.
        self._puts, self._ops, self._keeps, self._close_when_sent = [], [], [], []
        for message, fds in messages[:-1]:
            self._link.send(message, fds)
        self._link.send(*messages[-1], sent)
        self._ledger.sent()

    def quit(self, code: int) -> None:
        """Have the shim exit with `code` once we have."""
        self._ops.append({"op": "quit", "code": code})
        self.flush()

    def close(self) -> None:
        """Let go of our copies of what the shim holds."""
        for fd in (*self._held.values(), *(fd for _, fd in self._close_when_sent)):
            os.close(fd)
        self._held.clear()
        self._close_when_sent.clear()

    # New code.

    def spawn_helper(self, argv: list[str], out: int) -> int:
        """Start a command that belongs to no slot, with the shim's snapshot at descriptor 3. Returns its number.

        What it prints goes to `out`, which is the starter's from now on until `end_helper`.
        """
        process = self._next_process
        self._next_process += 1
        self.keep("aside:out", out, ours=True)
        self._ops.append({"op": "snapshot", "name": "aside:told"})
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
        self._ops.append({"op": "spawn", "process": process, "spec": spec})
        self.flush()
        return process

    def end_helper(self, process: int) -> None:
        """It has ended, and what it printed was read."""
        self.ack(process)
        self.drop("aside:told")
        self.drop("aside:out")
        self.flush()

    def upgrade_shim(self) -> None:
        """Have the shim go on with the code that is now on the disk: it answers `upgraded` or `refused`."""
        self._ops.append({"op": "upgrade"})
        self.flush()

    # Processes.

    def continue_from(self, process: int, pipes: set[int]) -> None:
        """Begin with `process`, the first number that was never used, and close what the records do not name.

        A supervisor that died between two messages may have left descriptors that no record speaks of. Their numbers
        count as used: within a round what is kept comes before what is dropped, whatever was said first.
        """
        self._next_process = process
        for name in list(self._held):
            kind, _, rest = name.partition(":")
            number = rest.partition(":")[0]
            if kind == "chan":
                self._next_process = max(self._next_process, int(number) + 1)
            unknown = (kind == "log" and int(number) not in pipes) or (kind == "chan" and int(number) >= process)
            if unknown or kind == "aside":
                self.drop(name)

    def launch(self, entry: Entry, found: Found, template: int | None) -> int:
        """Start the slot's process, forked from `template` if one is given. Returns its number. Raises CannotStart.

        Whatever it raises, `roll_back` is the caller's.
        """
        unit = entry.unit
        process = self._next_process
        name = entry.name if entry.role is not Role.NEXT else slot_name(unit, serving(unit), entry.index)
        env = childspec.environment(unit, name, entry.index, self._environ, found)
        if unit.wait_ready or entry.policy.watchdog or node.listens(unit):
            env["NOTIFY_SOCKET"] = self.notify_address(unit.name, found.identity.get("uid", os.geteuid()))
        if entry.policy.watchdog:
            env["WATCHDOG_USEC"] = str(round(entry.policy.watchdog * 1_000_000))
        self._next_process += 1  # also if nothing comes of it
        if entry.serves or entry.role is Role.PROGRAM:
            self.let_in(unit)
        listeners = self._listeners(unit, found)
        pipe = self._pipe(entry)
        self._own_pipe(pipe, found.identity.get("uid", os.geteuid()))
        stdio = ["", f"log:{pipe}:out:w", f"log:{pipe}:err:w"]
        # What only the dead may have held: with the pipes' other ends a process outlives all of impetusd without SIGPIPE.
        carried = [f"log:{pipe}:out:r", f"log:{pipe}:err:r"]
        theirs: list[str] = []
        for each in self.pipes(entry):
            self._writer.begin_run(each)
        if entry.works:
            self._open_channel(process)
            carried = [*carried, f"chan:{process}"]
        if entry.serves:
            self.put_to_work(process, entry.name)
        if template is not None:
            spec: dict[str, Any] = {
                "env": {key: env[key] for key in (*OF_A_FORK, *unit.per_instance, unit.increment_var) if key in env},
                "fds": [*stdio[1:], f"chan:{process}:theirs", *carried],
                "stop": childspec.stop(unit),
            }
            operation = {"op": "fork", "process": process, "via": template}
        else:
            about = {"listen": len(listeners), "identity": found.identity}
            fds = stdio + listeners
            if unit.made is not None:
                env[INHERITED] = str(len(fds))
                fds.append(f"inherited:{unit.name}:theirs")
                carried.append(f"inherited:{unit.name}")
            if node.is_loaded(unit):
                theirs = self._node(unit, process, listeners, env)
            spec = self._exec_spec(entry, env, fds + theirs, f"chan:{process}:theirs", about)
            count = len(spec["fds"])
            spec["fds"].update({str(number): name for number, name in enumerate(carried, count + ("fork_fd" in spec))})
            operation = {"op": "spawn", "process": process}
        spec["group"] = f"{unit.name}-{process}"
        self._ops.append({**operation, "spec": spec})
        if entry.works or theirs:
            self.drop(f"chan:{process}:theirs")
        return process

    def _node(self, unit: Unit, process: int, listeners: list[str], env: dict[str, str]) -> list[str]:
        """Load our preload into a program: its variables into `env`; returns what it needs besides its sockets.

        Node can write no datagram to a path, but any descriptor. Raises CannotStart.
        """
        theirs: list[str] = []
        notify = None
        if "NOTIFY_SOCKET" in env:
            theirs = [f"chan:{process}:theirs"]
            fd = childspec.connect_to(env["NOTIFY_SOCKET"])
            notify = 3 + len(listeners), os.fstat(fd).st_ino
            self.keep(theirs[0], fd, ours=False)
        inodes = [os.fstat(self._held[name]).st_ino for name in listeners]
        env.update(childspec.of_node(unit, env, inodes, notify))
        return theirs

    def _exec_spec(
        self, entry: Entry, env: dict[str, str], fds: list[str], channel: str, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        unit = entry.unit
        if unit.kind is not Kind.POOL:
            return childspec.spec(unit, list(unit.command), env, fds, **about)
        env.update(runtime.variables(unit, env))
        env["PYTHONUNBUFFERED"] = "1"
        page = self._page(unit)
        if page:
            env[childspec.CELLS_FD] = str(len(fds))
            fds = [*fds, page]
        if entry.role in FORKING:
            env[childspec.FORK_FD] = str(len(fds))
            argv = runtime.command(unit, "template")
            return {**childspec.spec(unit, argv, env, fds, **about), "fork_fd": len(fds)}
        env[childspec.CHANNEL_FD] = str(len(fds))
        return childspec.spec(unit, runtime.command(unit, "serve"), env, [*fds, channel], **about)

    # Channels to workers.

    def _open_channel(self, process: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for name, sock, is_ours in ((f"chan:{process}", ours, True), (f"chan:{process}:theirs", theirs, False)):
            fd = sock.detach()
            try:
                self.keep(name, fd, ours=is_ours)
            except BaseException:
                os.close(fd)
                raise

    def put_to_work(self, process: int, name: str) -> None:
        """Have a worker accept requests as slot `name`; said twice, it is done once."""
        self._tell_with_page(process, name, {"do": "serve", "name": name})

    def go_on_measuring(self, process: int, name: str) -> None:
        """Have a worker that serves as slot `name`, since before our time, measure where we can see it."""
        self._tell_with_page(process, name, {"do": "tell"})

    def _tell_with_page(self, process: int, name: str, message: Mapping[str, Any]) -> None:
        page = -1
        if self.measured is not None:
            with contextlib.suppress(OSError):  # none is left: it is put to work, and what it measures is not seen
                page = self.measured.page(process, name.partition(":")[0])
        try:
            self.tell(process, {**message, "page": True} if page >= 0 else message, [page] if page >= 0 else ())
        finally:
            if page >= 0:
                os.close(page)

    def tell(self, process: int, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send a command to a worker; one that does not listen any more is about to be noticed, and False."""
        fd = self._held.get(f"chan:{process}")
        if fd is None:
            return False
        try:
            with socket.socket(fileno=os.dup(fd)) as channel:
                flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
                socket.send_fds(channel, [json.dumps(message).encode()], fds, flags)
        except OSError:
            return False
        return True

    def connect(self, process: int) -> socket.socket | None:
        """A connection to one worker alone, past the listening socket that all share; None when it takes none."""
        ours, theirs = socket.socketpair()
        with theirs:
            if self.tell(process, {"do": "probe"}, [theirs.fileno()]):
                return ours
        ours.close()
        return None

    def reaches(self, process: int) -> bool:
        """Whether there is a channel to this worker: it may have been lost with a shim that was killed."""
        return f"chan:{process}" in self._held

    def forget_channel(self, process: int) -> None:
        """The worker is gone."""
        if self.measured is not None:
            self.measured.ended(process)
        if f"chan:{process}" in self._held:
            self.drop(f"chan:{process}")

    # The page that the workers of a pool share.

    def _page(self, unit: Unit) -> str:
        """Its name. "" where none can be made: such a pool serves as well, if not as evenly."""
        name = f"cells:{unit.name}"
        if name not in self._held:
            try:
                self.keep(name, cells.make(), ours=True)
            except OSError:
                return ""
        return name

    def blank_cell(self, unit: Unit, pid: int) -> None:
        """A worker has ended: it takes no share of the connections."""
        page = self._held.get(f"cells:{unit.name}")
        if page is not None:
            cells.blank(page, pid)

    # Log pipes.

    def _routes(self, entry: Entry) -> dict[str, str]:
        return {f"{entry.rec.pipe}:{stream}": path for stream, path in zip(STREAMS, self.log_files(entry), strict=True)}

    def _options(self, entry: Entry) -> dict[str, Options]:
        unit = entry.unit
        out, error = paths = self.log_files(entry)
        given = unit.out_file, unit.error_file
        shared = unit.merge_logs or out == error or entry.role is Role.WORKER or entry.role in PASSING
        return {
            f"{entry.rec.pipe}:{stream}": Options(
                prefix=self.prefix.of(self.shown(entry))
                if self.prefix and not own and unit.log_format != "json"
                else "",
                name=self.shown(entry),
                stream="out" if stream == "out" else "error",
                time=unit.time,
                json=unit.log_format == "json",
                merged=shared or path in LOG_STREAMS,
                max_line=unit.log_max_line,
                tail=stream == "err",
                max_size=unit.log_max_size,
                max_age=unit.log_max_age,
                keep=unit.log_keep,
                compress=unit.log_compress,
            )
            for stream, path, own in zip(STREAMS, paths, given, strict=True)
        }

    def log_files(self, entry: Entry) -> tuple[str, str]:
        """Where the slot's stdout and stderr go."""
        unit = entry.unit
        paths = log_files(unit, entry.role, entry.index, self.instances(unit), self._log_dir)
        out, error = (NAMES.get(path, path) for path in paths)
        if self.prefix is None:
            return out, error
        return out if unit.out_file else STDOUT, error if unit.error_file else STDOUT

    def dropped(self, entry: Entry) -> tuple[int, int]:
        """Bytes and lines that could not be written into its log files, those of others in a merged one included."""
        if not self._writer.losses:
            return 0, 0
        count, lines = zip(*map(self._writer.dropped, set(self.log_files(entry))), strict=True)
        return sum(count), sum(lines)

    def attention(self, entries: Iterable[Entry]) -> list[Reason]:
        """What log files cannot be written now."""
        if not self._writer.losses:
            return []
        return self._writer.losses.attention(dict.fromkeys(path for each in entries for path in self.log_files(each)))

    def _pipe(self, entry: Entry) -> int:
        """The slot's pair of pipes, made when there is none yet."""
        if entry.rec.pipe is not None:
            return entry.rec.pipe
        pipe = entry.rec.pipe = self._next_pipe
        self._next_pipe += 1
        try:
            ends = _pipes()
        except OSError as error:
            entry.rec.pipe = None
            raise CannotStart("log_pipes", of_os_error(error)) from None
        for stream, (reader, writer, own) in zip(STREAMS, ends, strict=True):
            self.keep(f"log:{pipe}:{stream}:r", reader, ours=False)
            self.keep(f"log:{pipe}:{stream}:w", writer, ours=False)
            self._held[f"log:{pipe}:{stream}:r"] = own
        try:
            self._attach(entry)
        except BaseException:
            self.forget_pipe(entry)
            raise
        return pipe

    def _own_pipe(self, pipe: int, uid: int) -> None:
        """Its pipes are the process's, which may open /dev/stderr as its own then: nginx, haproxy and php-fpm do."""
        for stream in STREAMS:
            fd = self._held[f"log:{pipe}:{stream}:r"]
            if os.fstat(fd).st_uid != uid:
                with contextlib.suppress(PermissionError):  # as root in a user namespace
                    os.fchown(fd, uid, -1)

    def _attach(self, entry: Entry) -> None:
        options = self._options(entry)
        for (name, path), stream in zip(self._routes(entry).items(), STREAMS, strict=True):
            self._writer.add(name, self._held[f"log:{entry.rec.pipe}:{stream}:r"], path, options[name])

    def adopt_pipe(self, entry: Entry) -> bool:
        """Go on where the supervisor before us stopped reading. False if the pipes are lost, with a shim that was killed."""
        if any(f"log:{entry.rec.pipe}:{stream}:r" not in self._held for stream in STREAMS):
            entry.rec.pipe = None
            return False
        for stream in STREAMS:  # the shim passed the write ends too; only it needs them
            writer = self._held.pop(f"log:{entry.rec.pipe}:{stream}:w", None)
            if writer is not None:
                os.close(writer)
            reader = self._held[f"log:{entry.rec.pipe}:{stream}:r"]
            with contextlib.suppress(OSError):
                self._held[f"log:{entry.rec.pipe}:{stream}:r"] = own_end(reader)
                os.close(reader)
        self._attach(entry)
        return True

    def swap_pipes(self, one: Entry, other: Entry) -> None:
        """A process moved from slot to slot: its pipes go with it, and what it prints goes to its new slot's files."""
        one.rec.pipe, other.rec.pipe = other.rec.pipe, one.rec.pipe
        try:
            having = [entry for entry in (one, other) if entry.rec.pipe is not None]
            routes = [self._routes(entry) for entry in having]
            options = [self._options(entry) for entry in having]
            self._writer.redirect(dict(ChainMap(*routes)), dict(ChainMap(*options)))
        except BaseException:
            one.rec.pipe, other.rec.pipe = other.rec.pipe, one.rec.pipe
            raise

    def forget_pipe(self, entry: Entry) -> None:
        """The slot is gone: write what it printed last, then close its pipes."""
        pipe = entry.rec.pipe
        if pipe is None:
            return
        entry.rec.pipe = None
        loop = asyncio.get_running_loop()
        for stream in STREAMS:
            close, what = functools.partial(self._close_pipe, pipe, stream), (entry.name, "closing its log pipes")
            self._writer.forget(
                f"{pipe}:{stream}", functools.partial(loop.call_soon_threadsafe, self.faults.contain, *what, close)
            )

    def _close_pipe(self, pipe: int, stream: str) -> None:
        self.drop(f"log:{pipe}:{stream}:r")
        self._ops.append({"op": "drop", "name": f"log:{pipe}:{stream}:w"})
        self.flush()

    def end_run(self, entry: Entry) -> None:
        """The slot's process is gone: a last line that it did not finish is written, too."""
        for pipe in self.pipes(entry):
            self._writer.end_run(pipe)

    def pipes(self, entry: Entry) -> list[str]:
        """The names that the writer knows the slot's pipes by."""
        return [] if entry.rec.pipe is None else [f"{entry.rec.pipe}:{stream}" for stream in STREAMS]

    def tail(self, pipe: int, answer: Callable[[bytes], None]) -> None:
        """Call `answer`, in the writer's thread, with the last of what the present run wrote to stderr."""
        self._writer.tail(f"{pipe}:err", answer)

    # Listening sockets.

    def _listeners(self, unit: Unit, found: Found) -> list[str]:
        """The names of the unit's listening sockets, each bound when it is not yet. Raises CannotStart."""
        names = []
        for address in unit.listen:
            name = f"listen:{unit.name}:{address.place}"
            if name not in self._held:
                self._listening.add(name)
                fd = listen_on(address, unit.backlog, found).detach()
                if address.more_ports and (elsewhere := bound_to(fd)) != str(address):
                    self._writer.line(f"{unit.name}: {address} is in use; it listens on {elsewhere} instead", WARNING)
                try:
                    self.keep(name, fd, ours=True)
                except BaseException:
                    os.close(fd)
                    raise
            else:
                second = self.files.second_name(address.path) if self.files and address.path else ""
                adjust(self._held[name], address, unit.backlog, found, second)
            names.append(name)
        self._follow(unit)
        return names

    def addresses(self, unit: Unit) -> list[str]:
        """Where it listens; of what is not bound yet, where it is to."""
        found = []
        for address in unit.listen:
            fd = self._held.get(f"listen:{unit.name}:{address.place}")
            found.append(bound_to(fd) if fd is not None and address.more_ports else str(address))
        return found

    def follow_sockets(self, units: Iterable[Unit]) -> None:
        """Have the files of the unix sockets that were bound before our time made again when somebody removes them."""
        for unit in units:
            self._follow(unit)

    def _follow(self, unit: Unit) -> None:
        for address in unit.listen:
            if self.files and address.path and f"listen:{unit.name}:{address.place}" in self._held:
                self.files.follow(address.path, unit.name)

    def let_go(self, unit: Unit, path: str) -> None:
        """The unix socket at `path` can be reached no more: the unit's next process is to have another one."""
        for address in unit.listen:
            name = f"listen:{unit.name}:{address.place}"
            if address.path == path and name in self._held:
                self.drop(name)
                self._listening.discard(name)
        self.flush()  # by itself: of one round what is kept comes before what is dropped

    def drop_listeners_but(self, units: Iterable[Unit], busy: Collection[str]) -> None:
        """Close what no unit has as its address any more. Units named in `busy` have processes that listen there still."""
        units = list(units)
        wanted = {f"listen:{unit.name}:{address.place}" for unit in units for address in unit.listen}
        for name in sorted(self._listening):
            if name not in wanted and name.split(":")[1] not in busy:
                self._drop_listener(name)
        pools = {unit.name for unit in units if unit.kind is Kind.POOL}
        for name in [name for name in self._held if name.startswith("cells:")]:
            if name.partition(":")[2] not in {*pools, *busy}:
                self.drop(name)

    def drop_former_listeners(self, unit: Unit) -> None:
        """Close what the unit does not listen on any more, before its next process binds that, or what is in its way."""
        wanted = {f"listen:{unit.name}:{address.place}" for address in unit.listen}
        for name in sorted(self._listening - wanted):
            if name.split(":")[1] == unit.name:
                self._drop_listener(name)

    def has_to_bind(self, unit: Unit) -> bool:
        """Whether a start of the unit binds an address, which a process that has not ended may have."""
        return any(f"listen:{unit.name}:{address.place}" not in self._held for address in unit.listen)

    def close_listeners(self, unit: Unit) -> None:
        """Nobody will accept any more: clients are to be refused, not kept waiting."""
        for name in [name for name in self._listening if name.split(":")[1] == unit.name]:
            self._drop_listener(name)

    def refuse(self, unit: Unit) -> bool:
        """Nobody can serve, and processes of the unit hold its sockets: have those refuse. Whether any did not."""
        changed = False
        for name in sorted(name for name in self._listening if name.split(":")[1] == unit.name):
            path = name.split(":", 2)[2]
            if self.files and path.startswith("unix:"):
                changed = self.files.hide(path.removeprefix("unix:"), unit.name) or changed
            changed = refuse(self._held[name]) or changed
        return changed

    def let_in(self, unit: Unit) -> None:
        """A process is about to serve: have the unit's sockets accept connections again. Raises CannotStart."""
        for address in unit.listen:
            name = f"listen:{unit.name}:{address.place}"
            if name in self._held:
                if self.files and address.path:
                    self.files.show(address.path)
                let_in(self._held[name], address, unit.backlog)

    def drop_new_connections(self, unit: Unit) -> None:
        """Nobody takes over from the unit's processes: they serve who is in the queue, and nobody else gets there."""
        for name in [name for name in self._listening if name.split(":")[1] == unit.name]:
            drop_new_connections(self._held[name])

    def _drop_listener(self, name: str) -> None:
        self.drop(name)
        self._listening.discard(name)
        path = name.split(":", 2)[2]
        if path.startswith("unix:"):
            if self.files:
                self.files.forget(path.removeprefix("unix:"))
            with contextlib.suppress(OSError):
                unlink_socket(path.removeprefix("unix:"))


def _pipes() -> list[tuple[int, int, int]]:
    """A pipe for each stream: the ends that processes have, and a read end that only we have.

    Raises OSError; EMFILE as soon as the next would come out of the RESERVE.
    """
    fds: list[int] = []
    try:
        for _ in STREAMS:
            fds += os.pipe2(os.O_CLOEXEC)
            fds.append(own_end(fds[-2]))
        if max(fds) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return list(zip(fds[::3], fds[1::3], fds[2::3], strict=True))
