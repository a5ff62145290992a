"""The messages between the shim and the supervisor: JSON objects with descriptors, one a packet.

A SOCK_SEQPACKET pair keeps the borders of messages and delivers what a dead supervisor had already sent. A packet is
limited by the socket's buffer (208 KiB unless tuned), so a longer message travels as a sealed-off memfd.

From the supervisor, a message is {"ops": [...]} and is carried out as a whole, in order:
    put key blob        remember an opaque string (null forgets it)
    keep name           remember the next descriptor of this message
    drop name           close it
    spawn process spec  start a child (see `shim.spawn`); `process` is a number that the supervisor never uses again
    fork process via spec   have the template `via` fork one
    signal process number scope   scope is main, rest or tree
    ack process         the exit has been written down: reap
    snapshot name       remember a memfd with the `hello` that a new supervisor would get now
    upgrade             go on with the code that is now on the disk: see `shim.handover`
    beat                alive
    notify text         send this to the manager that started us (sd_notify)
    quit                end, once the supervisor has exited

From the shim, a message is {"events": [...]}, a round's, 50 at most; one with descriptors is alone in its message:
    hello               {"table", "blobs", "shutdown", "pid", "command", "troubles", "baseline"}, after which come
    fds                 {"names"} with as many descriptors, and then
    begin               that was the state; what follows has happened since
    spawned             {"process", "pid"}, and of one with limits "limits": by file, the causes of those that are not in force
    exited              {"process", "code" | "signal" + "core" | "stage" + "error" + "cause", "left"}, "cpu_s" and "max_rss" (bytes)
                        where they are known, and "oom": true when the memory controller of its own cgroup says that
                        the kernel killed it (without it, that is not known), "over_limit" if its own limit was reached
    gone                {"process"}: nothing of its tree is left
    apply               SIGHUP: it stays in the blobs, as "hup", until it is forgotten
    reopen-logs         SIGUSR2
    upgraded            other code is in the shim now, and all else as it was
    refused             {"error"}: the code that is now on the disk cannot take over
    trouble             {"what", "sentence"}: a part of the shim is in trouble; "" when it no longer is
    shutdown            SIGTERM came: everything is to end
"""

from __future__ import annotations

import os
import struct

from impetusd import bare
from impetusd.bare import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

INLINE = 65536  # bytes of a message that a packet may have in it; it is what older versions send so
# Bytes; a longer message goes through a memfd: five packets of more fill the channel, and what waits for it is memory of ours.
SHORT = 1 << 14
LIFELINE = (
    "IMPETUSD_LIFELINE"  # in the supervisor's environment: its end of a pipe that it loses as soon as it is killed
)
# In the shim's store: a page of memory in which the supervisor notes what it is at, and a blob, which only the shim adds to:
# how supervisors have ended by themselves, as JSON [{"at", "time", "code" | "signal" | "silent", "slot", "stage"}].
PAGE, PAGE_SIZE = "page", 512
ENDS = "ends"
MOST_FDS = 250  # the kernel takes SCM_MAX_FD = 253 a message


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message. Raises BlockingIOError when the peer's buffer is full, OSError when it is gone."""
    send_text(sock, encode(message), fds)


def encode(message: dict[str, Any]) -> bytes:
    """The text of a message."""
    return bare.dumps_by_entry(message).encode()


def send_text(sock: socket.socket, body: bytes, fds: Sequence[int] = ()) -> None:
    """As `send`, of what `encode` has made."""
    if len(body) <= SHORT:
        send_packet(sock, b"J" + body, fds)
        return
    memory = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(memory, view) :]
        send_packet(sock, b"M", (memory, *fds))
    finally:
        os.close(memory)


def send_packet(sock: socket.socket, body: bytes, fds: Sequence[int]) -> None:
    """Send one packet with descriptors. Raises BlockingIOError when the peer's buffer is full, OSError when it is gone."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    sock.sendmsg([body], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def recv(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message with its descriptors (close-on-exec), or None when the peer is gone and all it sent is read.

    A process that has no number left for a descriptor gets fewer than were sent: the last ones are missing. Raises
    BlockingIOError when there is no message yet, OSError (EMFILE), with nothing lost, when no number is left for the
    text of a long one, and ValueError for one that is none of ours; the next may be read.
    """
    if _next_is_long(sock):
        os.close(os.dup(sock.fileno()))
    body, ancillary, flags, _ = _recvmsg(sock)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4]))
    try:
        if not body:
            if fds:
                raise ValueError("a message is empty")
            return None
        if flags & socket.MSG_TRUNC:
            raise ValueError("a message was cut off")
        message = bare.loads(_body(body, fds))
        if not isinstance(message, dict):
            raise ValueError(f"a message is not an object: {message!r}"[:200])  # noqa: TRY004 - what came is wrong, not our call
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return message, fds


def noted(page: bytes) -> tuple[str, str]:
    """The slot and the stage on a page, as `supervisor.start.link.Page` notes them; "" each if it is blank."""
    slot, _, stage = page.partition(b"\0")[0].decode("utf-8", "replace").partition("\n")
    return slot, stage


def _next_is_long(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"M"
    except OSError:
        return False


def _recvmsg(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
    for last in (False, True):
        try:
            return sock.recvmsg(
                INLINE + 1,
                socket.CMSG_SPACE((MOST_FDS + 1) * 4),
                socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
            )
        except ConnectionResetError:
            # Said once by a peer that died with something unread, ahead of what it had sent.
            if last:
                break
    return b"", [], 0, None


def _body(packet: bytes, fds: list[int]) -> bytes:
    """The text of a message, which a memfd holds when it is long: the first of `fds`, taken off."""
    if packet[:1] == b"J":
        return packet[1:]
    if packet != b"M" or not fds:
        raise ValueError("a message has no text")
    memory = fds.pop(0)
    try:
        return os.pread(memory, os.fstat(memory).st_size, 0)
    except OSError as error:
        raise ValueError(f"a message cannot be read: {error.strerror}") from None
    finally:
        os.close(memory)
