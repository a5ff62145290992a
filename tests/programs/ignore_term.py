"""Ignores SIGTERM; says READY=1 once it does."""

from __future__ import annotations

import signal

import behave

signal.signal(signal.SIGTERM, signal.SIG_IGN)
behave.notify("READY=1")
behave.hold()
