"""The observer: alerts and history, in one small program of their own, which needs neither the gateway nor aiohttp."""
