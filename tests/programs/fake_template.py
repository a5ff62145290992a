"""A template as the shim sees one: forks when asked on IMPETUSD_FORK_FD, and misbehaves on request.

The request's env says what to do: DO = fork (the default), die, hang, silent (fork what waits for nobody, and die without an answer), say
(answer ANSWER as it is), ended (the worker has exited with CODE before the answer), gone (answer, then die with the
next request unread), read (answer the pid that its input says), late (fork as soon as the shim is dead), frozen (what stops before it looks
whether it may go on), unanswered (as silent, but for its waiting). A worker goes on
when the shim says so, as the real one does, prints "worker pid" to its stdout and sleeps.
"""

import json
import os
import select
import signal
import socket

requests = socket.socket(fileno=int(os.environ["IMPETUSD_FORK_FD"]))


def fork(env, out, gate):
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            requests.close()
            if env.get("DO") == "ended":
                os._exit(int(env["CODE"]))
            if env.get("DO") == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            if gate >= 0 and env.get("DO") != "silent" and not os.read(gate, 1):
                os._exit(79)
            os.write(out, f"worker {os.getpid()}\n".encode())
            while True:
                signal.pause()
        if env.get("DO") == "ended":
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a zombie that the shim will adopt
        os.write(writer, str(pid).encode())
        os._exit(0)
    pid = int(os.read(reader, 16))
    os.waitpid(middle, 0)
    os.close(reader)
    os.close(writer)
    return pid


shim = os.getppid()
os.write(1, b"ready\n")
while True:
    message, fds, _, _ = socket.recv_fds(requests, 65536, 8)
    if not message:
        os._exit(0)
    request = json.loads(message)
    env = request["env"]
    gate = fds[-1] if request.get("gate") else -1
    do = env.get("DO", "fork")
    if do == "die":
        os._exit(9)
    elif do == "hang":
        os.write(1, b"hangs\n")
        os.kill(os.getpid(), signal.SIGSTOP)
    elif do == "say":
        requests.send(env["ANSWER"].replace("ID", request["id"]).encode())
    elif do == "read":
        requests.send(json.dumps({"id": request["id"], "pid": int(os.read(0, 16))}).encode())
    elif do in {"silent", "unanswered"}:
        fork(env, fds[0], gate)
        os._exit(9)
    else:
        while do == "late" and os.getppid() == shim:
            select.select([], [], [], 0.001)
        pid = fork(env, fds[0], gate)
        if do == "gone":
            os.write(1, b"forked\n")
            os.read(0, 1)
        requests.send(json.dumps({"id": request["id"], "pid": pid}).encode())
        if do == "gone":
            os.kill(os.getpid(), signal.SIGKILL)
    for fd in fds:
        os.close(fd)
