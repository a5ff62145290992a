"""The shim's beginning, run by path: `python -I -S …/shim/__main__.py CONF PATHS`.

Isolated and without site-packages, so that no other package can slow or break it. A file of its own, because what is run by
path is compiled anew at each start: 1.9 MB that the compiler leaves behind for as long as the shim lives.
"""

import os
import sys

package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.dirname(package))  # -S left only the standard library

from impetusd.shim.main import main  # noqa: E402

os._exit(main())  # nothing is buffered, and the interpreter's own end frees what the kernel frees anyway
