"""Moving what another manager runs to impetusd: its clients, the sockets of both, and the plan."""
