"""Workloads as objects of Kubernetes, for `kubectl apply`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from impetusd.interop.exporting import emit
from impetusd.interop.exporting.emit import Noted
from impetusd.interop.exporting.model import CONF, DATA, PRE_STOP, SECRETS, TMP, UID, Role

if TYPE_CHECKING:
    from impetusd.interop.exporting.model import Exported, Options, Probe, Workload

MI = 1 << 20
TARGET_CPU = 70  # percent of what is requested, above which a HorizontalPodAutoscaler adds pods
ASKED_CPU = 100  # thousandths of a CPU: what a pod that is scaled requests, for the percentage is of that
# Waits until a port answers; its words are the host and the port.
WAIT = "import socket, sys, time\nwhile True:\n    try:\n        socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()\n        break\n    except OSError:\n        time.sleep(1)\n"


def text(made: Exported) -> str:
    """Every object, each a document."""
    head = ["Made by impetusd export kubernetes: kubectl apply -f FILE"]
    for work in made.containers():
        if names := _of_secret(work):
            head += [
                (
                    f"{work.name} needs a Secret, created from a file with a NAME=value line for each of"
                    f" {', '.join(names)}:"
                ),
                f"  kubectl create secret generic {work.secret_name} --from-env-file=FILE",
            ]
        if work.env_files:
            head += [
                f"{work.name} needs a Secret with the contents of {', '.join(work.env_files)}:",
                f"  kubectl create secret generic {work.file_secret_name} --from-file={work.env_file}=FILE",
            ]
    found = objects(made)
    texts = [emit.document(each) for each in found]
    return emit.comment("\n".join(head)) + "---\n" + "---\n".join(texts)


def objects(made: Exported) -> list[dict[str, Any]]:
    """The same as values."""
    options = made.options
    found: list[dict[str, Any]] = []
    if any(made.with_data()):
        found.append(_claim(made))
    for work in made.workloads:
        found += [_config(each, options) for each in (*work.before, work) if not _is_there(found, each)]
        if work.role is Role.CRON:
            found.append(_cron_job(work, options))
        elif work.role is Role.ONCE:
            found.append(_object("batch/v1", "Job", _job_name(work, options), work, options, spec=_job(work, options)))
        else:
            found += _service(work, options)
    return found


def _of_secret(work: Workload) -> list[str]:
    """The variables that it is given from its Secret."""
    return list(dict.fromkeys((*work.secret, *work.needs)))


def _is_there(found: list[dict[str, Any]], work: Workload) -> bool:
    return any(each["kind"] == "ConfigMap" and each["metadata"]["name"] == _config_name(work) for each in found)


def _config_name(work: Workload) -> str:
    return f"{work.name}-ini"


def _object(version: str, kind: str, name: str, work: Workload, options: Options, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": _labels(work, options)}, **rest}


def _labels(work: Workload, options: Options) -> dict[str, str]:
    return {"app.kubernetes.io/name": work.name, "app.kubernetes.io/part-of": options.name}


def _config(work: Workload, options: Options) -> dict[str, Any]:
    return _object("v1", "ConfigMap", _config_name(work), work, options, data={"impetusd.ini": work.ini})


def _claim(made: Exported) -> dict[str, Any]:
    options = made.options
    data = list(made.with_data())
    shared = len(data) > 1 or data[0].replicas_max > 1
    mode = (
        Noted("ReadWriteMany", "several pods share it, so its storage class must be a network file system")
        if shared
        else "ReadWriteOnce"
    )
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"{options.name}-data", "labels": {"app.kubernetes.io/part-of": options.name}},
        "spec": {
            "accessModes": [mode],
            "resources": {"requests": {"storage": Noted("1Gi", "adjust to the size of the files")}},
        },
    }


def _service(work: Workload, options: Options) -> list[dict[str, Any]]:
    """A Deployment with what belongs to it."""
    scaled = work.replicas_max > work.replicas
    strategy: dict[str, Any] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": work.parallel},
    }
    if work.is_alone:
        strategy = {"type": Noted("Recreate", "two pods at once would do everything twice")}
    spec: dict[str, Any] = {} if scaled else {"replicas": work.replicas}  # an autoscaler's number is not ours to set
    spec |= {"selector": {"matchLabels": _labels(work, options)}, "strategy": strategy}
    if work.settle:
        spec["minReadySeconds"] = work.settle
    spec["template"] = {"metadata": _pod_metadata(work, options), "spec": _pod(work, options)}
    found = [_object("apps/v1", "Deployment", work.name, work, options, spec=spec)]
    if work.ports:
        ports = [{"name": f"tcp-{each.number}", "port": each.number, "targetPort": each.number} for each in work.ports]
        found.append(
            _object(
                "v1", "Service", work.name, work, options, spec={"selector": _labels(work, options), "ports": ports}
            )
        )
    if scaled:
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": work.name}
        cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": TARGET_CPU}}
        scaling = {
            "scaleTargetRef": target,
            "minReplicas": work.replicas,
            "maxReplicas": work.replicas_max,
            "metrics": [{"type": "Resource", "resource": cpu}],
        }
        found.append(_object("autoscaling/v2", "HorizontalPodAutoscaler", work.name, work, options, spec=scaling))
    if work.replicas > 1:
        budget = {"maxUnavailable": 1, "selector": {"matchLabels": _labels(work, options)}}
        found.append(_object("policy/v1", "PodDisruptionBudget", work.name, work, options, spec=budget))
    return found


def _pod_metadata(work: Workload, options: Options) -> dict[str, Any]:
    digests = {f"impetusd/{each.name}.ini": each.digest for each in (*work.before, work)}
    return {"labels": _labels(work, options), "annotations": digests}


def _cron_job(work: Workload, options: Options) -> dict[str, Any]:
    when = work.schedule
    assert when is not None  # as a CRON workload has
    spec: dict[str, Any] = {"schedule": when.cron}
    if when.timezone:
        spec["timeZone"] = when.timezone
    spec["concurrencyPolicy"] = "Replace" if when.replace else "Forbid"
    spec["startingDeadlineSeconds"] = when.late
    spec["jobTemplate"] = {"metadata": {"labels": _labels(work, options)}, "spec": _job(work, options)}
    return _object("batch/v1", "CronJob", work.name, work, options, spec=spec)


def _job_name(work: Workload, options: Options) -> str:
    """Another one for each INI and image: a Job cannot be changed."""
    return f"{work.name}-{hashlib.sha256(f'{work.ini}{options.image}'.encode()).hexdigest()[:10]}"


def _job(work: Workload, options: Options) -> dict[str, Any]:
    spec: dict[str, Any] = {"backoffLimit": work.schedule.retries if work.schedule else work.tries}
    timeout = work.schedule.timeout if work.schedule else work.timeout
    if timeout:
        spec["activeDeadlineSeconds"] = timeout
    pod = _pod(work, options)
    pod["restartPolicy"] = "Never"
    spec["template"] = {"metadata": _pod_metadata(work, options), "spec": pod}
    return spec


def _pod(work: Workload, options: Options) -> dict[str, Any]:
    works = [*work.before, work]
    spec: dict[str, Any] = {
        "securityContext": {"runAsNonRoot": all(each.uid for each in works), "fsGroup": UID},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # the variables that it would bring are many, and WEB_PORT may be the app's own
        "terminationGracePeriodSeconds": work.grace,
    }
    first = [_container(each, options) for each in work.before]
    first += [
        {
            "name": f"wait-for-{name}",
            "image": options.image,
            "command": ["python", "-c", WAIT, name, str(port)],
            "securityContext": _security(work),
        }
        for name, port in work.waits
    ]
    if first:
        spec["initContainers"] = first
    spec["containers"] = [_container(work, options)]
    volumes: list[dict[str, Any]] = [
        {"name": f"{each.name}-ini", "configMap": {"name": _config_name(each)}} for each in works
    ]
    # Each has its own: impetusd's folders are in there. podman has one volume for all that have a name.
    volumes += [{"name": f"{each.name}-tmp", "emptyDir": {}} for each in works]
    volumes += [
        {"name": f"{each.name}-env", "secret": {"secretName": each.file_secret_name}}
        for each in works
        if each.env_files
    ]
    if work.has_volume:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": f"{options.name}-data"}})
    spec["volumes"] = volumes
    return spec


def _container(work: Workload, options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": work.name,
        "image": options.image,
        "command": ["impetusd"],
        "args": list(work.argv),
    }
    env: list[dict[str, Any]] = [{"name": "IMPETUSD_CONF", "value": CONF}]
    env += [{"name": name, "value": value.replace("$", "$$")} for name, value in work.env.items()]
    for name in _of_secret(work):
        key: dict[str, Any] = {"name": work.secret_name, "key": name}
        if name not in work.secret and work.needs[name]:
            key["optional"] = True
        env.append({"name": name, "valueFrom": {"secretKeyRef": key}})
    found["env"] = env
    if work.ports:
        found["ports"] = [{"name": f"tcp-{each.number}", "containerPort": each.number} for each in work.ports]
    if resources := _resources(work):
        found["resources"] = resources
    found["securityContext"] = _security(work)
    if work.role is Role.SERVICE:
        for name, probe in (("startup", work.startup), ("readiness", work.readiness), ("liveness", work.liveness)):
            if probe is not None:
                found[f"{name}Probe"] = _probe(probe)
        if work.ports:  # requests still come for a moment after the pod has left the Service
            found["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP)]}}}
    mounts = [
        {"name": f"{work.name}-ini", "mountPath": CONF.rpartition("/")[0], "readOnly": True},
        {"name": f"{work.name}-tmp", "mountPath": TMP},
    ]
    if work.env_files:
        mounts.append({"name": f"{work.name}-env", "mountPath": SECRETS, "readOnly": True})
    if work.data:
        mounts.append({"name": "data", "mountPath": DATA})
    found["volumeMounts"] = mounts
    return found


def _resources(work: Workload) -> dict[str, Any]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if work.cpu_max:
        requests["cpu"] = limits["cpu"] = f"{work.cpu_max * 10}m"
    elif work.replicas_max > work.replicas:
        requests["cpu"] = f"{ASKED_CPU}m"
    if work.memory:
        requests["memory"] = f"{-(-work.memory // MI)}Mi"
        limits["memory"] = f"{-(-work.memory_max // MI)}Mi"
    return {**({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})}


def _security(work: Workload) -> dict[str, Any]:
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if work.capabilities:
        capabilities["add"] = [name.upper() for name in work.capabilities]
    return {
        "runAsUser": work.uid,
        "runAsGroup": work.gid,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": work.privileges,
        "capabilities": capabilities,
    }


def _probe(probe: Probe) -> dict[str, Any]:
    if probe.kind == "http":
        way: dict[str, Any] = {"path": probe.path, "port": probe.port}
        if probe.scheme != "HTTP":
            way["scheme"] = probe.scheme
        if probe.headers:
            way["httpHeaders"] = [{"name": name, "value": value} for name, value in probe.headers]
        found: dict[str, Any] = {"httpGet": way}
    elif probe.kind == "tcp":
        found = {"tcpSocket": {"port": probe.port}}
    else:
        found = {"exec": {"command": list(probe.argv)}}
    found |= {"periodSeconds": probe.every, "timeoutSeconds": probe.timeout, "failureThreshold": probe.failures}
    return {**found, **({"successThreshold": probe.successes} if probe.successes > 1 else {})}
