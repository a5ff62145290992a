"""The other end of the control socket: finding the daemon, starting it, asking it, clearing up after it."""
