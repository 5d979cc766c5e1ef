"""Weights, pictures and directions that are the same everywhere, to compare with numbers recorded from other people's programs."""

import zlib

import numpy as np
import torch


def drawn(name, *shape):
    """Normal float64 values that depend on the name alone."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape))


@torch.no_grad()
def fill(module, prefix=""):
    """Every weight and running statistic from its own name; as large as in a trained network, so nothing fades or grows."""
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = drawn(prefix + name, *value.shape)
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            noise = 1 + 0.3 * noise.tanh()
        elif value.ndim == 1:
            noise = 0.1 * noise
        else:
            noise = noise * (2 / value[0].numel()) ** 0.5
        value.copy_(noise)
    return module


def traces(values, count=3):
    """An array along fixed directions, of which each goes through all its values: numbers of order 1, if the values are."""
    flat = torch.as_tensor(values).detach().double().flatten()
    return [float(flat @ drawn(f"direction {i}", flat.numel())) / flat.numel() ** 0.5 for i in range(count)]
