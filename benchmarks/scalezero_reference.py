"""Records what LightZero's public code computes: parameters, inputs, outputs and gradients of its parts.

    python benchmarks/scalezero_reference.py DIR tests/fixtures/scalezero_parity.npz [--seed=0]

DIR is your own checkout of LightZero (made with commit 9f717c80); the Python needs torch, numpy and einops. What else
that code imports is not used by the parts recorded here, and stands in as empty classes. Keys are "part/what/name".
Read by tests/scalezero/test_scalezero_parity.py.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

WIDTH, HEADS, LAYERS, EXPERTS, TIME, ACTIONS, BINS = 16, 2, 2, 4, 10, 6, 101


class Standins(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module that is not installed: a package whose every name is a class that does nothing."""

    def find_spec(self, name, path=None, target=None):
        del path, target
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Standin(spec.name)

    def exec_module(self, module):
        pass


class Standin(types.ModuleType):
    """The module itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "get_rank":
            return lambda: 1  # only rank 0 logs
        made = type(name, (nn.Module,), {})
        setattr(self, name, made)
        return made


def reference(folder: Path) -> types.SimpleNamespace:
    """The modules of the checkout, without what its packages would import along with them."""
    for name in ("lzero", "lzero.model", "lzero.model.unizero_world_models", "lzero.policy"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    standins = Standins()
    sys.meta_path.append(standins)
    names = ("transformer", "moe", "utils", "world_model_multitask")
    modules = {name: importlib.import_module(f"lzero.model.unizero_world_models.{name}") for name in names}
    for name in ("model.vit", "policy.scaling_transform"):
        modules[name.rpartition(".")[2]] = importlib.import_module(f"lzero.{name}")
    sys.meta_path.remove(standins)
    return types.SimpleNamespace(**modules)


class Record(dict):
    """The arrays by key."""

    def put(self, part: str, what: str, values: Any) -> None:
        """One array, or a dict of them."""
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            value = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
            self[f"{part}/{what}/{name}".rstrip("/")] = value

    def run(self, part: str, module: nn.Module, x: torch.Tensor) -> None:
        """A module's parameters, its output at x, and the gradients of sum(y r)."""
        module.eval()
        self.put(part, "weight", dict(module.named_parameters()))
        x.requires_grad_()
        y = module(x)
        r = torch.randn(y.shape)
        (y * r).sum().backward()
        self.put(part, "x", x)
        self.put(part, "y", y)
        self.put(part, "r", r)
        self.put(part, "x_gradient", x.grad)
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        self.put(part, "gradient", gradients)


def redraw(module: nn.Module) -> nn.Module:
    """Every parameter drawn anew, so that none is zero, in sizes that products neither blow up nor let vanish; vectors
    around what they were (norms around one)."""
    for p in module.parameters():
        p.requires_grad_(True)
        spread = [1.0, 0.1][p.ndim] if p.ndim < 2 else p.shape[-1] ** -0.5
        p.data = torch.randn(p.shape) * spread + (p.data.mean().round() if p.ndim == 1 else 0.0)
    return module


