"""The slots and what happens in them: the engine, its inbox, rolling restarts and reloads."""
