"""The training step of the authors' PyTorch code, imported from the user's own checkout of it.

Nothing of it is in this repository. The step is that of its trainer: forward passes, loss,
backward pass, clipping, `torch.optim.SGD`; without the trainer's meters and log lines, which read
results back in every step. This module does not import Keras.
"""

import functools
import importlib
import pathlib
import sys
import time
import types

import numpy as np
import torch

# Program: class of the authors' code, whether it takes their `_sdd` networks.
PROGRAMS = {
    "reference_kd": ("KD", False),
    "reference_sd_kd": ("SDD_KD", True),
    "reference_sd_dkd": ("SDD_DKD", True),
    "reference_sd_nkd": ("SDD_NKD", True),
}
# Names of networks that differ from those of `keras_sdd.models`.
_NETWORKS = {
    "resnet18": "ResNet18",
    "resnet50": "ResNet50",
    "mobilenet_v2": "MobileNetV2",
    "shufflenet_v1": "ShuffleV1",
    "shufflenet_v2": "ShuffleV2",
}


def build(name, options):
    """Build a program.

    Args:
        name: key of `PROGRAMS`.
        options: the flags of `benchmark.py`.

    Returns:
        Function from a number of steps to seconds.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # their losses move constants to a GPU
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
    distiller = _build_distiller(name, options).to(device).train()
    optimizer = torch.optim.SGD(
        distiller.get_learnable_parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    random = np.random.default_rng(0)
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    images = torch.tensor(random.standard_normal(shape, "float32"), device=device)
    labels = torch.tensor(
        random.integers(options.num_classes, size=options.batch_size), device=device
    )
    return functools.partial(_time, distiller, optimizer, images, labels)


def _build_distiller(name, options):
    models, distillers = _import_code(pathlib.Path(options.reference))
    method, decoupled = PROGRAMS[name]
    scales = f"[{','.join(options.scales)}]"
    torch.manual_seed(0)
    networks = []
    for network in options.pair:
        network = _NETWORKS.get(network, network) + ("_sdd" if decoupled else "")
        build_network, _ = models.cifar_model_dict[network]
        networks.append(build_network(num_classes=options.num_classes, M=scales))
    teacher, student = networks
    return distillers.distiller_dict[method](student, teacher, _make_config(scales))


def _import_code(folder):
    """Import networks and distillers without the packages that data and logs of that code need."""
    package = types.ModuleType("mdistiller")
    package.__path__ = [str(folder / "mdistiller")]
    sys.modules["mdistiller"] = package
    return [importlib.import_module(f"mdistiller.{x}") for x in ("models", "distillers")]


def _make_config(scales):
    """Return the settings of CIFAR-100 under the names that the authors' classes read."""
    space = types.SimpleNamespace
    kd = space(TEMPERATURE=4, LOSS=space(CE_WEIGHT=0.1, KD_WEIGHT=0.9))
    dkd = space(CE_WEIGHT=1.0, ALPHA=1.0, BETA=8.0, T=4.0, WARMUP=20)
    return space(KD=kd, DKD=dkd, M=scales, warmup=20)


def _time(distiller, optimizer, images, labels, steps):
    started = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        _, losses = distiller(image=images, target=labels, epoch=1)
        loss = sum(value.mean() for value in losses.values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(distiller.parameters(), max_norm=40)
        optimizer.step()
    loss.item()  # a GPU has then done all of it
    return time.perf_counter() - started


def describe_versions():
    """Return what the program runs on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"backend": "torch", "device": device, "torch": torch.__version__}


def measure_gpu_memory():
    """Return the peak of the memory in use on the GPU in bytes, or None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
