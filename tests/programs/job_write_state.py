"""Save states to the file named by the first argument, each twice as long or half as long as the last, until killed.

Prints the number of each state once it is saved.
"""

import importlib.util
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # without site-packages
spec = importlib.util.spec_from_file_location("state", sys.argv[2])
state = importlib.util.module_from_spec(spec)
spec.loader.exec_module(state)
for number in itertools.count(int(sys.argv[3])):
    state.write(sys.argv[1], {"number": number, "slots": ["x" * 100] * (1 + number % 7 * 40)})
    print(number, flush=True)
