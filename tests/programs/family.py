"""A process with relatives: family.py KIND. Each prints "name pid" once it is what it is, and then sleeps.

setsid    main and a child in a session of its own
daemon    main and a grandchild that forked twice, called setsid and ignores SIGTERM
mute      as daemon, and the grandchild has also dropped the environment that it was executed with
forgets   as daemon, and on SIGUSR1 the grandchild drops its environment and prints its name and pid again
headless  main and a child in its group whose main thread has ended, and another one goes on
leave     main exits with 3 once its standard input ends, and leaves a child in its group
orphan    main and a grandchild whose parent exits; the grandchild exits as soon as it is an orphan
storm     main and its children go on forking, 400 at most; all ignore SIGTERM
"""

import os
import signal
import sys


def say(name):
    os.write(1, f"{name} {os.getpid()}\n".encode())


def sleep():
    while True:
        signal.pause()


def setsid():
    if os.fork() == 0:
        os.setsid()
        say("child")
        sleep()


def daemon():
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.setsid()
        if os.fork() == 0:
            say("grandchild")
            sleep()
        os._exit(0)
    os.wait()


def drop_environment(*_):
    program = "import os, signal; os.write(1, b'grandchild %d\\n' % os.getpid()); signal.pause()"
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", program], {})


def mute():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            drop_environment()
        os._exit(0)
    os.wait()


def forgets():
    signal.signal(signal.SIGUSR1, drop_environment)
    daemon()


def headless():
    if os.fork() == 0:
        import ctypes
        import threading

        def goes_on():
            with open("/proc/self/stat") as stat:
                while ") Z " not in stat.read():
                    os.sched_yield()
                    stat.seek(0)
            say("child")
            sleep()

        threading.Thread(target=goes_on).start()
        ctypes.CDLL(None).pthread_exit(None)


def leave():
    if os.fork() == 0:
        say("child")
        sleep()
    say("main")
    os.read(0, 1)
    os._exit(3)


def orphan():
    reader, writer = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(writer)
            say("grandchild")
            os.read(reader, 1)  # ends with its parent
            os._exit(0)
        os._exit(0)
    os.close(writer)
    os.wait()


def storm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("main")
    for _ in range(20):
        if os.fork() == 0:
            os.setsid()
            for _ in range(20):
                if os.fork() == 0:
                    os.setsid()
                    sleep()
            sleep()
    sleep()


globals()[sys.argv[1]]()
say("main")
sleep()
