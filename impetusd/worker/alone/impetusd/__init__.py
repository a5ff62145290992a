"""impetusd, for a Python that does not have it: this folder in PYTHONPATH provides the package, and nothing beside
it."""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 # of a Python that we are not installed in
    said = "impetusd's worker needs Python 3.11 or newer, and {} is {}\n"
    sys.stderr.write(said.format(sys.executable, sys.version.split()[0]))
    os._exit(78)  # EX_CONFIG

__path__ = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))]
__file__ = os.path.join(__path__[0], "__init__.py")
with open(__file__, encoding="utf-8") as _own:
    exec(compile(_own.read(), __file__, "exec"))  # noqa: S102
