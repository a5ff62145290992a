"""The Impetus service: the aiohttp + asyncpg backend that the pool runs."""
