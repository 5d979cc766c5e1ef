"""A GPU that is none: its tensors say `cuda`, their numbers are worked out on the CPU, and mixing the two fails as it does on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MOVES = ("aten::_to_copy", "aten::copy_")
"""What takes tensors of both devices; all else takes of the CPU's only numbers without dimensions."""


class Pretended(Tensor):
    """On the pretended device, around the tensor that has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        out = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=CUDA
        )
        out.held = held
        return out

    def __repr__(self):
        return f"Pretended({self.held!r})"

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of the pretended device")


class _Dispatch(TorchDispatchMode):
    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # under which torch does not look for a driver

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        there = any(isinstance(tensor, Pretended) for tensor in tensors)
        moves, asked = func._schema.name in MOVES, kwargs.get("device")
        for tensor in tensors:
            if there and not moves and tensor.ndim and not isinstance(tensor, Pretended):
                raise RuntimeError(f"{func} takes tensors of cuda and one of the cpu, of shape {tuple(tensor.shape)}")
        if asked is not None:
            there = torch.device(asked).type == "cuda"
        elif moves:
            there = isinstance(args[0], Pretended)
        held_args, held_kwargs = tree_map(
            lambda value: value.held if isinstance(value, Pretended) else value, (args, kwargs)
        )
        if asked is not None:
            held_kwargs["device"] = CPU
        if func is torch.ops.aten._thnn_fused_gru_cell.default:
            func = _gru_cell
        out = func(*held_args, **held_kwargs)
        if not there:
            return out
        out = tree_map(lambda value: Pretended(value) if isinstance(value, Tensor) else value, out)
        return out if func is _gru_cell else return_and_correct_aliasing(func, args, kwargs, out)


def _gru_cell(inputs, hidden, state, input_bias, hidden_bias):
    """The one kernel that GPUs have and the CPU has not; in place of its workspace for the backward pass an empty tensor."""
    inputs, hidden = (inputs + input_bias).chunk(3, 1), (hidden + hidden_bias).chunk(3, 1)
    reset, update = (torch.sigmoid(inputs[i] + hidden[i]) for i in (0, 1))
    new = torch.tanh(inputs[2] + reset * hidden[2])
    return new + update * (state - new), state.new_empty(0)


@contextmanager
def pretended_cuda() -> Iterator[torch.device]:
    """Within it "cuda" works without a GPU, forward passes only."""
    torch._C._ensureCUDADeviceGuardSet()
    lifted, overwritten = (
        torch._C._only_lift_cpu_tensors(),
        torch.__future__.get_overwrite_module_params_on_conversion(),
    )
    # as FakeTensorMode does: torch.tensor(..., device="cuda") is made on the CPU
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else parameters lose what they hold
    try:
        with _Dispatch(), torch.backends.cudnn.flags(enabled=False):
            yield CUDA
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
