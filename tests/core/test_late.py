"""Modules that the supervisor imports when it uses them: what stands for them until then is enough, and gives way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
sys.path[:0] = {path!r}
from impetusd.supervisor import late
with late.Imports():
    import asyncio, datetime, glob, json, queue, shlex, textwrap, typing
    from typing import Any, NamedTuple
    assert json.dumps({{"a": [1, "é"]}}) == '{{"a": [1, "\\\\u00e9"]}}'
    assert json.dumps([1, 2], separators=(",", ":")) == "[1,2]"
    assert textwrap.fill("a b", 1) == "a\\nb"  # it is used at once, and so it is imported at once
    from heapq import heappush, merge  # the second is Python's own
loaded = {{*sys.modules}}
print(*sorted({{"glob", "heapq", "json", "shlex", "textwrap", "typing", "concurrent.futures", "datetime"}} & loaded))
assert json.dumps([], indent=1) == "[]"
assert json.loads(b"[1]") == [1]
assert shlex.quote("a b") == "'a b'"
assert typing.get_type_hints(str) == {{}}
assert queue.SimpleQueue().empty()
import json as whole, datetime as real
assert whole.JSONDecodeError and datetime.datetime is real.datetime
async def main():
    return await asyncio.get_running_loop().run_in_executor(None, int, "7")
print(asyncio.run(main()))
"""


def test_a_stand_in_gives_way_to_its_module_as_soon_as_that_is_used():
    code = CODE.format(path=[str(Path(__file__).parents[2])])
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert said.stderr == ""
    assert said.stdout.split() == ["heapq", "textwrap", "7"]
