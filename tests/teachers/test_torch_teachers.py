"""PyTorch modules as teachers, against what PyTorch computes of the same modules."""

import copy
import gc
import logging

import keras
import numpy as np
import pytest
from backends import BACKEND
from keras import layers

import keras_sdd
from keras_sdd.cache import digest_weights
from keras_sdd.teachers import from_torch

if BACKEND != "torch":
    pytest.skip("modules of PyTorch run on PyTorch", allow_module_level=True)

import torch
from torch import nn

from teachers import torch_classifiers
from teachers.torch_classifiers import CASES, CLASSES, Case

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SHAPE = (32, 32, 3)
SCALES = (1, 2, 4)


def draw(count=4, shape=SHAPE):
    return np.random.default_rng(0).uniform(size=(count, *shape)).astype("float32")


def make_student(shape=SHAPE):
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 3, strides=4, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )


def cut(size, scale):
    """The bins of adaptive pooling."""
    return [(i * size // scale, -(-(i + 1) * size // scale)) for i in range(scale)]


def compute_by_hand(case, module, images, mean=MEAN, std=STD):
    """Logits (B, K) and cells (B, N, K) of the module, by PyTorch alone."""
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        x = (torch.tensor(images) - torch.tensor(mean)) / torch.tensor(std)
        x = x.permute(0, 3, 1, 2)
        output = module(x)
        maps = case.find_map(module, x)
        cells = [
            case.classify(module, maps[:, :, top:end, left:right])
            for m in SCALES
            for top, end in cut(maps.shape[2], m)
            for left, right in cut(maps.shape[3], m)
        ]
    logits = output["logits"] if isinstance(output, dict) else output
    return logits.numpy(), torch.stack(cells, 1).numpy()


def assert_close(actual, desired, tolerance=1e-5):
    assert actual.shape == desired.shape
    assert np.abs(actual - desired).max() <= tolerance * np.abs(desired).max()


def find_targets(distiller, images):
    return keras.tree.flatten(distiller.compute_teacher_targets(images))[0]


def remember(module):
    state = {name: x.clone() for name, x in module.state_dict().items()}
    flags = [x.requires_grad for x in module.parameters()] + [x.training for x in module.modules()]
    return state, flags


def assert_unmoved(module, before):
    state, flags = remember(module)
    assert flags == before[1]
    assert all(torch.equal(x, before[0][name]) for name, x in state.items())
    assert all(x.grad is None for x in module.parameters())


@pytest.mark.parametrize("name", CASES)
def test_cells_are_those_of_the_module_and_nothing_of_it_moves(name, caplog):
    case = CASES[name]
    module = torch_classifiers.build(case)
    next(module.parameters()).requires_grad_(False)
    before = remember(module)
    images = draw()
    teacher = from_torch(module, SHAPE, mean=MEAN, std=STD)
    assert keras_sdd.Network(teacher).num_classes == CLASSES
    distiller = keras_sdd.SDDDistiller(teacher, make_student(), scales=SCALES)
    distiller.compile("sgd")
    names = [v.path for v in distiller.trainable_variables]
    assert len(names) == len(distiller.student.trainable_variables)
    with caplog.at_level(logging.WARNING, "keras_sdd"):
        distiller.fit(images, np.arange(4) % CLASSES, epochs=2, batch_size=4, verbose=0)
    assert "layer by layer" not in caplog.text
    logits, cells = compute_by_hand(case, module, images)
    assert_close(teacher.predict(images, verbose=0), logits)
    assert_close(find_targets(distiller, images), cells)
    assert_close(traced_outputs(distiller, images), cells)
    assert_unmoved(module, before)
    exposed = keras_sdd.expose_spatial_logits(teacher)
    outputs = exposed.predict(images, verbose=0)
    assert_close(outputs["logits"], logits)
    mean_error = np.abs(outputs["spatial_logits"].mean((1, 2)) - logits).max()
    assert (mean_error < 1e-5 * np.abs(logits).max()) == case.is_linear


def traced_outputs(distiller, images):
    """What a training step gets of the teacher, which has to run as a traced graph."""
    from keras_sdd._backend import torch_graph

    (graph,) = torch_graph._graphs[distiller._frozen.model].values()
    assert isinstance(graph, torch.fx.GraphModule)
    with torch.no_grad():
        return keras.tree.flatten(graph(torch.tensor(images)))[0].numpy()


def test_images_as_they_come_and_other_shapes():
    module = torch_classifiers.build(CASES["torchvision_resnet"])
    images = draw(shape=(40, 24, 3))
    logits, _ = compute_by_hand(CASES["torchvision_resnet"], module, images, (0.0,) * 3, (1.0,) * 3)
    teacher = from_torch(module, (40, 24, 3))
    assert_close(teacher.predict(images, verbose=0), logits)
    assert teacher.count_params() == sum(x.numel() for x in module.state_dict().values())


@pytest.mark.parametrize("name", ["torchvision_resnet", "own", "timm_vit"])
def test_channels_first(name):
    keras.config.set_image_data_format("channels_first")
    module, images = torch_classifiers.build(CASES[name]), draw()
    teacher = from_torch(module, (3, 32, 32), mean=MEAN, std=STD)
    logits, cells = compute_by_hand(CASES[name], module, images)
    network = keras_sdd.Network(teacher, frozen=True)
    model = network.select({"logits": network.logits, "cells": network.cells(SCALES)})
    outputs = model.predict(images.transpose(0, 3, 1, 2), verbose=0)
    assert_close(outputs["logits"], logits)
    assert_close(outputs["cells"], cells)


def test_a_module_of_half_precision_keeps_it():
    case = CASES["torchvision_resnet"]
    module, images = torch_classifiers.build(case), draw()
    _, cells = compute_by_hand(case, module, images)
    module.to(torch.bfloat16)
    teacher = from_torch(module, SHAPE, mean=MEAN, std=STD)
    network = keras_sdd.Network(teacher, frozen=True)
    outputs = network.select({"cells": network.cells(SCALES)}).predict(images, verbose=0)["cells"]
    assert outputs.dtype == "float32"
    assert_close(outputs, cells, 0.05)
    assert {x.dtype for x in module.parameters()} == {torch.bfloat16}


def test_the_teacher_follows_its_module():
    module, images = torch_classifiers.build(CASES["torchvision_resnet"]), draw()
    teacher = from_torch(module, SHAPE, mean=MEAN, std=STD)
    distiller = keras_sdd.SDDDistiller(teacher, make_student(), scales=SCALES)
    distiller.compile("sgd")
    distiller.fit(images, np.arange(4) % CLASSES, batch_size=4, verbose=0)
    other = torch_classifiers.build(CASES["torchvision_resnet"], seed=1)
    module.load_state_dict(other.state_dict())
    _, cells = compute_by_hand(CASES["torchvision_resnet"], other, images)
    assert_close(traced_outputs(distiller, images), cells)


class ChannelsLast(nn.Module):
    """Eight channels, last, of eight by eight positions: no size tells which axis is which."""

    def __init__(self, pool):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.pool, self.head = pool, nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.pool(self.norm(self.embed(x).permute(0, 2, 3, 1))))


class Pool(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.function = pool

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("kind", ["average", "maximum", "own"])
def test_channels_last_of_the_size_of_the_map(kind):
    pool = {
        "average": lambda x: x.mean((1, 2)),
        "maximum": lambda x: x.amax((1, 2)),
        "own": lambda x: x.mean((1, 2)) + x.amax((1, 2)),
    }[kind]
    case = Case(
        lambda: ChannelsLast(Pool(pool)),
        lambda m, x: m.norm(m.embed(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda m, r: m.head(pool(r.permute(0, 2, 3, 1))),
        kind == "average",
    )
    module, images = torch_classifiers.build(case), draw()
    network = keras_sdd.Network(from_torch(module, SHAPE, mean=MEAN, std=STD), frozen=True)
    outputs = network.select({"cells": network.cells(SCALES)}).predict(images, verbose=0)
    assert_close(outputs["cells"], compute_by_hand(case, module, images)[1])


def test_nothing_of_the_recorded_pass_is_kept():
    from keras_sdd._backend.torch_modules import Call

    teacher = from_torch(torch_classifiers.build(CASES["timm_convnext"]), SHAPE)
    gc.collect()
    assert teacher.built and not [x for x in gc.get_objects() if type(x) is Call]


def test_a_classifier_taken_as_one_and_digests():
    case = CASES["timm_convnext"]
    module, images = torch_classifiers.build(case), draw()
    teacher = from_torch(module, SHAPE, mean=MEAN, std=STD, classifier="head")
    network = keras_sdd.Network(teacher, frozen=True)
    outputs = network.select({"cells": network.cells(SCALES)}).predict(images, verbose=0)
    assert_close(outputs["cells"], compute_by_hand(case, module, images)[1])
    others = [from_torch(torch_classifiers.build(case, seed), SHAPE) for seed in (0, 1)]
    digests = [digest_weights(x) for x in (teacher, *others)]
    assert digests[0] == digests[1] != digests[2]


def test_maps_by_name():
    module, images = torch_classifiers.build(CASES["torchvision_resnet"]), draw()
    teacher = from_torch(module, SHAPE, features=["relu", "layer1", "layer2"])
    network = keras_sdd.Network(teacher, frozen=True)
    outputs = network.select({"map": network.feature("layer1"), "cells": network.cells(SCALES)})
    outputs = outputs.predict(images, verbose=0)
    module.eval()
    with torch.no_grad():
        x = torch.tensor(images).permute(0, 3, 1, 2)
        maps = module.layer1(module.bn1(module.conv1(x)).relu()).permute(0, 2, 3, 1).numpy()
    assert_close(outputs["map"], maps)
    _, cells = compute_by_hand(CASES["torchvision_resnet"], module, images, (0.0,) * 3, (1.0,) * 3)
    assert_close(outputs["cells"], cells)
    student = make_student()
    pair = ("layer1", student.layers[0].name)
    distiller = keras_sdd.Distiller(teacher, student, [keras_sdd.terms.FitNet([pair])])
    distiller.compile("sgd")
    distiller.fit(images, np.arange(4) % CLASSES, verbose=0)


class Normalizing(torch_classifiers.LikeTimmViT):
    """It computes something of its own between the last submodule and its pooling."""

    def forward_features(self, x):
        return nn.functional.normalize(super().forward_features(x), dim=-1)


@pytest.mark.parametrize("build", [torch_classifiers.LikeTimmViT, Normalizing])
def test_a_class_token_has_patches_on_request(build):
    module, images = build("token"), draw()
    teacher = from_torch(module, SHAPE)
    module.eval()
    with torch.no_grad():
        x = torch.tensor(images).permute(0, 3, 1, 2)
        logits, tokens = module(x), module.forward_features(x)
        patches = module.head(module.fc_norm(tokens[:, 1:])).unflatten(1, (8, 8))
    assert_close(teacher.predict(images, verbose=0), logits.numpy())
    with pytest.raises(ValueError, match="patch_tokens=True"):
        keras_sdd.expose_spatial_logits(teacher)
    exposed = keras_sdd.expose_spatial_logits(teacher, patch_tokens=True)
    outputs = exposed.predict(images, verbose=0)
    assert_close(outputs["logits"], logits.numpy())
    assert_close(outputs["spatial_logits"], patches.numpy())
    distiller = keras_sdd.SDDDistiller(exposed, make_student(), scales=(1, 2))
    distiller.compile("sgd")
    distiller.fit(images, np.arange(4) % CLASSES, verbose=0)
    with torch.no_grad():
        maps = tokens[:, 1:].unflatten(1, (2, 4, 2, 4)).mean((2, 4)).flatten(1, 2)
        cells = torch.cat([logits[:, None], module.head(module.fc_norm(maps))], 1)
    assert_close(find_targets(distiller, images), cells.numpy())


@pytest.mark.parametrize("name", ["torchvision_resnet", "own"])
def test_classes_are_chosen_from_it(name):
    module, images = torch_classifiers.build(CASES[name]), draw()
    teacher = from_torch(module, SHAPE, mean=MEAN, std=STD)
    selected = keras_sdd.teachers.select_classes(teacher, [3, 0, 4])
    network = keras_sdd.Network(selected, frozen=True)
    outputs = network.select({"logits": network.logits, "cells": network.cells(SCALES)})
    outputs = outputs.predict(images, verbose=0)
    logits, cells = compute_by_hand(CASES[name], module, images)
    assert_close(outputs["logits"], logits[:, [3, 0, 4]])
    assert_close(outputs["cells"], cells[..., [3, 0, 4]])
    exposed = keras_sdd.expose_spatial_logits(selected).predict(images, verbose=0)
    mean_error = np.abs(exposed["spatial_logits"].mean((1, 2)) - outputs["logits"]).max()
    assert (mean_error < 1e-5 * np.abs(logits).max()) == CASES[name].is_linear


def test_flattened_maps_have_no_regions():
    module = nn.Sequential(
        torch_classifiers.convolve(3, 8), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)
    )
    teacher = from_torch(module, SHAPE)
    with pytest.raises(ValueError, match="which is no pooling that regions have too"):
        keras_sdd.expose_spatial_logits(teacher)
    network = keras_sdd.Network(teacher, frozen=True)
    assert network.cells((1,)).shape == (None, 1, 5)


def test_saving_is_refused_and_the_student_is_saved(tmp_path):
    module = torch_classifiers.build(CASES["timm_convnext"])
    distiller = keras_sdd.SDDDistiller(from_torch(module, SHAPE), make_student())
    distiller.compile("sgd")
    images = draw()
    distiller.fit(images, np.arange(4) % CLASSES, verbose=0)
    with pytest.raises(ValueError, match="distiller.student.save"):
        distiller.save(tmp_path / "distiller.keras")
    distiller.student.save(tmp_path / "student.keras")
    student = keras.saving.load_model(tmp_path / "student.keras")
    expected = distiller.predict(images, verbose=0)
    np.testing.assert_array_equal(student.predict(images, verbose=0), expected)
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    before = remember(module)
    other = keras_sdd.SDDDistiller(from_torch(module, SHAPE), make_student())
    other.load_weights(tmp_path / "distiller.weights.h5")
    np.testing.assert_array_equal(other.predict(images, verbose=0), expected)
    assert_unmoved(module, before)


class TwoBranches(torch_classifiers.LikeTorchvisionResNet):
    def forward(self, x):
        x = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3))) * (1.0 if x.sum() > 0 else 2.0) + x.mean()


