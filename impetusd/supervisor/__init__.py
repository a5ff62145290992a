"""The process that decides: slots, inbox, control and notify sockets, logs."""
