"""What a service of any subject is made of. It knows nothing of users, communications or another subject.

    application   make_application puts an application together from settings, migrations and routes
    api           routes: declared once, with types; validation, rights and description follow
    caller        who asks: the application's own function finds it out
    problems      errors, as RFC 9457 has them; frame and validation make most of them
    db            the database that may go away; Company, whose rows a statement is about; transactions with an audit entry
    statements    SQL as values: Query, CompanyQuery, Listing; listing and paging answer with a page of it
    migrate       numbered SQL files, applied once, all or nothing
    jobs          what takes longer than a request: routes; job_kinds declares them, job_worker does them
    outgoing      requests to others: timeouts, retries, a circuit breaker; provider and chat speak OpenAI's protocol
    settings      the environment, read once and refused whole
    cache, logs, health, metrics, openapi

`impetusd init --template service NAME` writes a project that uses them. What is here needs the packages of the extra
`service`.
"""

from __future__ import annotations

from importlib.util import find_spec

NEEDED = ("asyncpg", "cachetools", "msgspec", "pgqueuer")  # of the extra `service`

missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    raise ImportError(
        f"the Impetus service needs {', '.join(missing)}: pip install 'impetusd[service]'", name=missing[0]
    )
