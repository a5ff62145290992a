"""A job: print its pid, wait until the file named by the first argument is there, take it away, exit with what it says.

Further arguments are printed first, on stdout; what is in the file after the number goes to stderr.
"""

import os
import sys

import behave


def told():
    try:
        with open(sys.argv[1]) as file:
            return file.read()
    except FileNotFoundError:
        return ""


print(*sys.argv[2:], os.getpid(), flush=True)
behave.until(lambda: told().endswith("\n"))
code, _, words = told().strip().partition(" ")
os.unlink(sys.argv[1])
if words:
    print(words, file=sys.stderr, flush=True)
sys.exit(int(code))
