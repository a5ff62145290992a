"""`impetusd rollout`."""

from __future__ import annotations

import subprocess
import sys

import click

from impetusd.cli import elsewhere
from impetusd.cli.failure import Failure
from impetusd.cli.options import conf_option, given, names_argument


@click.command(short_help="Reload units on several hosts, one host after the other.")
@click.option(
    "-H", "--hosts", "text", metavar="HOST,...", required=True, help="The hosts, in order, as ssh destinations."
)
@names_argument(required=True)
@conf_option
def command(text: str, names: tuple[str, ...]) -> int:
    """Reload each NAME on one host after another, and stop at the first host where the new version fails.

    Before anything is reloaded, every host must respond and every NAME must be up there. Each host runs `impetusd
    reload`: if the new version fails, it is discarded and the old version keeps serving. -c is the path of the INI file
    on the hosts.

    Exits with 0 if all hosts run the new version, otherwise 1.

    Example: impetusd rollout -H web1,web2,web3 web
    """
    hosts = elsewhere.hosts_of(text)
    conf = given()
    before = ["-c", conf] if conf is not None else []
    refused = False
    for host, ended in zip(hosts, elsewhere.on_each(hosts, [*before, "status", *names]), strict=True):
        if ended.returncode:
            refused = True
            lines = (
                ended.stderr if ended.returncode == elsewhere.UNREACHABLE else ended.stdout + ended.stderr
            ).splitlines()
            lines = lines or [f"impetusd status exited with code {ended.returncode} and no output"]
            sys.stderr.writelines(f"{host}: {line}\n" for line in lines)
    if refused:
        raise Failure("nothing was reloaded, because every host must respond and have these units up first")
    done: list[str] = []
    for host in hosts:
        print(f"{host}:", flush=True)
        try:
            words = elsewhere.argv(host, [*before, "reload", *names], *elsewhere.UNATTENDED)
            code = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
            if not code:  # is it up a moment later, too?
                (after,) = elsewhere.on_each([host], [*before, "status", *names])
                code = after.returncode
                sys.stdout.write(after.stdout if code else "")
            if code:
                raise Failure(ending(hosts, done, names, lost=code == elsewhere.UNREACHABLE))
        except KeyboardInterrupt:
            raise Failure(ending(hosts, done, names, lost=True), 130) from None
        done.append(host)
    print(f"{', '.join(names)}: the new version serves on {', '.join(done)}")
    return 0


def ending(hosts: list[str], done: list[str], names: tuple[str, ...], *, lost: bool) -> str:
    """Where a rollout stands that ended at the host behind `done`. `lost`: how the reload ended there is not known."""
    failed, left = hosts[len(done)], hosts[len(done) + 1 :]
    what = ", ".join(names)
    parts = [
        f"the connection to {failed} broke during its reload, which continues there; see: impetusd -H {failed} status"
        f" {' '.join(names)}"
        if lost
        else f"the new version failed on {failed}, as shown above"
    ]
    if done:
        parts.append(f"{what} was reloaded on {', '.join(done)}")
    if left:
        parts.append(f"not touched: {', '.join(left)}")
    return "; ".join(parts)
