"""The app's tasks.py as handlers."""
from __future__ import annotations
from contextlib import asynccontextmanager
from server.settings import Settings

def addresses(settings: Settings):
    return []

@asynccontextmanager
async def opened(settings):
    yield (lambda event: None), []
