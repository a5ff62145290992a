"""What schemas of Kubernetes and compose let pass, and their engines refuse: asked of each result before it is written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from impetusd.interop.exporting.emit import Noted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LABEL = 63  # characters of a host's name between dots (RFC 1123), and of a label's value
CRON_JOB = 52  # ... of a CronJob: its jobs' names get 11 more
PORT_NAME = 15
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_SERVICE_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")  # RFC 1035
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
_KEY = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_QUANTITY = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_DOCKER_SIZE = re.compile(r"[0-9]+[bkmgtBKMGT]?")
_DURATION = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+")
# An image: host and port, path, tag and digest.
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,})?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_RANGES = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, _MONTHS), (0, 6, _DAYS))  # of a cron expression's fields


def is_name(text: str) -> bool:
    """Whether it can name a host, by RFC 1123."""
    return len(text) <= LABEL and _NAME.fullmatch(text) is not None


def is_image(text: str) -> bool:
    """Whether it can name an image."""
    return len(text) <= 255 and _IMAGE.fullmatch(text) is not None


def cron_fault(expression: str) -> str:
    """What a CronJob would refuse of five fields, as half a sentence; "" for nothing."""
    fields = expression.split()
    if len(fields) != 5:
        return "it does not have five fields"
    for field, (least, most, names) in zip(fields, _RANGES, strict=True):
        for part in field.lower().split(","):
            span, slash, step = part.partition("/")
            if slash and not (step.isascii() and step.isdigit() and int(step[:9]) > 0):
                return f"{part}: the step after / must be a number above 0"
            low, dash, high = span.partition("-")
            if span in {"*", "?"}:
                continue
            numbers = [_number(each, least, names) for each in ([low, high] if dash else [low])]
            if any(not least <= each <= most for each in numbers) or numbers != sorted(numbers):
                return f"{part} is not within {least}-{most}"
    return ""


def _number(text: str, least: int, names: Iterable[str]) -> int:
    known = {name: number for number, name in enumerate(names, least)}
    return known.get(text, int(text[:9]) if text.isascii() and text.isdigit() else -1)


def plain(value: Any) -> Any:
    """The value without its comments."""
    if isinstance(value, Noted):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def kubernetes(objects: Iterable[dict[str, Any]]) -> list[str]:
    """What is wrong, a sentence each."""
    found = [plain(each) for each in objects]
    faults: list[str] = []
    seen: set[tuple[str, str]] = set()
    pods: list[dict[str, Any]] = []
    for each in found:
        kind, name = each["kind"], each["metadata"]["name"]
        said = f"{kind} {name}"
        if (kind, name) in seen:
            faults.append(f"{said} is defined twice")
        seen.add((kind, name))
        faults += [f"{said}: {fault}" for fault in _of_object(each)]
        if template := _template(each):
            pods.append(template)
    maps = {name for kind, name in seen if kind == "ConfigMap"}
    claims = {name for kind, name in seen if kind == "PersistentVolumeClaim"}
    labels = [template["metadata"].get("labels", {}) for template in pods]
    for each in found:
        said = f"{each['kind']} {each['metadata']['name']}"
        selector = _selector(each)
        if selector is not None and not (selector and any(selector.items() <= its.items() for its in labels)):
            faults.append(f"{said}: its selector matches no pod")
        if template := _template(each):
            faults += [f"{said}: {fault}" for fault in _of_volumes(template["spec"], maps, claims)]
    return faults


def _template(each: dict[str, Any]) -> dict[str, Any] | None:
    """The pod template of an object."""
    spec = each.get("spec", {})
    if "jobTemplate" in spec:
        spec = spec["jobTemplate"]["spec"]
    found: dict[str, Any] | None = spec.get("template")
    return found


def _selector(each: dict[str, Any]) -> dict[str, str] | None:
    """The labels that an object selects pods by."""
    found: dict[str, Any] | None = each.get("spec", {}).get("selector")
    return found if found is None or each["kind"] == "Service" else found.get("matchLabels", {})


def _of_object(each: dict[str, Any]) -> Iterator[str]:
    kind, name = each["kind"], each["metadata"]["name"]
    form = _SERVICE_NAME if kind == "Service" else _NAME
    most = CRON_JOB if kind == "CronJob" else LABEL
    if not form.fullmatch(name) or len(name) > most:
        yield f"invalid name {name}: use at most {most} lowercase letters, digits and -"
    yield from _of_labels(each["metadata"].get("labels", {}))
    spec = each.get("spec", {})
    if kind == "CronJob" and (fault := cron_fault(spec["schedule"])):
        yield f"schedule {spec['schedule']}: {fault}"
    if kind == "Service":
        yield from _of_ports([port["port"] for port in spec["ports"]], [port["name"] for port in spec["ports"]])
    if kind == "HorizontalPodAutoscaler" and not 0 < spec["minReplicas"] <= spec["maxReplicas"]:
        yield f"minReplicas {spec['minReplicas']} must be from 1 to maxReplicas {spec['maxReplicas']}"
    if template := _template(each):
        labels = template["metadata"].get("labels", {})
        yield from _of_labels(labels)
        wanted = _selector(each) or {}
        if not wanted.items() <= labels.items():
            yield "its selector does not match its own template"
        containers = [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]
        names = [container["name"] for container in containers]
        if len(set(names)) < len(names):
            yield "two of its containers have the same name"
        for container in containers:
            yield from _of_container(container)


def _of_labels(labels: dict[str, str]) -> Iterator[str]:
    for key, value in labels.items():
        if not _KEY.fullmatch(key) or len(key.rpartition("/")[2]) > LABEL:
            yield f"invalid label name {key}"
        if not _VALUE.fullmatch(value) or len(value) > LABEL:
            yield f"invalid label value {value}"


def _of_container(container: dict[str, Any]) -> Iterator[str]:
    if not is_name(container["name"]):
        yield f"invalid container name {container['name']}"
    if not is_image(container["image"]):
        yield f"invalid image name {container['image']}"
    for variable in container.get("env", ()):
        if not _VARIABLE.fullmatch(variable["name"]):
            yield f"invalid variable name {variable['name']}"
    ports = container.get("ports", ())
    yield from _of_ports([port["containerPort"] for port in ports], [port["name"] for port in ports])
    for amounts in container.get("resources", {}).values():
        for resource, amount in amounts.items():
            if not _QUANTITY.fullmatch(amount):
                yield f"invalid {resource} quantity {amount}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        way = container.get(probe, {})
        for kind in ("httpGet", "tcpSocket"):
            if kind in way:
                yield from _of_ports([way[kind]["port"]], [])
        if probe != "readinessProbe" and way.get("successThreshold", 1) != 1:
            yield f"{probe}: successThreshold must be 1"


def _of_ports(numbers: list[int], names: list[str]) -> Iterator[str]:
    for number in numbers:
        if not 1 <= number <= 65535:
            yield f"invalid port {number}"
    if len(set(numbers)) < len(numbers):
        yield "a port is listed twice"
    for name in names:
        if len(name) > PORT_NAME or not _NAME.fullmatch(name) or not any(char.isalpha() for char in name):
            yield f"invalid port name {name}"


def _of_volumes(pod: dict[str, Any], maps: set[str], claims: set[str]) -> Iterator[str]:
    names = [volume["name"] for volume in pod["volumes"]]
    if len(set(names)) < len(names) or not all(map(is_name, names)):
        yield "a volume name is invalid or used twice"
    for volume in pod["volumes"]:
        source = volume.get("configMap", {}).get("name")
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if (source is not None and source not in maps) or (claim is not None and claim not in claims):
            yield f"the ConfigMap or PersistentVolumeClaim of its volume {volume['name']} is missing"
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in names:
                yield f"a container mounts the volume {mount['name']}, which is not defined"


def compose(document: dict[str, Any]) -> list[str]:
    """The same of a compose file."""
    document = plain(document)
    faults: list[str] = []
    for name, service in document["services"].items():
        faults += [f"{name}: {fault}" for fault in _of_service(name, service, document)]
    for config in document["configs"].values():
        if len(config["name"]) > 64 or not _VALUE.fullmatch(config["name"]):
            faults.append(f"invalid config name {config['name']}")
    return faults


def _of_service(name: str, service: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    if not is_name(name):
        yield "not a valid host name"
    if not is_image(service["image"]):
        yield f"invalid image name {service['image']}"
    for other in service.get("depends_on", ()):
        if other not in document["services"]:
            yield f"it depends on {other}, which is not defined"
    for kind in ("configs", "secrets"):
        for each in service.get(kind, ()):
            if each["source"] not in document.get(kind, {}):
                yield f"{each['source']} is not defined in {kind}"
    for variable in service.get("environment", {}):
        if not _VARIABLE.fullmatch(variable):
            yield f"invalid variable name {variable}"
    published = [port["published"] for port in service.get("ports", ())]
    yield from _of_ports([*published, *map(int, service.get("expose", ()))], [])
    resources = service["deploy"].get("resources", {})
    for amounts in resources.values():
        if "memory" in amounts and not _DOCKER_SIZE.fullmatch(amounts["memory"]):
            yield f"invalid memory size {amounts['memory']}"
    if not _DURATION.fullmatch(service["stop_grace_period"]):
        yield f"invalid duration {service['stop_grace_period']}"
