"""Records what TD-MPC2's public code computes: parameters, inputs, noise, outputs and gradients of its parts.

    python benchmarks/tdmpc2_reference.py DIR tests/fixtures/tdmpc2_parity.npz [--seed=0]

DIR is your own checkout of nicklashansen/tdmpc2 (made with commit e9f5932); the Python needs torch, tensordict and
numpy. Whatever chance the code draws is recorded in the order in which it is drawn. Keys are "part/what/name". Read by
tests/m3po/test_m3po_parity.py.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

TIME, WINDOWS, DRAWN = 3, 4, ("randn", "randn_like", "randperm")


def settings(**changes: Any) -> types.SimpleNamespace:
    """A small model of two tasks, the second with one action dimension less."""
    made = dict(obs="state", obs_shape={"state": (5,)}, multitask=True, tasks=["one", "two"], episodic=False)
    made |= dict(action_dim=3, action_dims=[3, 2], task_dim=6, num_enc_layers=2, enc_dim=12, latent_dim=16, mlp_dim=20)
    made |= dict(simnorm_dim=8, num_bins=21, vmin=-10, vmax=10, bin_size=1.0, num_q=5, dropout=0.0)
    made |= dict(log_std_min=-10.0, log_std_max=2.0, entropy_coef=1e-2, tau=0.01, rho=0.5, grad_clip_norm=1e9)
    made |= dict(consistency_coef=20, reward_coef=0.1, value_coef=0.1, termination_coef=1.0, horizon=TIME)
    made |= dict(batch_size=WINDOWS, iterations=1, num_samples=24, num_pi_trajs=4, num_elites=6, temperature=0.5)
    return types.SimpleNamespace(**(made | dict(min_std=0.05, max_std=2.0) | changes))


class Record(dict):
    """The arrays by key."""

    def put(self, part: str, what: str, values: Any) -> None:
        """One array, or a dict of them."""
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            value = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
            self[f"{part}/{what}/{name}".rstrip("/")] = value.copy()

    def run(self, part: str, module: nn.Module, x: torch.Tensor) -> None:
        """A module's parameters, its output at x, and the gradients of sum(y r)."""
        self.put(part, "weight", dict(module.named_parameters()))
        x.requires_grad_()
        y = module(x)
        r = torch.randn(y.shape)
        (y * r).sum().backward()
        for what, value in dict(x=x, y=y, r=r, x_gradient=x.grad).items():
            self.put(part, what, value)
        self.put(part, "gradient", {name: p.grad for name, p in module.named_parameters()})

    @contextlib.contextmanager
    def noting(self, part: str) -> Iterator[None]:
        """Notes what torch draws as part/noise/NUMBER."""
        kept, count = {name: getattr(torch, name) for name in DRAWN}, iter(range(1000))

        def noted(name: str) -> Any:
            def draw(*arguments: Any, **options: Any) -> torch.Tensor:
                value = kept[name](*arguments, **options)
                self.put(part, "noise", {f"{next(count):03d}": value})
                return value

            return draw

        for name in DRAWN:
            setattr(torch, name, noted(name))
        try:
            yield
        finally:
            for name, function in kept.items():
                setattr(torch, name, function)


class Stopped:
    """An optimiser that takes no step and calls `seen` instead."""

    def __init__(self, seen: Any):
        self.step = seen

    def zero_grad(self, **options: Any) -> None:
        pass


def redraw(parameters: Any) -> None:
    """Every parameter drawn anew, so that none is zero; vectors around what they were."""
    for p in parameters:
        p.data = torch.randn(p.shape) * (0.1 if p.ndim < 2 else p.shape[-1] ** -0.5) + (
            p.data.mean().round() if p.ndim < 3 and p.shape[-1] != 1 and p.std() == 0 else 0.0
        )


def ensemble(tree: Any) -> dict[str, torch.Tensor]:
    """A TensorDict of stacked layers by dotted names."""
    return {str(key): value for key, value in tree.flatten_keys(".").items() if torch.is_tensor(value)}


def world(code: types.SimpleNamespace, config: types.SimpleNamespace) -> Any:
    """A model with drawn parameters, its targets unlike its values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = code.world_model.WorldModel(config)
    parts = [model._encoder, model._dynamics, model._reward, model._pi, *([model._termination] * config.episodic)]
    for part in parts:
        redraw(part.parameters())
    for tree in (model._Qs.params, model._target_Qs_params):
        for value in ensemble(tree).values():
            value.data.copy_(torch.randn(value.shape) * (0.1 if value.ndim < 3 else value.shape[-1] ** -0.5))
    if config.multitask:
        model._task_emb.weight.data = torch.tensor([[0.2], [1.0]]) * torch.randn(model._task_emb.weight.shape)
    return model


def weights(model: Any) -> dict[str, Any]:
    """All parameters by name, those of the ensembles stacked."""
    rest = {name: p for name, p in model.named_parameters() if "Qs" not in name}
    rest |= {f"q.{name}": p for name, p in ensemble(model._Qs.params).items()}
    return rest | {f"target.{name}": p.data for name, p in ensemble(model._target_Qs_params).items()}


def agent(code: types.SimpleNamespace, config: types.SimpleNamespace, model: Any, discount: Any) -> Any:
    """What the agent's methods need of it, without its optimisers and its GPU."""
    scale = code.scale.RunningScale.__new__(code.scale.RunningScale)
    nn.Module.__init__(scale)
    scale.cfg, scale.value, scale._percentiles = config, torch.nn.Buffer(torch.ones(1)), torch.tensor([5.0, 95.0])
    scale.value.fill_(1.7)
    mine = types.SimpleNamespace(cfg=config, model=model, device=torch.device("cpu"), discount=discount, scale=scale)
    for name in ("_td_target", "update_pi", "_estimate_value", "_plan", "_update"):
        setattr(mine, name, types.MethodType(getattr(code.tdmpc2.TDMPC2, name), mine))
    return mine


