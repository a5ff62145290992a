"""Decisions about states, restarts, order, memory, age, health, times and reloads. Numbers in, decisions out."""
