"""python -m impetusd.supervisor CONF PATHS: started by the shim, with its channel at descriptor 3.

With `prove` after that it only says whether it could: see `supervisor.proof`.
"""

import sys

# asyncio imports ssl for transports that are not used here: 25 ms at each start, and 2.9 MB as long as we live.
# `impetusd.probe`, which uses TLS, imports it when needed.
sys.modules["ssl"] = None  # type: ignore[assignment]
import asyncio  # noqa: E402, F401

del sys.modules["ssl"]
if sys.argv[3:] == ["prove"]:
    from impetusd.supervisor.proof import main
else:
    from impetusd.supervisor.daemon import main

main()
