"""When fast paths for inference on CPUs may be taken."""

import torch
from torch import Tensor, nn


def is_cpu_inference(module: nn.Module, x: Tensor) -> bool:
    """Whether a module computes features of ``x`` that nothing differentiates, in float32 on a CPU.

    Training is not inference even without gradients: a repeated forward pass
    (``detclip2.engine.micro_batch``) must give the same result. Exporters and compilers get the
    plain operations.
    """
    return (
        not module.training
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
