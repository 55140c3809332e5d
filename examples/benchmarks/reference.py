"""The training step of the authors' PyTorch code, imported from the user's own checkout of it.

Nothing of it is in this repository. The step is that of its trainer: forward passes, loss,
backward pass, clipping, `torch.optim.SGD`; without the trainer's meters and log lines, which read
results back in every step. This module does not import Keras.

CRD gets the number of each image and those of its negatives with the batch, as from the authors'
data set, whose draw of them is not in the time. Their ReviewKD adds SDD-DKD to its own term, from
networks that give three outputs, which are not in their code; here it is timed without that.
"""

import functools
import importlib
import pathlib
import sys
import time
import types

import numpy as np
import torch

from benchmarks.methods import AUTHORS

_NUM_IMAGES = 50_000  # of the training set
_NUM_NEGATIVES = 16_384
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
        name: "reference_" and a key of `AUTHORS`.
        options: the flags of `benchmark.py`.

    Returns:
        Function from a number of steps to seconds.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # their losses move constants to a GPU
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
    method, decoupled = AUTHORS[name.removeprefix("reference_")]
    distiller = _build_distiller(method, decoupled, options).to(device).train()
    optimizer = torch.optim.SGD(
        distiller.get_learnable_parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    random = np.random.default_rng(0)
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    images = torch.tensor(random.standard_normal(shape, "float32"), device=device)
    labels = torch.tensor(
        random.integers(options.num_classes, size=options.batch_size), device=device
    )
    batch = {"image": images, "target": labels, "epoch": 1}
    if method == "CRD":
        ids = random.choice(_NUM_IMAGES, options.batch_size, replace=False)
        others = random.integers(_NUM_IMAGES, size=(options.batch_size, _NUM_NEGATIVES))
        batch["index"] = torch.tensor(ids, device=device)
        candidates = np.concatenate([ids[:, None], others], axis=1)
        batch["contrastive_index"] = torch.tensor(candidates, device=device)
    return functools.partial(_time, distiller, optimizer, batch)


def _build_distiller(method, decoupled, options):
    models, distillers = _import_code(pathlib.Path(options.reference))
    scales = f"[{','.join(options.scales)}]"
    torch.manual_seed(0)
    networks = []
    for network in options.pair:
        network = _NETWORKS.get(network, network) + ("_sdd" if decoupled else "")
        build_network, _ = models.cifar_model_dict[network]
        networks.append(build_network(num_classes=options.num_classes, M=scales))
    config = _make_config(scales)
    further = {}
    if method == "CRD":
        config.CRD, further = _make_crd_config(networks, options), {"num_data": _NUM_IMAGES}
    if method == "REVIEWKD":
        config.REVIEWKD = _make_reviewkd_config(networks, options)
        importlib.import_module("mdistiller.distillers.ReviewKD").multi_dkd = lambda *_: 0.0
        networks = [_WithRegions(network) for network in networks]
    teacher, student = networks
    return distillers.distiller_dict[method](student, teacher, config, **further)


class _WithRegions(torch.nn.Module):
    """A network whose third output stands for the logits of regions, and is not read."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return (*self.network(images), None)


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
    return space(
        KD=kd,
        DKD=dkd,
        FITNET=space(HINT_LAYER=2, INPUT_SIZE=(32, 32), LOSS=_weigh(100.0)),
        AT=space(P=2, LOSS=_weigh(1000.0)),
        SP=space(LOSS=_weigh(3000.0)),
        RKD=space(
            DISTANCE_WEIGHT=25,
            ANGLE_WEIGHT=50,
            PDIST=space(EPSILON=1e-12, SQUARED=False),
            LOSS=_weigh(1.0),
        ),
        PKT=space(LOSS=_weigh(30000.0)),
        M=scales,
        warmup=20,
    )


def _weigh(weight):
    return types.SimpleNamespace(CE_WEIGHT=1.0, FEAT_WEIGHT=weight)


def _make_crd_config(networks, options):
    space = types.SimpleNamespace
    teacher, student = (_read_shapes(network, options)[-1][0] for network in networks)
    return space(
        FEAT=space(DIM=128, STUDENT_DIM=student, TEACHER_DIM=teacher),
        NCE=space(K=_NUM_NEGATIVES, MOMENTUM=0.5, TEMPERATURE=0.07),
        LOSS=_weigh(0.8),
    )


def _make_reviewkd_config(networks, options):
    teacher, student = (_read_shapes(network, options) for network in networks)
    return types.SimpleNamespace(
        CE_WEIGHT=1.0,
        REVIEWKD_WEIGHT=5.0,
        WARMUP_EPOCHS=20,
        STU_PREACT=False,
        MAX_MID_CHANNEL=512,
        IN_CHANNELS=[channels for channels, _ in student],
        OUT_CHANNELS=[channels for channels, _ in teacher],
        SHAPES=[size for _, size in reversed(student)],
        OUT_SHAPES=[size for _, size in reversed(teacher)],
    )


def _read_shapes(network, options):
    """Channels and size of the maps after the first one, and of what the classifier reads."""
    with torch.no_grad():
        size = options.image_size
        _, features = network.eval()(torch.zeros(1, 3, size, size))
    maps = [(x.shape[1], x.shape[2]) for x in features["feats"][1:]]
    return [*maps, (features["pooled_feat"].shape[1], 1)]


def _time(distiller, optimizer, batch, steps):
    started = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        _, losses = distiller(**batch)
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
