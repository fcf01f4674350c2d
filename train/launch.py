"""Where a run computes: Lightning Fabric sets up device, precision and, under torchrun, the processes.

    torchrun --nproc-per-node 2 -- .venv/bin/stepclip train --dataset csv

Each process then takes its part of every batch; the batch of the recipe stays the batch of a step.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING

import torch
from torch import distributed as dist

from ..cache.errors import StepclipError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def start_fabric(device: torch.device, precision: str) -> Fabric:
    """A launched Fabric for `device`: one process, or those of torchrun (gloo on CPUs, NCCL on GPUs)."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    if precision == "fp16" and device.type != "cuda":
        raise StepclipError(
            f"train.precision = fp16 on {device}", "fp16 on a GPU; bf16 or fp32 elsewhere",
            "--set train.precision=auto",
        )  # fmt: skip
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its tips and banners; ours is one line
    warnings.filterwarnings("ignore", module="lightning_fabric")
    world = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world > 1 else 1
    single = [device.index or 0] if device.type == "cuda" else 1
    fabric = Fabric(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=here if world > 1 else single,
        num_nodes=max(1, world // here),
        strategy=DDPStrategy() if world > 1 else "auto",
        precision=_PRECISIONS[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric
