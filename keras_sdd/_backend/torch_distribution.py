"""PyTorch: a process per device, started by torchrun; DistributedDataParallel within a model."""

import atexit
import datetime
import os

import keras
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from keras_sdd._backend import bind, list_statistics

_patient: list = []  # a group for waits that may be long
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def start(timeout):
    if distributed.is_initialized():
        raise RuntimeError("torch.distributed is initialized already. Call initialize() once.")
    missing = [name for name in _LAUNCHER if name not in os.environ]
    if missing:
        raise RuntimeError(
            "On PyTorch every device has a process: start the script with `torchrun "
            f"--nproc-per-node=NUM_DEVICES SCRIPT`. Received: no {', '.join(missing)} in the "
            "environment"
        )
    cuda, local_rank = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
    if cuda and local_rank >= torch.cuda.device_count():
        raise RuntimeError(
            "There are more processes than GPUs; lower --nproc-per-node. Received: "
            f"LOCAL_RANK={local_rank} with {torch.cuda.device_count()} GPUs"
        )
    if cuda:
        torch.cuda.set_device(local_rank)  # what Keras means by "cuda"
    distributed.init_process_group(
        "nccl" if cuda else "gloo",
        timeout=datetime.timedelta(seconds=timeout),
        device_id=torch.device("cuda", local_rank) if cuda else None,
    )
    _patient.append(distributed.new_group(timeout=datetime.timedelta(days=7), backend="gloo"))
    atexit.register(distributed.destroy_process_group)
    count = distributed.get_world_size()
    return {"num_devices": count, "num_processes": count, "rank": distributed.get_rank()}


def wait():
    """Wait until all processes have come here, for however long their work takes."""
    distributed.barrier(_patient[0])


def leave():
    """Let every process compute alone from now on, as it can at any time."""
    wait()


def prepare(model):
    """Make all processes train `model` as one: weights, gradients, metrics, moving statistics.

    Methods of this one object are replaced, so that any Keras model will do and its class, what it
    saves and its layers stay what they are. What Keras's trainer calls is enough: `call` for a
    forward pass, `get_metrics_result` after every step, `eval` after every epoch.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    for variable in (*model.variables, *optimizer.variables):
        distributed.broadcast(variable.value.data, src=0)
    forward, get_result, eval_ = (bind(model, x) for x in ("call", "get_metrics_result", "eval"))
    # DDP's gradient hooks average over processes as soon as a bucket of gradients is there.
    parallel = DistributedDataParallel(_Forward(forward, model.trainable_variables))

    def call(*args, **kwargs):
        trains = torch.is_grad_enabled() and kwargs.get("training") is not False
        return (parallel if trains else forward)(*args, **kwargs)

    def get_metrics_result():
        # A metric's variables are sums over samples, which is what Keras takes them for, too.
        values = [v.value.data for metric in model.metrics for v in metric.variables]
        local = [value.clone() for value in values]
        _all_reduce(values)
        result = keras.tree.map_structure(_copy, get_result())  # some are variables themselves
        for value, own in zip(values, local, strict=True):
            value.copy_(own)
        return result

    def eval():
        # Batch norms see their own process's images; a moving average of means is their mean.
        if model.training:
            _all_reduce([v.value.data for v in list_statistics(model)], mean=True)
        return eval_()

    model.call, model.get_metrics_result, model.eval = call, get_metrics_result, eval


class _Forward(torch.nn.Module):
    """A forward pass as the module that DDP asks for, with the parameters that training moves."""

    def __init__(self, forward, variables):
        super().__init__()
        self.run = forward
        self.parameters_ = torch.nn.ParameterList([v.value for v in variables])

    def forward(self, *args, **kwargs):
        return self.run(*args, **kwargs)


def _copy(x):
    return x.clone() if isinstance(x, torch.Tensor) else x


def _all_reduce(tensors, mean=False):
    """Replace tensors by their sums or means over processes, in one exchange."""
    if not tensors:
        return
    flat = torch.cat([x.reshape(-1).double() for x in tensors])  # exact for counts
    distributed.all_reduce(flat)
    if mean:
        flat /= distributed.get_world_size()
    for tensor, values in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))
