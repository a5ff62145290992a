"""python -m impetusd.supervisor CONF PATHS: started by the shim, with its channel at descriptor 3.

With `prove` after that it only says whether it could: see `supervisor.proof`.
"""

import sys

from impetusd.supervisor.late import Imports

with Imports():
    if sys.argv[3:] == ["prove"]:
        from impetusd.supervisor.proof import main
    else:
        from impetusd.supervisor.daemon import main
    from impetusd.linux.heap import return_large_blocks

return_large_blocks()
main()
