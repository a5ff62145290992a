"""From a decision to a process: its spec, its sockets, the orders to the shim, and the program's notifications."""
