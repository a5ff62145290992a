"""What may restart or recycle a process: memory, age, files, health checks, readiness, timers."""
