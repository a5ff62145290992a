"""python -m impetusd.supervisor CONF PATHS: started by the shim, with its channel at descriptor 3."""

from impetusd.supervisor.daemon import main

main()
