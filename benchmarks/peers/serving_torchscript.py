"""FastAPI and TorchScript, written as tutorials write it.

python serving_torchscript.py ARTIFACT PORT
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.networks import CategoricalPolicy

torch.set_num_threads(1)
warnings.simplefilter("ignore")
policy = PolicyArtifact.load(Path(sys.argv[1])).policy()
assert isinstance(policy, CategoricalPolicy)
model = torch.jit.freeze(torch.jit.trace(policy.logits, torch.zeros(1, 4)).eval())
app = FastAPI()


class Question(BaseModel):
    observation: list[float]


class Answer(BaseModel):
    action: int
    probability: float


@app.post("/predictions/rl_policy")
async def predict(question: Question) -> Answer:
    with torch.no_grad():
        probabilities = model(torch.tensor([question.observation])).softmax(-1)[0]
    action = int(probabilities.argmax())
    return Answer(action=action, probability=float(probabilities[action]))


uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="error", loop="uvloop", http="httptools")
