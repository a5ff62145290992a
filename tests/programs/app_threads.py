"""An application that starts a thread when it is imported, so that it cannot be forked."""

from __future__ import annotations

import threading

import app_hello

make = app_hello.make

threading.Thread(target=threading.Event().wait, name="ticker", daemon=True).start()
