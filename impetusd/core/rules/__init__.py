"""What is decided: states, restarts, order, memory, age, health, times, reloads. Numbers in, decisions out."""