class Scaled(torch_classifiers.LikeTorchvisionResNet):
    def forward(self, x):
        if x.sum() > 1e9:  # which no tracer of code takes
            return x
        return torch.softmax(super().forward(x), 1) if self.layer1[0].bias is None else x


class Counting(torch_classifiers.LikeTorchvisionResNet):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return super().forward(x)


class Pair(torch_classifiers.LikeTorchvisionResNet):
    def forward(self, x):
        return super().forward(x), x


class Random(torch_classifiers.LikeTorchvisionResNet):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x))


REFUSED = {
    "in_the_way": (TwoBranches, SHAPE, {}, r"what the logits takes is not what 'fc' gives"),
    "softmax": (Scaled, SHAPE, {}, r"gives probabilities.*Identity.*'fc'"),
    "counting": (Counting, SHAPE, {}, r"changes its 'seen' in inference mode"),
    "random": (Random, SHAPE, {}, r"different logits for the same images"),
    "no_logits": (lambda: nn.Conv2d(3, 4, 1), SHAPE, {}, r"Received: Conv2d, which gives a Tensor"),
    "pair": (Pair, SHAPE, {}, r"Received: Pair, which gives a tuple"),
    "small": (torch_classifiers.LikeTorchvisionResNet, (8, 8, 3), {}, r"input_shape"),
    "channels": (torch_classifiers.OwnModule, (32, 32, 1), {}, r"fails for images of input_shape"),
    "features": (
        torch_classifiers.OwnModule, SHAPE, {"features": "bodi"}, r"Near names: body.*features="
    ),
    "wrong_features": (
        torch_classifiers.LikeTorchvisionMobileNet, SHAPE, {"features": "features.0"}, "convolves"
    ),
    "vector_features": (
        torch_classifiers.LikeTorchvisionMobileNet, SHAPE, {"features": "classifier"}, "no map"
    ),
    "module": (lambda: 3, SHAPE, {}, r"Expected a torch.nn.Module. Received: 3"),
    "shape": (torch_classifiers.OwnModule, (32, None, 3), {}, r"input_shape=\(32, None, 3\)"),
    "mean": (torch_classifiers.OwnModule, SHAPE, {"mean": (0.5,)}, r"`mean` must be 3 numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    build, shape, options, message = REFUSED[name]
    module = build()
    before = remember(module) if isinstance(module, nn.Module) else None
    with pytest.raises(ValueError, match=message):
        from_torch(module, shape, **options)
    if before:
        assert_unmoved(module, before)


def test_a_computation_that_becomes_a_submodule():
    """A submodule of its own is what a computation between submodules has to become."""

    class Remedied(torch_classifiers.LikeTorchvisionResNet):
        def __init__(self):
            super().__init__()
            self.scale = nn.Softplus()

        def forward(self, x):
            if x.sum() > 1e9:
                return x
            return self.scale(super().forward(x))

    module, images = torch_classifiers.build(Case(Remedied, None, None, False)), draw()
    teacher = from_torch(module, SHAPE, features="layer2", classifier="fc")
    with torch.no_grad():
        logits = copy.deepcopy(module).eval()(torch.tensor(images).permute(0, 3, 1, 2))
    assert_close(teacher.predict(images, verbose=0), logits.numpy())


LIBRARIES = {
    "timm": lambda m: m.create_model("resnet10t", num_classes=CLASSES),
    "torchvision": lambda m: m.models.shufflenet_v2_x0_5(num_classes=CLASSES),
    "transformers": lambda m: m.ResNetForImageClassification(
        m.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES)
    ),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_where_they_are_installed(library):
    module = LIBRARIES[library](pytest.importorskip(library))
    images = draw(shape=(96, 96, 3))
    teacher = from_torch(module, (96, 96, 3))
    assert keras_sdd.expose_spatial_logits(teacher).output["spatial_logits"].shape[1] > 1
    module.eval()
    with torch.no_grad():
        logits = module(torch.tensor(images).permute(0, 3, 1, 2))
    logits = getattr(logits, "logits", logits)
    assert_close(teacher.predict(images, verbose=0), logits.numpy())
