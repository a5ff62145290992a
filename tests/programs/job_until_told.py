"""A job: print its pid, wait until the file named by the first argument is there, take it away, exit with what it says.

Further arguments are printed first, on stdout; what is in the file after the number goes to stderr.
"""

import os
import sys
import time

print(*sys.argv[2:], os.getpid(), flush=True)
while True:
    try:
        with open(sys.argv[1]) as file:
            told = file.read()
    except FileNotFoundError:
        told = ""
    if told.endswith("\n"):
        break
    time.sleep(0.01)
os.unlink(sys.argv[1])
code, _, words = told.strip().partition(" ")
if words:
    print(words, file=sys.stderr, flush=True)
sys.exit(int(code))
