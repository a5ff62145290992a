"""Workloads as a compose file: for `docker stack deploy` (format 3.8) and for `docker compose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from impetusd.core.config import schema
from impetusd.interop.exporting import emit
from impetusd.interop.exporting.emit import Noted
from impetusd.interop.exporting.model import CONF, DATA, SECRETS, TMP, Role

if TYPE_CHECKING:
    from impetusd.interop.exporting.model import Exported, Options, Probe, Workload

FILE = "compose.yaml"
SHORTEST = 5  # seconds for which Swarm watches a new container at least: less than that is its own start
DELAY = "2s"  # before a container that ended is started again


def files(made: Exported) -> dict[str, str]:
    """The compose file, and beside it an INI of each service and the names of its secret variables."""
    found = {FILE: text(made, inline=False)}
    for work in made.workloads:
        found[f"{work.name}.ini"] = work.ini
        if work.secret or work.env_files:
            also = "".join(f"# and the contents of {path}\n" for path in work.env_files)
            found[f"{work.env_file}.example"] = "".join(f"{name}=\n" for name in work.secret) + also
    return found


def text(made: Exported, *, inline: bool) -> str:
    """The compose file. `inline`: with the INI of each service in it, which docker compose reads and Swarm does not."""
    head = [
        f"Made by impetusd export compose. {'docker compose 2.23.1 or newer' if inline else 'docker compose, or docker stack deploy'}."
    ]
    if inline:
        head.append("For docker stack deploy, export to a folder: impetusd export compose -o FOLDER")
    return emit.document(document(made, inline=inline), "\n".join(head))


def document(made: Exported, *, inline: bool) -> dict[str, Any]:
    """The same as a value."""
    options = made.options
    found: dict[str, Any] = {"version": Noted("3.8", "for docker stack deploy; docker compose ignores it")}
    found["services"] = {work.name: _service(work, options) for work in made.workloads}
    found["configs"] = {
        f"{work.name}.ini": {
            "name": f"{options.name}-{work.name}-{work.digest}",
            **({"content": _plain(work.ini)} if inline else {"file": f"./{work.name}.ini"}),
        }
        for work in made.workloads
    }
    secrets = {work.env_file: _secret(work) for work in made.workloads if work.secret or work.env_files}
    if secrets:
        found["secrets"] = secrets
    if any(made.with_data()):
        found["volumes"] = {"data": {}}
    if options.dnsrr:
        found["networks"] = {"default": {"driver": "overlay", "attachable": True}}
    return found


def _secret(work: Workload) -> Noted:
    names = ", ".join(work.secret)
    more = " and ".join(filter(None, (names, " and ".join(work.env_files))))
    return Noted(
        {"file": f"./{work.env_file}"},
        f"NAME=value lines: {more}; to change a value in Swarm, create a secret with a new name",
    )


def _service(work: Workload, options: Options) -> dict[str, Any]:
    service: dict[str, Any] = {"image": _plain(options.image), "entrypoint": ["impetusd"], "command": list(work.argv)}
    if work.depends_on:
        service["depends_on"] = list(work.depends_on)
    environment: dict[str, Any] = {"IMPETUSD_CONF": CONF} | {name: _plain(value) for name, value in work.env.items()}
    for name, optional in work.needs.items():
        environment[name] = f"${{{name}:-}}" if optional else f"${{{name}:?set {name}}}"
    service["environment"] = environment
    service["configs"] = [{"source": f"{work.name}.ini", "target": CONF}]
    if work.secret or work.env_files:
        service["secrets"] = [
            {
                "source": work.env_file,
                "target": f"{SECRETS}/{work.env_file}",
                "uid": str(work.uid),
                "gid": str(work.gid),
                "mode": Noted(0o400, "0400"),
            }
        ]
    if work.ports:
        service |= _ports(work, options)
    service["user"] = f"{work.uid}:{work.gid}"
    service["read_only"] = True
    service["cap_drop"] = ["ALL"]
    if work.capabilities:
        service["cap_add"] = [name.upper() for name in work.capabilities]
    if not work.privileges:
        service["security_opt"] = ["no-new-privileges:true"]
    volumes: list[Any] = [{"type": "tmpfs", "target": TMP}]  # Swarm ignores `tmpfs:`
    if work.data:
        volumes.append({"type": "volume", "source": "data", "target": DATA})
    service["volumes"] = volumes
    if work.readiness is not None and work.role is Role.SERVICE:
        service["healthcheck"] = _healthcheck(work.readiness, work.start_period)
    service["stop_grace_period"] = f"{work.grace}s"
    if work.log_size:
        rotation = {"max-size": f"{max(1, work.log_size >> 10)}k", "max-file": str(work.log_keep + 1)}
        if work.log_compress and work.log_keep:
            rotation["compress"] = "true"
        service["logging"] = {"driver": "json-file", "options": rotation}
    service["restart"] = Noted(_restart(work), "for docker compose; Swarm uses restart_policy")
    service["deploy"] = _deploy(work, options)
    return service


def _ports(work: Workload, options: Options) -> dict[str, Any]:
    """What others reach, and what only the containers do."""
    mode = "host" if options.dnsrr else "ingress"
    published = [
        {"target": each.number, "published": each.number, "protocol": "tcp", "mode": mode}
        for each in work.ports
        if each.published
    ]
    inner = [str(each.number) for each in work.ports if not each.published]
    found: dict[str, Any] = {}
    if inner:
        ports = ", ".join(f'"127.0.0.1:{port}:{port}"' for port in inner)
        found["expose"] = Noted(
            inner,
            f"reachable only from the other services. To publish on this host with docker compose: ports: [{ports}]",
        )
    if published:
        found["ports"] = published
    return found


def _healthcheck(probe: Probe, start_period: int) -> dict[str, Any]:
    return {
        "test": ["CMD", *probe.argv],
        "interval": f"{probe.every}s",
        "timeout": f"{probe.timeout}s",
        "retries": probe.failures,
        "start_period": f"{start_period}s",
    }


def _deploy(work: Workload, options: Options) -> dict[str, Any]:
    if work.role is Role.ONCE:
        policy = (
            {"condition": "on-failure", "delay": DELAY, "max_attempts": work.tries}
            if work.tries
            else {"condition": "none"}
        )
        return {"replicas": 1, "restart_policy": policy}
    published = any(each.published for each in work.ports)
    order = "stop-first" if work.is_alone or (options.dnsrr and published) else "start-first"
    replicas: Any = work.replicas
    if work.replicas_max > work.replicas:
        replicas = Noted(
            work.replicas, f"up to {work.replicas_max}; to scale: docker service scale {options.name}_{work.name}=N"
        )
    found: dict[str, Any] = {"replicas": replicas}
    if options.dnsrr:
        found["endpoint_mode"] = "dnsrr"
    found["update_config"] = {
        "parallelism": work.parallel,
        "order": order,
        "failure_action": "rollback",
        "monitor": f"{max(work.settle, SHORTEST)}s",
    }
    found["rollback_config"] = {"order": order}
    found["restart_policy"] = {"condition": "any", "delay": DELAY}
    limits: dict[str, Any] = {}
    if work.cpu_max:
        limits["cpus"] = f"{work.cpu_max / 100:g}"
    if work.memory_max:
        limits["memory"] = schema.show_size(work.memory_max)
    resources: dict[str, Any] = {"limits": limits} if limits else {}
    if work.memory:
        resources["reservations"] = {"memory": schema.show_size(work.memory)}
    return {**found, **({"resources": resources} if resources else {})}


def _restart(work: Workload) -> str:
    if work.role is Role.ONCE:
        return f"on-failure:{work.tries}" if work.tries else "no"
    return "always"


def _plain(text: str) -> str:
    """A text that holds no reference for compose."""
    return text.replace("$", "$$")
