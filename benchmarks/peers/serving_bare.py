"""The least that answers: an ASGI function, the network in NumPy, orjson. No checks, no counts, no log.

python serving_bare.py ARTIFACT PORT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvicorn
from safetensors.numpy import load_file

weights = load_file(Path(sys.argv[1]) / "weights.safetensors")
LAYERS = [(np.ascontiguousarray(weights[f"layers.{i}.weight"].T), weights[f"layers.{i}.bias"]) for i in (0, 2, 4)]
HEADERS = [(b"content-type", b"application/json")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    x = np.array(orjson.loads(body)["observation"], np.float32)
    for i, (weight, bias) in enumerate(LAYERS):
        x = x @ weight + bias
        if i < 2:
            x = np.maximum(x, 0.0)
    probabilities = np.exp(x - x.max())
    probabilities /= probabilities.sum()
    action = int(probabilities.argmax())
    answer = orjson.dumps({"action": action, "probability": float(probabilities[action])})
    headers = [*HEADERS, (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(
    app, port=int(sys.argv[2]), access_log=False, log_level="error", lifespan="off", loop="uvloop", http="httptools"
)
