"""Rules that restart or recycle processes: memory, age, files, health checks, readiness, timers."""
