"""PyTorch: no graph of gradients is kept for the teacher."""

import torch
from torch import distributed

from keras_sdd._backend import torch_graph

TELLS_VERSIONS = True


def read_versions(variables):
    # Of what is assigned in place, which is how Keras and optimizers assign.
    return tuple((id(v.value), v.value._version) for v in variables)


def run_teacher(distiller, frozen, state, x):
    frozen.follow()
    return torch_graph.run(frozen.model, x)


def batch_norm(inputs, axis, gamma, beta, epsilon):
    x = inputs.movedim(axis, 1)
    # With a momentum of 1 what it "averages" is the statistics of the batch.
    mean, variance = (x.new_zeros(x.shape[1]) for _ in range(2))
    if x.numel() == x.shape[1]:  # one value per channel, which it refuses
        return None
    outputs = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, True, 1.0, epsilon)
    return outputs.movedim(1, axis), mean, variance


def count_replicas():
    return 1


def average_over_devices(value):
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value / distributed.get_world_size()


def gather_over_devices(value):
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    parts = [torch.empty_like(value) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, value.detach().contiguous())
    return torch.cat(parts)


def get_random_state():
    # Keras draws the masks of a Dropout without a seed from PyTorch's own generators.
    states = {"torch_generator": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["torch_cuda_generator"] = torch.cuda.get_rng_state()
    return {name: state.numpy() for name, state in states.items()}


def set_random_state(arrays):
    setters = {"torch_generator": torch.set_rng_state}
    if torch.cuda.is_available():
        setters["torch_cuda_generator"] = torch.cuda.set_rng_state
    for name in arrays.keys() & setters.keys():
        setters[name](torch.from_numpy(arrays[name]))
