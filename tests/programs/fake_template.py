"""A template as the shim sees one: forks when asked on IMPETUSD_FORK_FD, and misbehaves on request.

The request's env says what to do: DO = fork (the default), die, hang, silent (fork and die without an answer), say
(answer ANSWER as it is), ended (the worker has exited with CODE before the answer), gone (answer, then die with the
next request unread), read (answer the pid that its input says). Workers print "NAME pid" to their stdout and sleep.
"""

import json
import os
import signal
import socket

requests = socket.socket(fileno=int(os.environ["IMPETUSD_FORK_FD"]))


def fork(env, out):
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            requests.close()
            if env.get("DO") == "ended":
                os._exit(int(env["CODE"]))
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


os.write(1, b"ready\n")
while True:
    message, fds, _, _ = socket.recv_fds(requests, 65536, 8)
    if not message:
        os._exit(0)
    request = json.loads(message)
    env = request["env"]
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
    elif do == "silent":
        fork(env, fds[0])
        os._exit(9)
    else:
        pid = fork(env, fds[0])
        if do == "gone":
            os.write(1, b"forked\n")
            os.read(0, 1)
        requests.send(json.dumps({"id": request["id"], "pid": pid}).encode())
        if do == "gone":
            os.kill(os.getpid(), signal.SIGKILL)
    for fd in fds:
        os.close(fd)