def record(code: types.SimpleNamespace) -> Record:
    """Everything."""
    out, config = Record(), settings()
    out.put("simnorm", "x", x := torch.randn(7, 16))
    out.put("simnorm", "y", code.layers.SimNorm(config)(x))
    normed = code.layers.NormedLinear(6, 10)
    redraw(normed.parameters())
    out.run("normed", normed, torch.randn(7, 6))
    stack = code.layers.mlp(6, [12, 12], 16, act=code.layers.SimNorm(config))
    redraw(stack.parameters())
    out.run("mlp", stack, torch.randn(7, 6))

    scalars = torch.cat([torch.tensor([0.0, 1.0, -1.0, 0.3, 1e6, -1e6]), 30 * torch.randn(10)])[:, None]
    logits = torch.randn(16, 21)
    out.put("twohot", "x", scalars)
    out.put("twohot", "logits", logits)
    out.put("twohot", "loss", code.math.soft_ce(logits, scalars, config))
    out.put("twohot", "back", code.math.two_hot_inv(logits, config))

    model = world(code, config)
    out.put("embedding", "before", model._task_emb.weight)
    model._task_emb(torch.arange(2))  # shortens what is longer than 1, in place
    out.put("embedding", "after", model._task_emb.weight)
    out.put("two_tasks", "weight", weights(model))
    mine = agent(code, config, model, torch.tensor([0.95, 0.99]))
    for task in range(2):
        record_update(out, mine, f"task_{task}", torch.full((WINDOWS,), task), 0.0)
        record_plan(out, mine, f"plan_{task}", torch.tensor([task]), 1)
    record_plan(out, mine, "plan_many", torch.tensor([0]), 3)

    alone = settings(multitask=False, task_dim=0, episodic=True, tasks=["one"])
    model = world(code, alone)
    out.put("one_task", "weight", weights(model))
    mine = agent(code, alone, model, 0.97)
    record_update(out, mine, "episodic", None, 0.3)
    record_plan(out, mine, "plan_episodic", None, 1)
    return out


def record_update(out: Record, mine: Any, part: str, task: Any, ends: float) -> None:
    """One update's losses and gradients on a batch [H, B], with nothing changed."""
    sizes = mine.cfg
    obs = torch.randn(TIME + 1, WINDOWS, 5)
    action = torch.rand(TIME, WINDOWS, sizes.action_dim) * 2 - 1
    reward = 3 * torch.randn(TIME, WINDOWS, 1)
    terminated = (torch.rand(TIME, WINDOWS, 1) < ends).float()
    mine.scale.value.fill_(1.7)
    out.put(part, "batch", dict(obs=obs, action=action, reward=reward, terminated=terminated))
    model = mine.model

    def of_model() -> None:
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and "Qs" not in name}
        found |= {f"q.{name}": p.grad for name, p in ensemble(model._Qs.params).items()}
        out.put(part, "gradient", found)
        model.zero_grad()
        for p in ensemble(model._Qs.params).values():
            p.grad = None

    def of_policy() -> None:
        out.put(part, "policy_gradient", {name: p.grad for name, p in model._pi.named_parameters()})

    mine.optim, mine.pi_optim, model.soft_update_target_Q = Stopped(of_model), Stopped(of_policy), lambda: None
    with out.noting(part):
        said = mine._update(obs, action, reward, terminated, task)
    model.zero_grad()
    names = ("consistency_loss", "reward_loss", "value_loss", "termination_loss", "total_loss", "pi_loss")
    out.put(part, "term", {name: said[name] for name in names})
    out.put(part, "scale", mine.scale.value)


def record_plan(out: Record, mine: Any, part: str, task: Any, iterations: int) -> None:
    """A plan's mean after so many iterations, warm-started."""
    mine.cfg.iterations = iterations
    mine._prev_mean = torch.rand(TIME, mine.cfg.action_dim) - 0.5
    obs = torch.randn(1, 5)
    out.put(part, "obs", obs)
    out.put(part, "before", mine._prev_mean)
    with out.noting(part), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        mine._plan(obs, t0=False, eval_mode=True, task=task)
    out.put(part, "mean", mine._prev_mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.folder / "tdmpc2"))
    torch.manual_seed(arguments.seed)
    names = ("common.layers", "common.math", "common.scale", "common.world_model", "tdmpc2")
    modules = {name.rpartition(".")[2]: importlib.import_module(name) for name in names}
    out = record(types.SimpleNamespace(**modules))
    np.savez_compressed(arguments.output, **out)
    print(f"{len(out)} arrays, {arguments.output.stat().st_size:,} bytes -> {arguments.output}")


if __name__ == "__main__":
    main()
