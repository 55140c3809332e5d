"""PyTorch: no graph is kept for the teacher."""

import torch


def run_teacher(distiller, network, state, x):
    with torch.no_grad():
        return network(x, training=False)


def count_replicas():
    return 1
