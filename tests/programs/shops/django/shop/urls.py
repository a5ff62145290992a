import asyncio
import os
from pathlib import Path

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path


def hello(request):
    return HttpResponse(str(os.getpid()))


def stream(request):
    def parts():
        yield "begun "
        Path("go").read_bytes()
        yield "ended"

    async def parts_async():
        yield "begun "
        await asyncio.to_thread(Path("go").read_bytes)
        yield "ended"

    return StreamingHttpResponse(parts_async() if isinstance(request, ASGIRequest) else parts())


urlpatterns = [path("", hello), path("stream", stream)]
