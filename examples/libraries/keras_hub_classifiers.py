"""Every image classifier of KerasHub on a backbone as small as it comes.

`VARIANTS` has, for each class `*ImageClassifier`, what its head or its backbone can be asked for.
"""

NUM_CLASSES = 5
_SHAPE = (32, 32, 3)

_RESNET = {
    "image_shape": _SHAPE,
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 64],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
}
_CSPNET = {
    "image_shape": _SHAPE,
    "stem_filters": 8,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stem_padding": "same",
    "stackwise_depth": [1, 1],
    "stackwise_strides": [2, 2],
    "stackwise_num_filters": [8, 16],
    "block_type": "dark_block",
    "block_ratio": [0.5],
    "stage_type": "cs3",
}
_VIT = {
    "image_shape": (16, 16, 3),
    "patch_size": 4,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
}
_MOBILENET_V5 = {
    "image_shape": _SHAPE,
    "stackwise_block_types": [["er"], ["uir"]],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_filters": [[8], [16]],
    "stackwise_strides": [[2], [2]],
    "stackwise_act_layers": [["relu"], ["relu"]],
    "stackwise_exp_ratios": [[2.0], [2.0]],
    "stackwise_se_ratios": [[0.0], [0.0]],
    "stackwise_dw_kernel_sizes": [[0], [3]],
    "stackwise_dw_start_kernel_sizes": [[0], [0]],
    "stackwise_dw_end_kernel_sizes": [[0], [0]],
    "stackwise_exp_kernel_sizes": [[3], [0]],
    "stackwise_pw_kernel_sizes": [[1], [0]],
    "stackwise_num_heads": [[0], [0]],
    "stackwise_key_dims": [[0], [0]],
    "stackwise_value_dims": [[0], [0]],
    "stackwise_kv_strides": [[0], [0]],
    "stackwise_use_cpe": [[False], [False]],
    "num_features": 16,
    "use_msfa": False,
}
# Class of the backbone: its options.
BACKBONES = {
    "ResNetBackbone": _RESNET,
    "CSPNetBackbone": _CSPNET,
    "DeiTBackbone": _VIT | {"intermediate_dim": 8},
    "DenseNetBackbone": {"image_shape": _SHAPE, "stackwise_num_repeats": [1, 1], "growth_rate": 4},
    "EfficientNetBackbone": {
        "input_shape": _SHAPE,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [1, 1],
        "stackwise_input_filters": [16, 16],
        "stackwise_output_filters": [16, 24],
        "stackwise_expansion_ratios": [1, 2],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["v1", "v1"],
        "num_features": 32,
    },
    "HGNetV2Backbone": {
        "image_shape": _SHAPE,
        "depths": [1, 1],
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "stem_channels": [3, 8, 8],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": [(8, 8, 8, 1, 1, 3), (8, 8, 16, 1, 1, 3)],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, False],
    },
    "MiTBackbone": {
        "image_shape": _SHAPE,
        "layerwise_depths": [1, 1],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "hidden_dims": [8, 16],
    },
    "MobileNetBackbone": {
        "image_shape": _SHAPE,
        "stackwise_expansion": [[16]],
        "stackwise_num_blocks": [1],
        "stackwise_num_filters": [[16]],
        "stackwise_kernel_size": [[3]],
        "stackwise_num_strides": [[2]],
        "stackwise_se_ratio": [[None]],
        "stackwise_activation": [["relu"]],
        "stackwise_padding": [[1]],
        "output_num_filters": 32,
        "depthwise_filters": 8,
        "depthwise_stride": 1,
        "depthwise_residual": False,
        "last_layer_filter": 16,
    },
    "MobileNetV5Backbone": _MOBILENET_V5,
    "SwinTransformerBackbone": {
        "image_shape": _SHAPE,
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": 4,
    },
    "VGGBackbone": {
        "image_shape": (48, 48, 3),  # its head has a convolution of 7 x 7
        "stackwise_num_repeats": [1, 1],
        "stackwise_num_filters": [8, 16],
    },
    "ViTBackbone": _VIT | {"mlp_dim": 8},
    "XceptionBackbone": {
        "image_shape": (36, 36, 3),  # for a map that halves divide
        "stackwise_conv_filters": [[8, 8], [16, 16]],
        "stackwise_pooling": [True, False],
    },
}
_ANY_SIZE = {"image_shape": (None, None, 3)}
_POOLINGS = {f'pooling="{kind}"': ({}, {"pooling": kind}) for kind in ("avg", "max")}
_VGG = {"pooling_hidden_dim": 16}
_HIDDEN = {"head_hidden_size": 8}
_MSFA = {"use_msfa": True, "msfa_output_resolution": 4}
# Class: name of the variant: options of the backbone, options of the head.
VARIANTS = {
    "ImageClassifier": _POOLINGS
    | {
        f"{name}, image_shape=(None, None, 3)": (_ANY_SIZE, head)
        for name, (_, head) in _POOLINGS.items()
    },
    "CSPNetImageClassifier": {
        'stage_type="csp"': ({"stage_type": "csp"}, {}),
        'stage_type="dark" (DarkNet)': ({"stage_type": "dark", "block_ratio": [1.0]}, {}),
        'stage_type="cs3" (CSPDarkNet)': ({"stage_type": "cs3"}, {}),
        'pooling="max"': ({}, {"pooling": "max"}),
    },
    "DeiTImageClassifier": {
        'pooling="token"': ({}, {"pooling": "token"}),
        'pooling="gap"': ({}, {"pooling": "gap"}),
    },
    "DenseNetImageClassifier": _POOLINGS,
    "EfficientNetImageClassifier": _POOLINGS,
    "HGNetV2ImageClassifier": {
        name: (body, head | {"preprocessor": None}) for name, (body, head) in _POOLINGS.items()
    },
    "MiTImageClassifier": _POOLINGS,
    "MobileNetImageClassifier": {
        "": ({}, {"num_features": 16}),
        "image_shape=(None, None, 3)": (_ANY_SIZE, {"num_features": 16}),
    },
    "MobileNetV5ImageClassifier": {
        f'global_pool="{kind}", use_msfa={fused}': (
            _MSFA if fused else {},
            _HIDDEN | {"global_pool": kind},
        )
        for fused in (False, True)
        for kind in ("avg", "max", "avgmax", "catavgmax", "")
    }
    | {"image_shape=(None, None, 3)": (_ANY_SIZE, _HIDDEN)},
    "ResNetImageClassifier": {
        f"{name}, {version}": (body | {"use_pre_activation": version == "V2"}, head)
        for version in ("V1", "V2")
        for name, (body, head) in _POOLINGS.items()
    },
    "SwinTransformerImageClassifier": {"": ({}, {})},
    "VGGImageClassifier": {
        f'pooling="{kind}"': ({}, _VGG | {"pooling": kind}) for kind in ("avg", "max", "flatten")
    },
    "ViTImageClassifier": {
        'pooling="token"': ({}, {"pooling": "token"}),
        'pooling="token", intermediate_dim': ({}, {"pooling": "token", "intermediate_dim": 8}),
        'pooling="gap"': ({}, {"pooling": "gap"}),
        'pooling="gap", use_class_token=False': ({"use_class_token": False}, {"pooling": "gap"}),
        'pooling="gap", use_class_token=False, intermediate_dim': (
            {"use_class_token": False},
            {"pooling": "gap", "intermediate_dim": 8},
        ),
    },
    "XceptionImageClassifier": _POOLINGS,
}


def build(name, variant):
    """Build a variant of a class of KerasHub.

    Raises:
        LookupError: if this file has no small form of it.
    """
    import keras_hub

    if name not in VARIANTS:
        raise LookupError(f"examples/keras_hub_classifiers.py has no small {name}")
    body, head = VARIANTS[name][variant]
    cls = getattr(keras_hub.models, name)
    backbone = getattr(cls.backbone_cls, "__name__", "ResNetBackbone")
    options = BACKBONES[backbone] | body
    return cls(getattr(keras_hub.models, backbone)(**options), num_classes=NUM_CLASSES, **head)
