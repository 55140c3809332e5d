"""Small PyTorch classifiers, named and built as those of the libraries that people bring."""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 5


def convolve(channels_in, channels, stride=2):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class LikeTorchvisionResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.layer1, self.layer2 = convolve(6, 8), convolve(8, 12)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class LikeTorchvisionMobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(convolve(3, 8), convolve(8, 12))
        self.classifier = nn.Sequential(
            nn.Linear(12, 16), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(16, CLASSES)
        )

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1))


class LikeTorchvisionDenseNet(nn.Module):
    """It computes something of its own between two submodules."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(convolve(3, 8), nn.Conv2d(8, 12, 3, 2, 1))
        self.classifier = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class LikeTimmHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.global_pool, self.norm = nn.AdaptiveAvgPool2d(1), nn.GroupNorm(1, 12)
        self.flatten, self.drop, self.fc = nn.Flatten(1), nn.Dropout(0.1), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.fc(self.drop(self.flatten(self.norm(self.global_pool(x)))))


class LikeTimmConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stages = convolve(3, 8), convolve(8, 12)
        self.head = LikeTimmHead()

    def forward_features(self, x):
        return self.stages(self.stem(x))

    def forward(self, x):
        return self.head(self.forward_features(x))


class LikeTimmMaximum(LikeTimmConvNeXt):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES))


class LikeTimmViT(nn.Module):
    """Patch tokens after `num_before` others; it pools the first one or the mean of the patches."""

    def __init__(self, pool, num_before=1):
        super().__init__()
        self.pool, self.num_before = pool, num_before
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(0.1 * torch.ones(1, num_before, 8))
        self.blocks = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
        self.norm, self.fc_norm = nn.LayerNorm(8), nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward_features(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        return self.norm(self.blocks(x))

    def forward(self, x):
        x = self.forward_features(x)
        x = x[:, 0] if self.pool == "token" else x[:, self.num_before :].mean(dim=1)
        return self.head(self.fc_norm(x))


class LikeHuggingFaceSwin(nn.Module):
    """Its encoder gives dicts, its pooler takes tokens, and it gives `{"logits"}`."""

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = nn.Conv2d(3, 8, 4, 4)
            self.layernorm, self.pooler = nn.LayerNorm(8), nn.AdaptiveAvgPool1d(1)

        def forward(self, pixel_values, return_dict=True):
            tokens = self.layernorm(self.embeddings(pixel_values).flatten(2).transpose(1, 2))
            pooled = torch.flatten(self.pooler(tokens.transpose(1, 2)), 1)
            return {"last_hidden_state": tokens, "pooler_output": pooled}

    def __init__(self):
        super().__init__()
        self.swin, self.classifier = self.Base(), nn.Linear(8, CLASSES)

    def forward(self, pixel_values, labels=None):
        outputs = self.swin(pixel_values, return_dict=True)
        return {"loss": None, "logits": self.classifier(outputs["pooler_output"])}


class GeM(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        powers = x.clamp(min=1e-6).pow(self.p)
        return F.avg_pool2d(powers, (x.size(-2), x.size(-1))).pow(1 / self.p)


class OwnModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(convolve(3, 8), nn.Conv2d(8, 12, 3, 2, 1))
        self.pool, self.norm, self.out = GeM(), nn.LayerNorm(12), nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.pool(F.relu(self.body(x)))
        return self.out(self.norm(x.flatten(1)))


@dataclasses.dataclass(frozen=True)
class Case:
    """A module, and by hand its map (B, C, H, W) of images and the logits of a region's map."""

    build: Callable
    find_map: Callable
    classify: Callable
    is_linear: bool


def tokens_to_map(tokens, num_before=0):
    return tokens[:, num_before:].transpose(1, 2).unflatten(2, (8, 8))


CASES = {
    "torchvision_resnet": Case(
        LikeTorchvisionResNet,
        lambda m, x: m.layer2(m.layer1(m.bn1(m.conv1(x)).relu())),
        lambda m, r: m.fc(r.mean((2, 3))),
        True,
    ),
    "torchvision_mobilenet": Case(
        LikeTorchvisionMobileNet,
        lambda m, x: m.features(x),
        lambda m, r: m.classifier(r.mean((2, 3))),
        False,
    ),
    "torchvision_densenet": Case(
        LikeTorchvisionDenseNet,
        lambda m, x: m.features(x).relu(),
        lambda m, r: m.classifier(r.mean((2, 3))),
        True,
    ),
    "timm_convnext": Case(
        LikeTimmConvNeXt, lambda m, x: m.forward_features(x), lambda m, r: m.head(r), False
    ),
    "timm_maximum": Case(
        LikeTimmMaximum,
        lambda m, x: m.forward_features(x),
        lambda m, r: m.head[2](r.amax((2, 3))),
        False,
    ),
    "timm_vit": Case(
        lambda: LikeTimmViT("avg"),
        lambda m, x: tokens_to_map(m.forward_features(x), 1),
        lambda m, r: m.head(m.fc_norm(r.mean((2, 3)))),
        False,
    ),
    "hugging_face_swin": Case(
        LikeHuggingFaceSwin,
        lambda m, x: tokens_to_map(m.swin(x)["last_hidden_state"]),
        lambda m, r: m.classifier(r.mean((2, 3))),
        True,
    ),
    "own": Case(
        OwnModule,
        lambda m, x: m.body(x).relu(),
        lambda m, r: m.out(m.norm(m.pool(r).flatten(1))),
        False,
    ),
}


def build(case, seed=0):
    """The module with random weights and statistics, in training mode."""
    torch.manual_seed(seed)
    module = case.build()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0.0, 0.2)
            part.running_var.uniform_(0.5, 1.5)
    return module.train()
