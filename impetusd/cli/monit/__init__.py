"""`impetusd monit`: what runs, on a terminal, as it changes."""
