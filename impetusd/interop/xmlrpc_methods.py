"""supervisord's methods, each in terms of ours: one explicit table, and what each call means.

What changes something is asked of the supervisor in the caller's name, and it is the supervisor that refuses it.

Its class has as many methods as supervisord has: most are a few lines, and METHODS at the end lists them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from impetusd.client.control import ControlError, Unanswered
from impetusd.core import protocol
from impetusd.interop import supervisord
from impetusd.interop.supervisord import NAMES, Fault, Faults, Process
from impetusd.interop.xmlrpc_asking import UNITS, Asking, Refused, section_name
from impetusd.interop.xmlrpc_logs import Log

API_VERSION = "3.0"  # of supervisor.rpcinterface
OURS = "impetusd"  # as identification, and as the name of the daemon's own log
MOST_CALLS = 200  # in one multicall


class Methods(Asking):
    """The calls of one caller."""

    async def run(self, name: str, params: Sequence[Any]) -> Any:
        """The value of one call. Raises Fault, and Refused where the role does not allow it."""
        known = METHODS.get(name)
        if known is None:
            raise Fault(Faults.UNKNOWN_METHOD, name[:60])
        if not _fits(known.params, params):
            raise Fault(Faults.INCORRECT_PARAMETERS, f"{name} takes ({', '.join(known.params)})")
        try:
            return await known.run(self, *params)
        except Unanswered as error:
            raise Fault(Faults.FAILED, str(error)) from None
        except ControlError as error:
            raise Fault(
                Faults.BAD_NAME if error.exit == protocol.EXIT_UNKNOWN_NAME else Faults.FAILED, str(error)
            ) from None

    # The daemon.

    async def api_version(self) -> str:
        """The version of this protocol."""
        return API_VERSION

    async def version(self) -> str:
        """The version of supervisord whose protocol this is."""
        return metadata.version("supervisor")

    async def identification(self) -> str:
        """Who answers: impetusd."""
        return OURS

    async def state(self) -> dict[str, Any]:
        """RUNNING, as long as there is an answer."""
        await self._ask("ping", {})
        return {"statecode": 1, "statename": "RUNNING"}

    async def pid(self) -> int:
        """The pid of the daemon, which lives as long as it: the shim's."""
        return int((await self._ask("ping", {}))["shim"]["pid"])

    async def shutdown(self) -> bool:
        """Stop every program, and the daemon."""
        await self._begin("stop", {"names": []})
        return True

    async def restart(self) -> bool:
        """Restart every program, and apply the INI file. The daemon itself goes on."""
        changes, slots = await self._plan(), [each.slot for each in await self._processes()]
        if changes and not protocol.may(self._role, "apply"):
            raise Refused("the INI file has changes, but apply requires the role admin; see ceiling in [gateway]")
        if slots:  # first: to apply a change of [gateway] ends this process
            await self._begin("restart", {"names": slots}, self._apply if changes else None)
        elif changes:
            await self._begin("apply", {"token": _token()})
        return True

    # What runs.

    async def all_process_info(self) -> list[dict[str, Any]]:
        """What each process is, and since when."""
        now, files = time.time(), await self._files()
        return [supervisord.info(each, files, now) for each in await self._processes()]

    async def process_info(self, name: str) -> dict[str, Any]:
        """What one process is, and since when."""
        return supervisord.info((await self._processes()).one(name), await self._files(), time.time())

    async def all_config_info(self) -> list[dict[str, Any]]:
        """How each process is configured; also those that only the INI file has so far."""
        processes, files = await self._processes(), await self._files()
        details = (
            {row["name"]: row["spec"] for row in (await self._ask("describe", {"name": "*"}))["units"]}
            if processes
            else {}
        )
        found = []
        for each in processes:
            own = {stream: files.get((each.slot, stream), "") for stream in ("out", "error")}
            found.append(supervisord.config_info(each, details.get(each.slot, {}), own))
        with contextlib.suppress(Fault):
            for change in await self._plan():
                if change["effect"] == "added" and change["kind"] in UNITS and change["name"] not in supervisord.OWN:
                    keys = {key["key"]: key["to"] for key in change["keys"]}
                    found.append(supervisord.available(change["name"], keys))
        return sorted(found, key=lambda each: (each["group"], each["name"]))

    async def _files(self) -> dict[tuple[str, str], str]:
        try:
            answer = await self._ask("logs", {"names": []})
        except ControlError:  # everything goes to the standard output
            return {}
        return {(each["name"], each["stream"]): each["path"] for each in answer["files"]}

    # Starting, stopping, signalling.

    async def start(self, name: str, wait: bool = True) -> Any:
        """Start a process, or with GROUP:* a group. `wait`: until it runs."""
        if group := supervisord.is_group(name):
            return await self.start_group(group, wait)
        process = (await self._processes()).one(name)
        if process.is_running:
            raise Fault(Faults.ALREADY_STARTED, name)
        (result,) = await self._start([process], wait=wait)
        return _true(result)

    async def start_group(self, name: str, wait: bool = True) -> list[dict[str, Any]]:
        """Start all processes of a group."""
        return await self._start((await self._processes()).group(name), wait=wait)

    async def start_all(self, wait: bool = True) -> list[dict[str, Any]]:
        """Start all processes."""
        return await self._start(await self._processes(), wait=wait)

    async def _start(self, processes: Iterable[Process], *, wait: bool) -> list[dict[str, Any]]:
        wanted = [each for each in processes if not each.is_running]
        if not wanted:
            return []
        try:
            answer = await self._ask("start", {"names": [each.slot for each in wanted], "wait": wait})
        except Unanswered:
            raise
        except ControlError as error:
            return [each.result(Faults.SPAWN_ERROR, str(error)) for each in wanted]
        rows = {row["name"]: row for row in answer["units"]}
        return [_started(each, rows.get(each.slot), wait=wait) for each in wanted]

    async def stop(self, name: str, wait: bool = True) -> Any:
        """Stop a process, or with GROUP:* a group. `wait`: until it has ended."""
        if group := supervisord.is_group(name):
            return await self.stop_group(group, wait)
        process = (await self._processes()).one(name)
        if not process.is_running:
            raise Fault(Faults.NOT_RUNNING, name)
        (result,) = await self._stop([process], wait=wait)
        return _true(result)

    async def stop_group(self, name: str, wait: bool = True) -> list[dict[str, Any]]:
        """Stop all processes of a group."""
        if name.startswith("["):  # what `reloadConfig` calls a section without processes
            return []
        return await self._stop(await self._group(name), wait=wait)

    async def _group(self, name: str) -> list[Process]:
        """Those of a group; none of one that a change of the INI file disables, or removes once it is. Fault BAD_NAME."""
        try:
            return (await self._processes()).group(name)
        except Fault:
            if name not in self._applied and not any(name in names for names in (await self._changed()).values()):
                raise
            return []

    async def stop_all(self, wait: bool = True) -> list[dict[str, Any]]:
        """Stop all processes; the daemon goes on."""
        return await self._stop(await self._processes(), wait=wait)

    async def _stop(self, processes: Iterable[Process], *, wait: bool) -> list[dict[str, Any]]:
        wanted = [each for each in processes if each.is_running]
        if not wanted:
            return []
        params = {"names": [each.slot for each in wanted]}
        if not wait:
            await self._begin("stop", params)
            return [each.result() for each in wanted]
        rows = {row["name"]: row for row in (await self._ask("stop", params))["units"]}
        return [_stopped(each, rows.get(each.slot)) for each in wanted]

    async def signal(self, name: str, signal: str) -> Any:
        """Send a signal (HUP, SIGHUP or 1) to a process, or with GROUP:* to a group."""
        if group := supervisord.is_group(name):
            return await self.signal_group(group, signal)
        process = (await self._processes()).one(name)
        if not process.is_signallable:
            raise Fault(Faults.NOT_RUNNING, name)
        (result,) = await self._signal([process], signal)
        return _true(result)

    async def signal_group(self, name: str, signal: str) -> list[dict[str, Any]]:
        """Send a signal to all processes of a group."""
        return await self._signal((await self._processes()).group(name), signal)

    async def signal_all(self, signal: str) -> list[dict[str, Any]]:
        """Send a signal to all processes."""
        return await self._signal(await self._processes(), signal)

    async def _signal(self, processes: Iterable[Process], signal: str) -> list[dict[str, Any]]:
        wanted = [each for each in processes if each.is_signallable]
        if not wanted:
            return []
        try:
            await self._ask("signal", {"names": [each.slot for each in wanted], "signal": signal})
        except Unanswered:
            raise
        except ControlError as error:
            code = Faults.BAD_SIGNAL if error.exit == protocol.EXIT_USAGE else Faults.FAILED
            return [each.result(code, str(error)) for each in wanted]
        return [each.result() for each in wanted]

    # The configuration.

    async def reload_config(self) -> list[list[list[str]]]:
        """Compare the INI file with what is in force: [[added, changed, removed]]. Nothing is changed."""
        found = await self._changed()
        self._applied.clear()
        return [[found["added"], found["changed"], found["removed"]]]

    async def add_group(self, name: str) -> bool:
        """Apply the INI file, all of it at once, and start this group if it starts by itself."""
        found = await self._changed()
        if name in found["added"] or name in found["changed"]:
            await self._apply_all(found)
        elif name not in self._applied:
            try:
                (await self._processes()).group(name)
            except Fault:
                if not (await self._ask("enable", {"names": [name], "token": _token()}))["changes"]:
                    raise
            else:
                raise Fault(Faults.ALREADY_ADDED, name)
        self._applied.pop(name, None)
        if not name.startswith("["):
            with contextlib.suppress(Fault):  # a group without processes
                group = (await self._processes()).group(name)
                await self._start([each for each in group if await self._is_autostarted(each)], wait=True)
        return True

    async def remove_group(self, name: str) -> bool:
        """Take a stopped group out of what is in force: for good if the INI file has it no more, else until it is added."""
        found = await self._changed()
        if name in found["changed"]:
            return True  # its turn to be added comes next
        if self._applied.get(name) is False:
            self._applied[name] = True
            return True
        group = await self._group(name)
        if not all(each.is_stopped for each in group):
            raise Fault(Faults.STILL_RUNNING, name)
        if name in found["removed"]:
            await self._apply_all(found)
            self._applied.pop(name, None)
        else:
            units = list(dict.fromkeys(each.row["unit"] for each in group))
            await self._ask("disable", {"names": units, "token": _token()})
        return True

    async def _apply_all(self, found: Mapping[str, Iterable[str]]) -> None:
        if section_name("", "gateway") in found["changed"]:
            await self._begin("apply", {"token": _token()})  # which ends when we have been replaced, and are gone
        else:
            await self._apply()
        self._applied.update({name: False for names in found.values() for name in names})

    async def _apply(self) -> None:
        await self._ask("apply", {"token": _token()})

    async def _is_autostarted(self, process: Process) -> bool:
        answer = await self._ask("describe", {"name": process.slot})
        return bool(answer["units"][0]["spec"].get("autostart", "yes") == "yes")

    # Logs.

    def log(self, slot: str, stream: str) -> Log:
        """Of a slot by our own name, or of the daemon (OURS)."""
        return Log(self._ask, slot, stream)

    async def log_of(self, name: str, stream: str) -> Log:
        """Of a process by supervisord's name for it. `stream` is stdout or stderr."""
        return self.log((await self._processes()).one(name).slot, stream)

    async def read_main_log(self, offset: int, length: int) -> str:
        """`length` bytes of the daemon's log from `offset` on; from its end where that is negative."""
        return await self.log(OURS, "stdout").read(offset, length)

    async def read_stdout(self, name: str, offset: int, length: int) -> str:
        """`length` bytes of a process' standard output from `offset` on; from its end where that is negative."""
        return await (await self.log_of(name, "stdout")).read(offset, length)

    async def read_stderr(self, name: str, offset: int, length: int) -> str:
        """The same of its standard error."""
        return await (await self.log_of(name, "stderr")).read(offset, length)

    async def tail_stdout(self, name: str, offset: int, length: int) -> list[Any]:
        """What a process has written behind `offset`: [text, next offset, whether it was more than `length` bytes]."""
        return await (await self.log_of(name, "stdout")).tail(offset, length)

    async def tail_stderr(self, name: str, offset: int, length: int) -> list[Any]:
        """The same of its standard error."""
        return await (await self.log_of(name, "stderr")).tail(offset, length)

    async def send_stdin(self, name: str, _text: str) -> bool:
        """Refuse: a program's standard input is /dev/null."""
        (await self._processes()).one(name)
        raise Fault(Faults.NO_FILE, f"{name} reads /dev/null, so that fg only shows what it writes, as tail -f does")

    async def clear(self, name: str) -> bool:
        """Empty the log files of a process."""
        process = (await self._processes()).one(name)
        return _true((await self._clear([process]))[0])

    async def clear_all(self) -> list[dict[str, Any]]:
        """Empty the log files of all processes."""
        return await self._clear(await self._processes())

    async def _clear(self, processes: Sequence[Process]) -> list[dict[str, Any]]:
        if not processes:
            return []
        answer = await self._ask("flush", {"names": [each.slot for each in processes]})
        failed = "; ".join(answer["failed"])
        return [each.result(Faults.FAILED, failed) if failed else each.result() for each in processes]

    # The protocol itself.

    async def list_methods(self) -> list[str]:
        """The names of all methods."""
        return sorted(METHODS)

    async def method_help(self, name: str) -> str:
        """What a method does."""
        return _known(name).help

    async def method_signature(self, name: str) -> list[str]:
        """The types of a method's value and of its parameters."""
        known = _known(name)
        return [known.value, *(each.removesuffix("?") for each in known.params)]

    async def multicall(self, calls: list[Any]) -> list[Any]:
        """Many calls, one after the other: each a struct of methodName and params. Its result, or its fault as a struct."""
        if len(calls) > MOST_CALLS:
            raise Fault(Faults.BAD_ARGUMENTS, f"at most {MOST_CALLS} calls are allowed")
        return [await self._one_of_many(each) for each in calls]

    async def _one_of_many(self, call: Any) -> Any:
        try:
            name = call.get("methodName") if isinstance(call, dict) else None
            params = call.get("params", []) if isinstance(call, dict) else None
            if not isinstance(name, str) or not isinstance(params, list) or name == "system.multicall":
                raise Fault(
                    Faults.INCORRECT_PARAMETERS, "a call must be a struct of methodName and params, and not a multicall"
                )
            return await self.run(name, params)
        except Fault as fault:
            return {"faultCode": fault.code, "faultString": str(fault)}
        except Refused as error:
            return {"faultCode": Faults.FAILED, "faultString": f"{NAMES[Faults.FAILED]}: {error}"}