def settings(module: types.ModuleType, **changes: Any) -> Any:
    """A Transformer configuration of the reference."""
    sizes = dict(tokens_per_block=2, max_blocks=TIME // 2, attention="causal", num_layers=LAYERS, num_heads=HEADS)
    drops = dict(embed_dim=WIDTH, embed_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    made = module.TransformerConfig(**sizes, **drops)
    extra = dict(num_experts_of_moe_in_transformer=EXPERTS, n_shared_experts=1, moe_use_lora=False)
    for name, value in (extra | dict(num_experts_per_tok=1) | changes).items():
        setattr(made, name, value)
    return made


def record(code: types.SimpleNamespace) -> Record:
    """Everything."""
    out = Record()
    sequence = lambda: torch.randn(2, TIME, WIDTH)

    for active in (1, 2):
        config = settings(code.transformer, num_experts_per_tok=active)
        experts = [code.moe.MultiplicationFeedForward(config) for _ in range(EXPERTS)]
        gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        out.run(f"moe_{active}", redraw(code.moe.MoELayer(config, experts, gate, active)), sequence())

    mixture = settings(code.transformer, multiplication_moe_in_transformer=True)
    one = settings(code.transformer, multiplication_moe_in_transformer=True, num_layers=1)
    out.run("block", redraw(code.transformer.Transformer(one)), sequence())
    stack = redraw(code.transformer.Transformer(mixture))
    out.run("stack", stack, sequence())
    dense = redraw(code.transformer.Transformer(settings(code.transformer)))
    out.run("dense_stack", dense, sequence())
    x, cache = sequence(), stack.generate_empty_keys_values(2, TIME)
    parts = [stack(x[:, :7], cache), stack(x[:, 7:8], cache), stack(x[:, 8:], cache)]
    out.put("cached_stack", "x", x)
    out.put("cached_stack", "y", torch.cat(parts, 1))

    for stage in range(3):
        lora = code.transformer.CurriculumLoRALinear(
            WIDTH, 16, r=4, lora_alpha=2, lora_dropout=0.0, curriculum_stage_num=3
        )
        lora.set_curriculum_stage(stage)
        learns = {name: p.requires_grad for name, p in lora.named_parameters()}
        out.put(f"lora_{stage}", "learns", learns)
        out.run(f"lora_{stage}", redraw(lora), torch.randn(5, WIDTH))

    sizes = dict(image_size=16, patch_size=4, num_classes=WIDTH, dim=20, depth=2, heads=3, mlp_dim=28, dim_head=8)
    vit = code.vit.ViT(
        code.vit.ViTConfig(**sizes, dropout=0.0, emb_dropout=0.0, lora_config=settings(code.transformer))
    )
    out.run("vit", redraw(vit), torch.rand(3, 3, 16, 16))

    model = code.world_model_multitask.WorldModelMT
    config = types.SimpleNamespace(embed_dim=WIDTH, max_blocks=TIME // 2)
    mine = types.SimpleNamespace(config=config)
    for name, size in {"policy": ACTIONS, "value": BINS, "latent": WIDTH}.items():
        norm = nn.LayerNorm(WIDTH, eps=1e-5) if name == "latent" else None
        head = model._create_head(mine, torch.tensor([1.0, 0.0]), size, norm)
        out.run(f"head_{name}", redraw(head.head_module), sequence())

    support = code.scaling_transform.DiscreteSupport(-50.0, 51.0)
    values = torch.cat([torch.tensor([0.0, 1.0, -1.0, 0.3, -1000.0, 1e5, -1e5]), 30 * torch.randn(25)])
    logits = 3 * torch.randn(16, BINS)
    squashed = code.scaling_transform.scalar_transform(values)
    back = code.scaling_transform.InverseScalarTransform(support)(logits.clone())
    out.put("scalar", "x", values)
    out.put("scalar", "squashed", squashed)
    for name, smoothing in {"categories": 0.0, "smoothed": 0.1}.items():
        out.put("scalar", name, code.scaling_transform.phi_transform(support, squashed, smoothing))
    out.put("scalar", "logits", logits)
    out.put("scalar", "back", back)
    record_losses(out, code, support)
    return out


def record_losses(out: Record, code: types.SimpleNamespace, support: Any) -> None:
    """The reference's loss of one task from given logits and targets, no step masked: terms and weighted sum."""
    batch, time = 3, TIME // 2
    model = code.world_model_multitask.WorldModelMT
    logits = dict(rewards=BINS, value=BINS, policy=ACTIONS, observations=WIDTH)
    logits = {f"logits_{name}": torch.randn(batch, time, size) for name, size in logits.items()}
    outputs = types.SimpleNamespace(**logits)
    latent, policy = torch.randn(batch, time, WIDTH), torch.randn(batch, time, ACTIONS).softmax(-1)
    reward, value = (5 * torch.randn(batch, time) for _ in range(2))
    mask = torch.ones(batch, time, dtype=torch.bool)
    coded = lambda x: code.scaling_transform.phi_transform(support, code.scaling_transform.scalar_transform(x), 0.1)
    targets = dict(rewards=coded(reward), target_value=coded(value), target_policy=policy, mask_padding=mask)
    frames = dict(observations=torch.zeros(batch, time, 1), actions=torch.zeros(batch, time, dtype=torch.long))
    tokenizer = types.SimpleNamespace(encode_to_obs_embeddings=lambda *_, **__: latent)
    names = ("compute_labels_world_model", "compute_labels_world_model_value_policy", "compute_cross_entropy_loss")
    mine = types.SimpleNamespace(
        tokenizer=tokenizer,
        forward=lambda *_, **__: outputs,
        config=types.SimpleNamespace(use_priority=False),
        analysis_tsne=False,
        analysis_dormant_ratio_weight_rank=False,
        do_analysis=False,
        obs_type="image",
        continuous_action_space=False,
        use_task_embed=False,
        predict_latent_loss_type="mse",
        projection_input_dim=WIDTH,
        support_size=BINS,
        action_space_size=ACTIONS,
        policy_entropy_weight=1e-2,
        gamma=1.0,
        latent_recon_loss_weight=0.0,
        perceptual_loss_weight=0.0,
    )
    for name in (*names, "compute_policy_entropy_loss"):
        setattr(mine, name, types.MethodType(getattr(model, name), mine))
    loss = model.compute_loss(mine, targets | frames | dict(ends=None), tokenizer)
    parts = loss.intermediate_losses
    out.put("loss", "logits", logits)
    out.put("loss", "target", dict(latent=latent, policy=policy, reward=reward, value=value))
    names = dict(latent="loss_obs", reward="loss_rewards", value="loss_value", policy="orig_policy_loss")
    out.put("loss", "term", {ours: np.float32(float(parts[theirs])) for ours, theirs in names.items()})
    out.put("loss", "term", {"entropy": np.float32(float(parts["policy_entropy"])), "total": loss.loss_total})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    out = record(reference(arguments.folder))
    np.savez_compressed(arguments.output, **out)
    print(f"{len(out)} arrays, {arguments.output.stat().st_size:,} bytes -> {arguments.output}")


if __name__ == "__main__":
    main()
