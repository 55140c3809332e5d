"""PyTorch: no graph of gradients is kept for the teacher."""

import torch

from keras_sdd._backend import torch_graph


def run_teacher(distiller, network, state, x):
    return torch_graph.run(network, x)


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
