"""What an operator or an author reads when the application cannot be imported; exit 78 each time, in both modes."""

from __future__ import annotations

import pytest
from worker_harness import PROGRAMS, Pool, frames


@pytest.mark.parametrize("mode", ["serve", "template"])
@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("app_hello", "app = app_hello is not of the form package.module:factory"),
        (
            "app_missing:make",
            "app = app_missing:make cannot be imported: no module app_missing in " + PROGRAMS,
        ),
        ("app_missing.web:make", "no module app_missing in " + PROGRAMS),
        ("app_hello:mak", "app = app_hello:mak: app_hello has no mak; it has make"),
        ("app_hello:FACT", "app = app_hello:FACT is of type float, which is neither an application nor a factory"),
    ],
)
def test_an_operators_slip_is_one_sentence(mode, app, message):
    with Pool(app=app) as pool:
        worker = pool.run(mode)
        assert worker.wait() == 78
        assert message in worker.text()
        assert worker.text().count("\n") == 1


@pytest.mark.parametrize("mode", ["serve", "template"])
@pytest.mark.parametrize(
    ("module", "message", "files"),
    [
        ("app_broken", "ModuleNotFoundError: No module named 'no_such_package'", ["app_broken.py"]),
        ("app_raises", "KeyError: 'SECRET_KEY'", ["app_raises.py", "app_raises.py"]),
    ],
)
def test_an_authors_mistake_is_its_own_traceback(mode, module, message, files):
    with Pool(app=f"{module}:make") as pool:
        worker = pool.run(mode)
        assert worker.wait() == 78
        assert worker.text().rstrip().endswith(message)
        assert frames(worker.text()) == files
        assert worker.text().count("Traceback") == 1


def test_started_by_hand_it_says_who_starts_it():
    with Pool() as pool:
        worker = pool.run("dance")
        assert worker.wait() == 2
        assert "impetusd starts it" in worker.text()


def test_sockets_meant_for_another_process_are_refused():
    with Pool() as pool:
        worker = pool.run(LISTEN_FDS="9")
        assert worker.wait() == 78
        assert "descriptor 4 is not listening" in worker.text()
