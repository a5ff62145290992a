"""python -m impetusd.supervisor CONF PATHS: started by the shim, with its channel at descriptor 3."""

import sys

# asyncio imports ssl for transports that are not used here: 25 ms at each start, and 2.9 MB as long as we live. The one
# who asks over TLS (`impetusd.probe`) imports it then.
sys.modules["ssl"] = None  # type: ignore[assignment]
import asyncio  # noqa: E402, F401

del sys.modules["ssl"]
from impetusd.supervisor.daemon import main  # noqa: E402

main()
