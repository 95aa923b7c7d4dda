"""A real server that speaks the OpenAI chat protocol, and misbehaves when told to."""

import asyncio
import base64
import io
import json
import math
import socket
import threading
import time
from collections import deque

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Server:
    """Answers how bright the images of a question are; ``trouble`` holds what happens to the next requests instead."""

    def __init__(self):
        self.trouble = deque()
        self.bodies, self.headers = [], []
        self.logprobs, self.text = True, None
        self.under_way = self.most_under_way = 0
        self.delay = 0.0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self):
        app = Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            time.sleep(0.005)

    def stop(self):
        self._uvicorn.should_exit = True
        self._uvicorn.force_exit = True
        self._thread.join(timeout=10)

    async def _answer(self, request):
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            trouble = self.trouble.popleft() if self.trouble else None
            await asyncio.sleep(trouble if isinstance(trouble, float) else self.delay)
            return trouble if isinstance(trouble, Response) else JSONResponse(self._completion(body))
        finally:
            self.under_way -= 1

    def _completion(self, body):
        content = body["messages"][0]["content"]
        light = [_brightness(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
        asked = [part["text"] for part in content if part["type"] == "text"][-1]
        chances = _chances(asked, light)
        text = self.text if self.text is not None else max(chances, key=chances.get)
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if self.logprobs and body.get("logprobs"):
            top = [{"token": t, "logprob": math.log(p)} for t, p in chances.items()]
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.1, "top_logprobs": top}]}
        return {"choices": [choice], "usage": {"total_tokens": 10}}


def _chances(asked, light):
    """What a judge would say that looks at brightness: words with a little mass left for others."""
    if "yes or no" in asked:
        return {"Yes": 0.9 * light[-1], " no": 0.9 * (1 - light[-1]), "maybe": 0.1}
    if "1 if the first" in asked and light:
        first = 0.8 * light[0] / (light[0] + light[-1])
        return {"1": first, "2": 0.8 - first, "0": 0.2}
    return {"4": 0.5, "5": 0.5}


def _brightness(url):
    kind, data = url.split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    return float(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean() / 255)


def failing(status, text="overloaded", **headers):
    return Response(json.dumps({"error": {"message": text}}), status, headers)