def _token() -> str:
    """By it the next supervisor knows a request again that has cost the one before its place."""
    return os.urandom(8).hex()


def _true(result: Mapping[str, Any]) -> bool:
    if result["status"] != Faults.SUCCESS:
        raise Fault(result["status"], result["description"])
    return True


def _started(process: Process, row: Mapping[str, Any] | None, *, wait: bool) -> dict[str, Any]:
    code = Faults.SUCCESS if not wait else supervisord.start_fault(row) if row else Faults.ABNORMAL_TERMINATION
    return process.result() if code == Faults.SUCCESS else process.result(code, str((row or {}).get("reason") or ""))


def _stopped(process: Process, row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None or row["state"] in protocol.IDLE:
        return process.result()
    return process.result(
        Faults.FAILED, f"FAILED: {process.spec} is {row['state']}: {row.get('reason') or 'still running'}"
    )


class Method(NamedTuple):
    """`params`: the type of each, with ? behind it if it may be left out. `value`: the type of the answer."""

    run: Callable[..., Awaitable[Any]]
    params: tuple[str, ...]
    value: str

    @property
    def help(self) -> str:
        return str(self.run.__doc__)


_PROCESS, _LOG = ("string", "boolean?"), ("string", "int", "int")
METHODS: Mapping[str, Method] = {
    "supervisor.addProcessGroup": Method(Methods.add_group, ("string",), "boolean"),
    "supervisor.clearAllProcessLogs": Method(Methods.clear_all, (), "array"),
    "supervisor.clearProcessLog": Method(Methods.clear, ("string",), "boolean"),
    "supervisor.clearProcessLogs": Method(Methods.clear, ("string",), "boolean"),
    "supervisor.getAPIVersion": Method(Methods.api_version, (), "string"),
    "supervisor.getAllConfigInfo": Method(Methods.all_config_info, (), "array"),
    "supervisor.getAllProcessInfo": Method(Methods.all_process_info, (), "array"),
    "supervisor.getIdentification": Method(Methods.identification, (), "string"),
    "supervisor.getPID": Method(Methods.pid, (), "int"),
    "supervisor.getProcessInfo": Method(Methods.process_info, ("string",), "struct"),
    "supervisor.getState": Method(Methods.state, (), "struct"),
    "supervisor.getSupervisorVersion": Method(Methods.version, (), "string"),
    "supervisor.getVersion": Method(Methods.api_version, (), "string"),
    "supervisor.readLog": Method(Methods.read_main_log, ("int", "int"), "string"),
    "supervisor.readMainLog": Method(Methods.read_main_log, ("int", "int"), "string"),
    "supervisor.readProcessLog": Method(Methods.read_stdout, _LOG, "string"),
    "supervisor.readProcessStderrLog": Method(Methods.read_stderr, _LOG, "string"),
    "supervisor.readProcessStdoutLog": Method(Methods.read_stdout, _LOG, "string"),
    "supervisor.reloadConfig": Method(Methods.reload_config, (), "array"),
    "supervisor.removeProcessGroup": Method(Methods.remove_group, ("string",), "boolean"),
    "supervisor.restart": Method(Methods.restart, (), "boolean"),
    "supervisor.sendProcessStdin": Method(Methods.send_stdin, ("string", "string"), "boolean"),
    "supervisor.shutdown": Method(Methods.shutdown, (), "boolean"),
    "supervisor.signalAllProcesses": Method(Methods.signal_all, ("string",), "array"),
    "supervisor.signalProcess": Method(Methods.signal, ("string", "string"), "boolean"),
    "supervisor.signalProcessGroup": Method(Methods.signal_group, ("string", "string"), "array"),
    "supervisor.startAllProcesses": Method(Methods.start_all, ("boolean?",), "array"),
    "supervisor.startProcess": Method(Methods.start, _PROCESS, "boolean"),
    "supervisor.startProcessGroup": Method(Methods.start_group, _PROCESS, "array"),
    "supervisor.stopAllProcesses": Method(Methods.stop_all, ("boolean?",), "array"),
    "supervisor.stopProcess": Method(Methods.stop, _PROCESS, "boolean"),
    "supervisor.stopProcessGroup": Method(Methods.stop_group, _PROCESS, "array"),
    "supervisor.tailProcessLog": Method(Methods.tail_stdout, _LOG, "array"),
    "supervisor.tailProcessStderrLog": Method(Methods.tail_stderr, _LOG, "array"),
    "supervisor.tailProcessStdoutLog": Method(Methods.tail_stdout, _LOG, "array"),
    "system.listMethods": Method(Methods.list_methods, (), "array"),
    "system.methodHelp": Method(Methods.method_help, ("string",), "string"),
    "system.methodSignature": Method(Methods.method_signature, ("string",), "array"),
    "system.multicall": Method(Methods.multicall, ("array",), "array"),
}
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool) or value in (0, 1),
    "array": lambda value: isinstance(value, list),
}


def _known(name: str) -> Method:
    if name not in METHODS:
        raise Fault(Faults.SIGNATURE_UNSUPPORTED)
    return METHODS[name]


def _fits(expected: Sequence[str], given: Sequence[Any]) -> bool:
    least = sum(not each.endswith("?") for each in expected)
    fit = all(_TYPES[kind.removesuffix("?")](value) for kind, value in zip(expected, given, strict=False))
    return least <= len(given) <= len(expected) and fit
