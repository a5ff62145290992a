"""Connections of our own units: what they may, for whom, and that a hostile one costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack

import census
import pytest
from supervisor_world import Life, in_a_folder
from waiting import until

from impetusd.client import inherited
from impetusd.client.async_control import AsyncControl, at, through
from impetusd.client.control import ControlError
from impetusd.core import protocol
from impetusd.core.protocol import Behalf
from impetusd.linux.host import this_host
from impetusd.supervisor.api import configuration
from impetusd.supervisor.api.inherited import AT_ONCE, MOST

INI = """
[gateway]
user = root
ceiling = {}
[program:web]
command = serve
"""
NAMES = {f"inherited:{unit}{end}" for unit in ("gateway", "observer") for end in ("", ":theirs")}
ALICE = Behalf("alice", protocol.OPERATOR, "192.0.2.1")
RULES = Behalf("bob", protocol.ADMIN)


def live(*scenarios, ceiling="operator"):
    """Each scenario with a supervisor of its own, on what the one before has left; it gets the world, too."""
    with in_a_folder(INI.format(ceiling)) as shim:
        for scenario in scenarios:
            shim.live(functools.partial(_with_pairs, scenario, shim))


async def _with_pairs(scenario, shim, life):
    if "[gateway]" in json.loads(shim.blobs.get("config", "{}")).get("text", "[gateway]"):
        await until(lambda: shim.kept.keys() >= NAMES, "the pairs")
    await scenario(life, shim)


def theirs(shim, unit="gateway"):
    return shim.kept[f"inherited:{unit}:theirs"]


def refused(error):
    return pytest.raises(ControlError, match=error)


async def opened(shim, unit="gateway"):
    """A connection, and the two ends that are read and written."""
    channel = inherited.Inherited(theirs(shim, unit))
    try:
        return await channel()
    finally:
        channel.close()


async def said(shim, *lines, unit="gateway"):
    """The answers to these lines."""
    reader, writer = await opened(shim, unit)
    answers = []
    for line in lines:
        writer.write(line)
        answers.append(await asyncio.wait_for(reader.readline(), 20))
    writer.close()
    return answers


def line(method, behalf=None, **params):
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    if behalf is not None:
        message["on_behalf_of"] = behalf
    return json.dumps(message).encode() + b"\n"


def test_the_gateway_is_a_viewer_and_acts_for_others_up_to_its_ceiling():
    async def scenario(life: Life, shim):
        control = AsyncControl(through(theirs(shim)))
        assert "web" in {unit["name"] for unit in (await control.call("status"))["units"]}
        with refused("stop requires the role operator, but yours is viewer; see \\[gateway\\]"):
            await control.call("stop", {"names": ["web"]})
        assert (await control.call("stop", {"names": ["web"]}, behalf=ALICE))["ok"]
        for behalf in (ALICE, RULES):
            with refused("apply requires the role admin, but yours is operator"):
                await control.call("apply", behalf=behalf)
        with refused("exec requires the role admin"):
            await control.call("exec", {"name": "web", "command": ["id"]}, behalf=RULES)
        control._connect.close()

    live(scenario)


def test_with_another_ceiling_it_may_more_and_is_never_the_user_that_impetusd_runs_as():
    async def scenario(life: Life, shim):
        control = AsyncControl(through(theirs(shim)))
        assert not (await control.call("plan", behalf=RULES))["changes"]
        with refused("no process is running in web"):
            await control.call("env", {"name": "web"}, behalf=RULES)
        with refused("exec must be run as the user that impetusd runs as"):
            await control.call("exec", {"name": "web", "command": ["id"]}, behalf=RULES)
        with refused("but yours is operator"):
            await control.call("env", {"name": "web"}, behalf=ALICE)
        control._connect.close()

    live(scenario, ceiling="admin")


def test_who_gave_a_command_is_written_down_with_the_unit_that_asked():
    async def scenario(life: Life, shim):
        control = AsyncControl(through(theirs(shim)))
        silence = await control.call("silence", {"name": "web", "seconds": 60}, behalf=ALICE)
        assert silence["silence"]["by"] == "alice via gateway"
        path = f"{shim.paths.state_dir}/ledger.jsonl"

        def record():
            if not os.path.exists(path):
                return None
            with open(path, encoding="utf-8") as file:
                return next((each for each in map(json.loads, file) if each.get("method") == "silence"), None)

        await until(record, "the record")
        assert {key: record()[key] for key in ("user", "via", "from", "role", "outcome")} == {
            "user": "alice",
            "via": "gateway",
            "from": "192.0.2.1",
            "role": "operator",
            "outcome": "done",
        }
        assert "uid" not in record()
        control._connect.close()

    live(scenario)


def test_nobody_else_acts_for_others():
    async def scenario(life: Life, shim):
        by_socket = AsyncControl(at(shim.paths.control_socket))  # as root, who may everything for itself
        by_observer = AsyncControl(through(theirs(shim, "observer")))
        for control in (by_socket, by_observer):
            with refused("on_behalf_of is allowed only on the connections that impetusd's own gateway inherits"):
                await control.call("status", behalf=ALICE)
        by_observer._connect.close()

    live(scenario)


def test_the_observer_looks_reads_logs_reports_and_nothing_more():
    async def scenario(life: Life, shim):
        control = AsyncControl(through(theirs(shim, "observer")))
        with refused("stop requires the role operator"):
            await control.call("stop", {"names": ["web"]})
        assert (await control.call("observer-report", {"report": {"undelivered": 2}}))["ok"]
        status = await control.call("status")
        assert status["alerts"]["report"] == {"undelivered": 2}
        assert "2 alerts could not be delivered so far" in status["attention"]
        with refused("no unit 'nobody'"):  # which is no matter of a role
            await control.call("tail", {"name": "nobody"})
        gateway = AsyncControl(through(theirs(shim)))
        for behalf in (None, RULES):
            with refused("observer-report requires the role of impetusd's own observer"):
                await gateway.call("observer-report", {"report": {}}, behalf=behalf)
        control._connect.close()
        gateway._connect.close()

    live(scenario, ceiling="admin")


@pytest.mark.parametrize(
    "behalf",
    [
        7,
        "alice",
        [],
        {},
        {"user": "alice"},
        {"user": "alice", "role": "root"},
        {"user": "", "role": "admin"},
        {"user": "a\nb", "role": "admin"},
        {"user": "\x1b[2J", "role": "viewer"},
        {"user": "x" * 257, "role": "viewer"},
        {"user": ["alice"], "role": "viewer"},
        {"user": "alice", "role": ["admin"]},
        {"user": "alice", "role": "admin", "uid": 0},
    ],
)
def test_whose_behalf_it_is_has_one_form(behalf):
    with pytest.raises(protocol.ProtocolError, match="on_behalf_of must be"):
        protocol.parse_request(line("ping", behalf))


@pytest.mark.parametrize("address", [7, [], "a\nb", "\x1b[2J", "x" * 65])
def test_where_somebody_is_has_one_form(address):
    message = {**json.loads(line("ping", {"user": "alice", "role": "viewer"})), "at_address": address}
    with pytest.raises(protocol.ProtocolError, match="at_address must be a string"):
        protocol.parse_request(json.dumps(message).encode())


def test_what_it_sends_that_makes_no_sense_ends_nothing_but_its_own_connection():
    nonsense = [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"\xff\xfe\n",
        b"null\n",
        b'{"jsonrpc":"2.0","id":1,"method":"stop"}\n',
        b"x" * 999 + b"\n",
    ]

    async def scenario(life: Life, shim):
        for answer in await said(shim, *nonsense):
            assert b'"error"' in answer
        (answer,) = await said(shim, b"x" * (protocol.MAX_LINE + 10) + b"\n")
        assert b"a line must not exceed" in answer
        assert (await AsyncControl(at(shim.paths.control_socket)).call("ping"))["ready"]

    live(scenario)


def handed_over():
    """How many of our descriptors are of the kinds that it sends, or is sent; the supervisor may open others meanwhile."""
    found = census.links(os.getpid()).values()
    return sum(each == "/dev/null" or each.startswith("socket:") for each in found)


def test_a_flood_of_questions_costs_the_others_nothing_and_no_descriptor_is_taken():
    async def scenario(life: Life, shim):
        control = AsyncControl(at(shim.paths.control_socket))
        assert (await control.call("ping"))["ready"]
        before = handed_over()
        with ExitStack() as stack:
            channel = stack.enter_context(socket.socket(fileno=os.dup(theirs(shim))))
            channel.setblocking(False)
            null = os.open("/dev/null", os.O_RDONLY)
            stack.callback(os.close, null)
            messages = [b"connect", b"", b"connec", b"connect!", b"x" * 60_000]
            for round_ in range(200):
                for message in messages:
                    try:
                        socket.send_fds(channel, [message], [null] * 200 if message else [])
                    except BlockingIOError:
                        break
                if round_ % 20 == 0:
                    assert (await control.call("ping"))["ready"]
                await asyncio.sleep(0)
            # What was answered waits for whoever takes it, and no more than that is open.
            assert life.daemon.control.count("gateway") <= MOST
            taken = []
            while isinstance(answer := inherited.take(channel), socket.socket):
                taken.append(stack.enter_context(answer))
        await until(lambda: not life.daemon.control.count("gateway"), "the connections' end")
        await until(lambda: handed_over() <= before, "the descriptors' end")
        (answer,) = await said(shim, line("ping"))
        assert b'"ready":true' in answer

    live(scenario)


def test_so_many_connections_and_no_more():
    async def scenario(life: Life, shim):
        channel = inherited.Inherited(theirs(shim))
        streams = [await channel() for _ in range(MOST)]
        assert inherited.ask(channel._sock)
        await until(lambda: inherited.take(channel._sock) == protocol.FULL, "the refusal")
        waiting = asyncio.create_task(channel())
        streams.pop()[1].close()
        streams.append(await waiting)
        for _, writer in streams:
            writer.close()
        channel.close()
        assert (await AsyncControl(at(shim.paths.control_socket)).call("ping"))["ready"]

    assert MOST > AT_ONCE
    live(scenario)


def test_what_was_asked_of_a_supervisor_that_has_died_is_answered_by_the_next():
    async def ask(life: Life, shim):
        control = AsyncControl(through(theirs(shim)))
        assert (await control.call("ping"))["ready"]
        control._connect.close()

    async def lost(life: Life, shim):
        # Given by this one and never taken; and asked, when this one does not listen any more.
        with socket.socket(fileno=os.dup(theirs(shim))) as channel:
            assert inherited.ask(channel)
            await until(lambda: life.daemon.control.count("gateway") == 1, "the connection")
            life.daemon.inherited.close()
            assert inherited.ask(channel)

    async def answered(life: Life, shim):
        await ask(life, shim)

    live(ask, lost, answered)


def test_where_one_end_was_lost_both_are_made_anew():
    async def look(life: Life, shim):
        (answer,) = await said(shim, line("ping"))
        assert b'"ready":true' in answer
        os.close(shim.kept.pop("inherited:gateway"))

    live(look, look)


def test_of_a_unit_that_is_there_no_more_nothing_is_held():
    async def look(life: Life, shim):
        assert {name for name in shim.kept if "inherited" in name} == NAMES
        shim.blobs["config"] = json.dumps(
            {**json.loads(shim.blobs["config"]), "text": "[program:web]\ncommand = serve\n"}
        )

    async def gone(life: Life, shim):
        await until(lambda: not any("inherited" in name for name in shim.kept), "the descriptors")

    live(look, gone)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: who is not runs them as themselves")
def test_where_nobody_gets_to_our_code_status_says_what_to_type(monkeypatch):
    host = dataclasses.replace(this_host(), closed="/root/clone")
    monkeypatch.setattr(configuration, "this_host", lambda: host)

    async def look(life):
        status = await life.ask("status")
        assert [row["name"] for row in status["units"]] == ["web"]
        assert len([each for each in status["attention"] if "run: chmod o+rX /root/clone" in each]) == 2
        assert "gateway" not in status

    with in_a_folder("[gateway]\n[program:web]\ncommand = serve\n") as shim:
        shim.live(look)


@pytest.mark.parametrize("end", ["theirs", "ours"])  # its processes hold both
@pytest.mark.parametrize("how", [socket.SHUT_RDWR, socket.SHUT_RD, socket.SHUT_WR])
def test_a_pair_that_its_unit_has_shut_down_is_replaced_and_whatever_holds_it_ended(end, how):
    async def scenario(life: Life, shim):
        await life.ask("start", names=["gateway", "observer"])
        await life.until(lambda rows: all(row["state"] == "RUNNING" for name, row in rows.items() if name != "web"))
        before, name = shim.pids(), "inherited:gateway"
        was = [os.fstat(shim.kept[each]).st_ino for each in (name, f"{name}:theirs")]
        with socket.socket(fileno=os.dup(shim.kept[name if end == "ours" else f"{name}:theirs"])) as sock:
            sock.shutdown(how)
        # Where only the way to us or from us is gone, the next who asks finds it.
        with socket.socket(fileno=os.dup(theirs(shim))) as sock, contextlib.suppress(BrokenPipeError):
            inherited.ask(sock)
        await until(lambda: os.fstat(theirs(shim)).st_ino not in was, "another pair")
        assert os.fstat(shim.kept[name]).st_ino not in was
        (answer,) = await said(shim, line("ping"))
        assert b'"ready":true' in answer
        await until(lambda: shim.pids().keys() == before.keys(), "its processes")
        after = shim.pids()
        changed = {slot for slot in before if after[slot] != before[slot]}
        assert changed == {slot for slot in before if slot.startswith("gateway")}, "every one of its own, and no other"
        assert "killed because it closed its channel to impetusd" in json.dumps(
            await life.ask("events", names=["gateway"])
        )

    live(scenario)


def test_a_pair_that_was_shut_down_while_nobody_listened_is_replaced_by_the_next_supervisor():
    was = []

    async def shut(life: Life, shim):
        life.daemon.inherited.close()
        was.append(os.fstat(theirs(shim)).st_ino)
        with socket.socket(fileno=os.dup(theirs(shim))) as sock:
            sock.shutdown(socket.SHUT_RDWR)

    async def renewed(life: Life, shim):
        await until(lambda: os.fstat(theirs(shim)).st_ino not in was, "another pair")
        (answer,) = await said(shim, line("ping"))
        assert b'"ready":true' in answer

    live(shut, renewed)


SO_ATTACH_FILTER = 26
DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # a BPF program of one instruction: return 0


def drop_all(sock):
    """Have the kernel drop whatever is sent to it."""
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(DROP_ALL)))


@pytest.mark.parametrize("name", ["inherited:gateway", "inherited:gateway:theirs"])  # its processes hold both
def test_who_holds_a_pair_cannot_make_it_deaf_for_those_who_come_after(name):
    """A filter that drops what is sent would stay with the socket, and nothing is to be seen of it."""

    async def refused_to_all(life: Life, shim):
        with socket.socket(fileno=os.dup(shim.kept[name])) as sock:
            with pytest.raises(PermissionError):
                drop_all(sock)
            with pytest.raises(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, 44, 0)  # SO_LOCK_FILTER
        (answer,) = await said(shim, line("ping"))
        assert b'"ready":true' in answer

    async def of_a_version_before(life: Life, shim):
        for each, sock in zip(
            ("inherited:gateway", "inherited:gateway:theirs"),
            socket.socketpair(type=socket.SOCK_SEQPACKET),
            strict=True,
        ):
            os.close(shim.kept[each])
            shim.kept[each] = sock.detach()

    live(refused_to_all, of_a_version_before, refused_to_all)


def test_what_a_process_has_set_on_the_pair_is_not_taken_for_a_connection_by_the_next():
    async def scenario(life: Life, shim):
        with socket.socket(fileno=os.dup(theirs(shim))) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        (answer,) = await said(shim, line("ping"))
        assert b'"ready":true' in answer

    live(scenario)


TAKES_ALL = """
import socket, sys, time
from test_inherited import MOST, drop_all, inherited
taken = [inherited.connect(int(sys.argv[1])) for _ in range(MOST)]
for each in taken:
    drop_all(each)
    each.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER
print("taken", flush=True)
time.sleep(1000)
"""


def test_with_a_process_all_that_it_had_of_connections_ends():
    async def scenario(life: Life, shim):
        fd = theirs(shim)
        paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TAKES_ALL, str(fd)),
            pass_fds=[fd],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )
        try:
            assert await process.stdout.readline() == b"taken\n"
            assert life.daemon.control.count("gateway") == MOST
        finally:
            process.kill()
            await process.communicate()
        await until(lambda: not life.daemon.control.count("gateway"), "the connections' end")
        (answer,) = await said(shim, line("ping"))
        assert b'"ready":true' in answer

    live(scenario)
