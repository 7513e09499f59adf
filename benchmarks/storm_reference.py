"""Times the public STORM code; run by compare_storm.py with the Python that has torch, in the user's own checkout.

In: a line of JSON with sizes, then one line a measurement: a part and how often to run it. Out: seconds a run.
Imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch


def on_cpu() -> None:
    """The checkout names the device "cuda" in its code; on a machine without one, those places get the CPU."""
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    zeros = torch.zeros
    torch.zeros = lambda *size, **options: zeros(
        *size, **(options | {"device": "cpu"} if "device" in options else options)
    )


def parts(sizes: dict) -> dict[str, Callable]:
    """The three parts of an update on random frames, at the sizes of ours; `whole update` is all of them."""
    from agents import ActorCriticAgent
    from sub_models.world_models import WorldModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = sizes["dtype"] == "bfloat16"
    model = WorldModel(3, sizes["actions"], sizes["length"], sizes["width"], sizes["layers"], sizes["heads"]).to(device)
    agent = ActorCriticAgent(1024 + sizes["width"], 2, 512, sizes["actions"], 0.985, 0.95, 3e-4).to(device)
    for module in (model, agent):
        module.use_amp, module.tensor_dtype = half, torch.bfloat16 if half else torch.float32
        module.scaler = torch.amp.GradScaler(device, enabled=False)  # bfloat16 needs no scaling of losses
    frames = lambda count, time: torch.rand(count, time, 3, 64, 64, device=device)
    actions = lambda count, time: torch.randint(sizes["actions"], (count, time), device=device).float()
    batch, contexts = (sizes["sequences"], sizes["length"]), (sizes["contexts"], sizes["context"])
    windows = frames(*batch), actions(*batch), torch.randn(batch, device=device), torch.zeros(batch, device=device)
    seen, taken = frames(*contexts), actions(*contexts)
    held: dict[str, tuple] = {}

    def world() -> None:
        model.update(*windows)

    def imagine() -> None:
        model.eval(), agent.eval()
        with torch.no_grad():
            held["dream"] = model.imagine_data(agent, seen, taken, contexts[0], sizes["horizon"], False, None)

    def behave() -> None:
        latent, action, reward, termination = held["dream"]
        agent.update(latent, action, None, None, reward, termination)

    imagine()

    def whole() -> None:
        world(), imagine(), behave()

    return {"world model": world, "imagination": imagine, "actor-critic": behave, "whole update": whole}


def main() -> None:
    """Answers measurements until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the checkout prints
    sizes = json.loads(sys.stdin.readline())
    sys.path.insert(0, sizes["checkout"])
    if not torch.cuda.is_available():
        on_cpu()
        torch.set_num_threads(sizes["threads"])
    calls = parts(sizes)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, repeats = json.loads(line)
        begin = time.perf_counter()
        for _ in range(repeats):
            calls[name]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print((time.perf_counter() - begin) / repeats, file=answers, flush=True)


if __name__ == "__main__":
    main()
