"""LitServe: one process for HTTP, one worker, batches of up to 16, and the queue that it advises above 100 requests/s.

python serving_litserve.py POLICY.pt PORT

LitServe reads the annotations of ``decode_request`` as objects, so they must not become strings here.
"""

import sys
import warnings
from typing import Any

import litserve as ls  # type: ignore[import-not-found]  # lives in an environment of its own
import torch
from torch import Tensor

warnings.simplefilter("ignore")


class PolicyAPI(ls.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.policy = torch.jit.load(sys.argv[1], map_location=device)

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request["observation"]

    def batch(self, inputs: list[list[float]]) -> Tensor:
        return torch.tensor(inputs)

    @torch.inference_mode()
    def predict(self, x: Tensor) -> tuple[list[int], list[list[float]]]:
        actions, probabilities = self.policy(x, torch.ones(len(x), 2, dtype=torch.bool))
        return actions.tolist(), probabilities.tolist()

    def unbatch(self, output: tuple[list[int], list[list[float]]]) -> list[tuple[int, list[float]]]:
        return list(zip(*output, strict=True))

    def encode_response(self, output: tuple[int, list[float]]) -> dict[str, Any]:
        return {"action": output[0], "probabilities": output[1]}


if __name__ == "__main__":
    api = PolicyAPI(max_batch_size=16, batch_timeout=0.001, api_path="/predictions/rl_policy")
    server = ls.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
