"""Batch norm that takes in the rows of all processes, as one process would that has them all; no network is changed for it."""
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

from hybridrepair.base import processes


class Synchronised(TorchFunctionMode):
    """A block in which batch norm in train mode, whatever layer asks for it, takes its statistics over all processes."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (batch_norm if function is F.batch_norm else function)(*args, **(kwargs or {}))


def batch_norm(input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
               bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """F.batch_norm of this process's rows among input [N, C, ...] of all; on CUDA by torch's SyncBatchNorm, which the CPU lacks."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if input.is_cuda:
        return SyncBatchNorm.apply(input, weight, bias, running_mean, running_var, eps, momentum, dist.group.WORLD, processes.size())
    return OverProcesses.apply(input, running_mean, running_var, weight, bias, momentum, eps)


class OverProcesses(torch.autograd.Function):
    """Batch norm of input [N, C, ...] over the rows of all processes, with the gradient through their joint statistics.

    The gradients of weight and bias are those of this process's rows, which are to be added up like all others.
    """

    @staticmethod
    def forward(ctx, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
                momentum: float, eps: float) -> Tensor:
        exact = input if input.dtype in (torch.float32, torch.float64) else input.float()
        var, mean = (each.double() for each in torch.var_mean(exact, [0, *range(2, input.ndim)], correction=0))
        n = input.numel() // input.shape[1]
        sums = torch.cat([n * mean, n * (var + mean.square()), mean.new_tensor([n])])  # float64: squares would cancel in float32
        processes.add_up(sums)
        count = sums[-1]
        mean, square = (sums[:-1] / count).chunk(2)
        var = (square - mean.square()).clamp(min=0)
        if running_mean is not None and running_var is not None:
            running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
            running_var.mul_(1 - momentum).add_((var * (count / (count - 1))).to(running_var.dtype), alpha=momentum)
        mean, var = mean.to(exact.dtype), var.to(exact.dtype)
        ctx.save_for_backward(input, weight, mean, var)
        ctx.eps, ctx.count = eps, count
        return F.batch_norm(input, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Through the input as if the statistics were constants, in one pass, and then what the input does through them."""
        input, weight, mean, var = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        grad = grads[0].contiguous(memory_format=torch.channels_last if input.ndim == 4 else torch.contiguous_format)
        of_input, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, input, scale, mean, var, None, None, False, ctx.eps, [True, True, True])
        sums = torch.cat([of_weight, of_bias]).double()
        processes.add_up(sums)
        by_weight, by_bias = (sums / ctx.count).to(mean.dtype).chunk(2)
        inverse = (var + ctx.eps).rsqrt()
        slope = -scale * inverse.square() * by_weight
        shape = (1, -1, *[1] * (input.ndim - 2))
        slope, constant = (each.view(shape).to(input.dtype) for each in (slope, -scale * inverse * by_bias - slope * mean))
        of_input.addcmul_(input, slope).add_(constant)
        return of_input, None, None, *(None if weight is None else each for each in (of_weight, of_bias)), None, None
