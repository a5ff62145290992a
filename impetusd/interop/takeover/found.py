"""What the running processes show and the imported file does not say: where a Node server listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core.config.node import is_node
from impetusd.interop.importing.model import Fate
from impetusd.interop.takeover.manager import Was

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from impetusd.interop.importing.model import Imported, Program, Row
    from impetusd.interop.takeover.manager import Process
    from impetusd.interop.takeover.sockets import Socket


def add_listen(
    imported: Imported,
    processes: Mapping[str, Sequence[Process]],
    sockets: Mapping[str, Sequence[Socket]],
    shared: Sequence[Socket],
) -> None:
    """Give each Node program that listens on one TCP port the `listen` of it: then impetusd holds the socket, and neither
    the take-over nor a reload loses a request.

    `sockets`: those of a unit's own processes; `shared`: those that the manager's process holds for its cluster.
    """
    for program in imported.programs:
        its = _running(processes, program)
        if len(its) == 1 and not its[0].shared and len(sockets[program.name]) == 1:
            _put(imported, program, sockets[program.name][0])
    claimed = {program.keys["listen"].rpartition(":")[2] for program in imported.programs if "listen" in program.keys}
    left = [each for each in shared if str(each.port) not in claimed]
    cluster = [each for each in imported.programs if any(one.shared for one in _running(processes, each))]
    cluster = [each for each in cluster if "listen" not in each.keys]
    if len(left) == len(cluster) == 1:  # else it is not known whose socket is whose
        _put(imported, cluster[0], left[0])
        if (count := len(_running(processes, cluster[0]))) > 1:
            _restore_instances(imported, cluster[0], count)


def _running(processes: Mapping[str, Sequence[Process]], program: Program) -> list[Process]:
    return [each for each in processes[program.name] if each.was is Was.RUNNING]


def _put(imported: Imported, program: Program, where: Socket) -> None:
    if "listen" in program.keys or not is_node(program.argv) or program.keys.get("instances", "1") != "1":
        return
    program.keys["listen"] = str(where)
    if any(_is_lost(row, program, "wait_ready") for row in imported.rows):
        program.keys["wait_ready"] = "yes"
        imported.rows = [row for row in imported.rows if not _is_lost(row, program, "wait_ready")]
    program.notes = [note for note in program.notes if not note.startswith(("ready = ", "instances = "))]
    imported.differ(
        f"{program.name}: listen = {where} is its current address. impetusd holds the socket, so that a reload loses"
        " no request."
    )


def _restore_instances(imported: Imported, program: Program, count: int) -> None:
    """The reader has left them out, for want of the address."""
    if "listen" not in program.keys:
        return
    program.keys["instances"] = str(count)
    imported.rows = [row for row in imported.rows if not _is_lost(row, program, "instances")]
    imported.todo = [each for each in imported.todo if not each.startswith(f"{program.name}: write listen")]


def _is_lost(row: Row, program: Program, key: str) -> bool:
    return row.section == program.name and row.key == key and row.fate is Fate.LOST
