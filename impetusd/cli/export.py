"""`impetusd export`."""

from __future__ import annotations

import json
import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, env_option, given

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.core.config.include import Source
    from impetusd.core.config.model import Config
    from impetusd.interop.exporting.model import Options, Target


@click.command(short_help="Convert the INI file to a compose file, Kubernetes objects or a Containerfile.")
@click.argument("target", type=click.Choice(["compose", "kubernetes", "image"]))
@click.option("--output", "-o", metavar="PATH", help="Write to this path instead of standard output. For compose and image, a folder.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option("--name", metavar="NAME", help="The name of the application. Default: the name of the folder base_dir.")
@click.option("--image", metavar="IMAGE", help="The image of all containers. Default: NAME:latest.")
@click.option("--per-container", metavar="N", type=click.IntRange(1, 1000), default=1, show_default=True, help="The number of instances of a unit in one container.")  # fmt: skip
@click.option("--before", is_flag=True, help="kubernetes: add initContainers that run oneshots and wait for the ports of depends_on.")  # fmt: skip
@click.option("--dnsrr", is_flag=True, help="compose: for Swarm without IPVS: names resolve to the containers themselves, and ports are published on each node (mode: host).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
@env_option
@conf_option
def command(  # noqa: PLR0917  # click's options
    target: str,
    output: str | None,
    name: str | None,
    image: str | None,
    per_container: int,
    env: str | None,
    *,
    force: bool,
    before: bool,
    dnsrr: bool,
    as_json: bool,
) -> int:
    """Convert the INI file for container engines: to a compose file for docker compose and Docker Swarm, or to
    Kubernetes objects.

    Each unit becomes a container that runs `impetusd run` with an INI file of only that unit, so that most keys keep
    their meaning. The report on standard error shows how each key was converted. Values that look secret, and values
    from the environment, are not written; the output refers to them by name. Running programs are not touched.

    image writes a Containerfile for the app and, with -o, a .dockerignore next to it that keeps secrets out.

    Exits with 0 if everything was converted, 1 if the report lists losses, 2 if nothing was written.

    Example: impetusd export kubernetes -o shop.yaml
    """
    from impetusd.cli import place
    from impetusd.cli.failure import Failure
    from impetusd.interop.exporting import checks, compose, kubernetes, proof, reading, report
    from impetusd.interop.exporting.model import Target
    from impetusd.interop.importing import rows

    path = place.find_conf(given(), os.environ)
    source, config = _read(path, env)
    if target == "image":
        return _image(source, config, output, name, force=force)
    options = _options(Target(target), config, name, image, per_container, before=before, dnsrr=dnsrr)
    try:
        made = reading.exported(source, config, options)
    except ValueError as error:
        raise Failure(f"nothing was written: {error}", 2) from None
    if options.target is Target.COMPOSE:
        files = compose.files(made) if output else {"": compose.text(made, inline=True)}
        faults = checks.compose(compose.document(made, inline=not output))
    else:
        files = {"": kubernetes.text(made)}
        faults = checks.kubernetes(kubernetes.objects(made))
    faults += proof.differences(made, config, os.environ)
    if as_json:
        print(json.dumps(report.as_json(made), indent=2), file=sys.stderr)
    else:
        print("\n".join(report.lines(made)), file=sys.stderr)
    if faults:
        raise Failure("nothing was written, because it would be wrong:\n" + "\n".join(faults), 2)
    if output:
        _write(output, files, force=force)
        print(f"impetusd: wrote {output}", file=sys.stderr)
    else:
        print(files[""], end="")
    return 0 if rows.is_faithful(made.rows) else 1


def _read(path: str, profile: str | None) -> tuple[Source, Config]:
    """The configuration as it is on a host that has all that it names. Raises Failure."""
    from dataclasses import replace

    from impetusd.cli import place
    from impetusd.cli.failure import Failure
    from impetusd.core.config import parser
    from impetusd.core.config.problem import ConfigError
    from impetusd.linux.host import this_host

    anywhere = replace(this_host(), euid=0, user_exists=lambda _: True, group_exists=lambda _: True, has_watch=True)
    try:
        source, profile = place.source_of(path, os.environ, profile)
        return source, parser.parse_all(source, os.environ, anywhere, profile=profile)
    except ConfigError as error:
        raise Failure(error.report(), 2) from None


def _image(source: Source, config: Config, output: str | None, name: str | None, *, force: bool) -> int:
    """Write a Containerfile. Raises Failure."""
    from impetusd import __version__
    from impetusd.interop.exporting import image
    from impetusd.interop.exporting.model import host_name

    base = config.paths.base_dir
    facts = image.Facts(
        files={lock for lock in image.LOCKS if os.path.isfile(os.path.join(base, lock))},
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        version=__version__,
        name=host_name(name or os.path.basename(base) or "app"),
    )
    text = image.containerfile(config, facts)
    if not facts.files:
        print(f"to do: list the app's dependencies in {base}/requirements.txt", file=sys.stderr)
    if not output:
        print(text, end="")
        return 0
    if os.path.realpath(output) != os.path.realpath(base):
        print(f"to do: move both files to {base}, where the image is built", file=sys.stderr)
    files = {image.FILE: text, image.IGNORED: image.ignored(config, [path for path, _ in source.texts])}
    _write(output, files, force=force)
    print(f"impetusd: wrote {output}", file=sys.stderr)
    return 0


def _options(
    target: Target,
    config: Config,
    name: str | None,
    image: str | None,
    per_container: int,
    *,
    before: bool,
    dnsrr: bool,
) -> Options:
    from impetusd.cli.failure import Failure
    from impetusd.interop.exporting import checks
    from impetusd.interop.exporting.model import Options, Target, host_name

    wanted = host_name(name or os.path.basename(config.paths.base_dir) or "app")
    if name is not None and name != wanted:
        raise Failure(
            f"--name {name}: a name consists of lowercase letters, digits and -, and starts with a letter; write {wanted}",
            2,
        )
    if image is not None and not checks.is_image(image):
        raise Failure(f"--image {image}: not an image name; write one like registry.example/shop:1.4", 2)
    if dnsrr and target is not Target.COMPOSE:
        raise Failure("--dnsrr works only with compose", 2)
    if before and target is not Target.KUBERNETES:
        raise Failure("--before works only with kubernetes", 2)
    return Options(
        target=target,
        name=wanted,
        image=image or f"{wanted}:latest",
        per_container=per_container,
        before=before,
        dnsrr=dnsrr,
    )


def _write(output: str, files: Mapping[str, str], *, force: bool) -> None:
    """Each file whole or not at all; those that are there are not overwritten unless `force`. Raises Failure."""
    from impetusd.cli import whole
    from impetusd.cli.failure import Failure

    folder = "" not in files
    targets = {os.path.join(output, name) if folder else output: text for name, text in files.items()}
    there = [path for path in targets if os.path.lexists(path)]
    if there and not force:
        raise Failure(f"{', '.join(there)}: already exists; choose another path, or use --force to overwrite", 2)
    try:
        if folder:
            os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}", 2) from None
    for path, text in targets.items():
        whole.write(path, text, path, force=force)
