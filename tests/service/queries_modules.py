"""Every module that holds statements."""

from __future__ import annotations

import importlib
import pkgutil

import impetus_service.queries
from impetus_service.kit import entries, idempotency, job_queries

QUERIES = [
    entries,
    job_queries,
    idempotency,
    *(
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(impetus_service.queries.__path__, "impetus_service.queries.")
    ),
]
