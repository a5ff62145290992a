"""Where commands are answered: the control socket, each method, and what rows show."""
