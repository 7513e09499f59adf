"""GPUs as data: what XLA has to know to compile for one that is not there, and what one can do at best.

Sizes and rates are those of NVIDIA's data sheets. Called by aot.py.
"""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """One kind of GPU."""

    title: str
    capability: tuple[int, int]
    accelerated: bool  # whether the compiler may use instructions of this capability alone (sm_90a)
    cores: int
    fpus: int  # float32 units a core
    clock: float  # GHz
    memory: int  # bytes
    bandwidth: float  # bytes a second
    cache: int  # bytes, second level
    shared: int  # bytes of shared memory a core
    rates: dict[str, float]  # FLOP a second of dense matrix products, by precision of the factors


HOPPER = {"bf16": 989e12, "f16": 989e12, "f32": 494e12}  # float32 runs as TF32 unless the program says otherwise
AMPERE = {"bf16": 312e12, "f16": 312e12, "f32": 156e12}
GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), True, 132, 128, 1.98, 80 << 30, 3.35e12, 50 << 20, 228 << 10, HOPPER),
    "h200": Gpu("NVIDIA H200", (9, 0), True, 132, 128, 1.98, 141 << 30, 4.8e12, 50 << 20, 228 << 10, HOPPER),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), False, 108, 64, 1.41, 80 << 30, 2.04e12, 40 << 20, 164 << 10, AMPERE),
}
# What large copies and large products reach of the data sheet's figures: assumed, to be replaced by gpu_suite.py's.
BANDWIDTH_REACHED, RATE_REACHED = 0.9, 0.8
LAUNCH = 2.5e-6  # seconds a kernel takes at least, assumed: it is started and drained


def target_config(gpu: Gpu) -> str:
    """The GPU as the text of XLA's GpuTargetConfigProto."""
    major, minor = gpu.capability
    extension = "ACCELERATED_FEATURES" if gpu.accelerated else "NONE"
    return f"""
gpu_device_info {{
  name: "{gpu.title}"
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  core_count: {gpu.cores} fpus_per_core: {gpu.fpus} clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory} memory_bandwidth: {int(gpu.bandwidth)} l2_cache_size: {gpu.cache}
  shared_memory_per_core: {gpu.shared} shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared - 1024}
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{gpu.title}"
"""


def seconds(gpu: Gpu, moved: int, flop: dict[str, int]) -> float:
    """The least time of a kernel: that of its bytes or that of its matrix products, whichever is longer."""
    slowest = min(gpu.rates.values())
    products = sum(count / gpu.rates.get(dtype, slowest) for dtype, count in flop.items())
    return max(moved / gpu.bandwidth / BANDWIDTH_REACHED, products / RATE_REACHED)
