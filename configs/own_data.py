"""A data set of your own: any pair of networks on the images of an `.npz` file.

    python examples/train.py --config=configs/own_data.py:wrn_16_2 --config.dataset=FILE.npz
    python examples/train.py --config=configs/own_data.py:wrn_16_2,resnet8,sd_kd \\
        --config.dataset=FILE.npz \\
        --config.teacher_checkpoint=runs/own_data/wrn_16_2/official-seed0/best.keras
    python examples/study.py --config=configs/studies.py:own --config.data.dataset=FILE.npz

The first trains a network with labels only, the second is one experiment, the third compares
methods. The file has the arrays x_train, y_train, x_test and y_test, as np.savez writes them:
square images as bytes, and their classes from 0. --config.teacher_checkpoint=FILE.keras takes a
teacher of your own, and --config.student=FILE.keras a student, of which only the architecture
counts.

Cost: 40 epochs of your images.
Results: yours.
"""

from configs import cifar100, recipes

RECIPE = recipes.SGD | {
    "dataset": "data.npz",
    "num_classes": None,  # what the file has
    "image_size": None,
    "validation_examples": 1000,
    "epochs": 40,
    "milestones": (24, 32, 37),
    # Crops and flips; who mirrors letters has other classes. Without, the teacher can be cached.
    "augment": False,
}
SETTINGS = recipes.KD | {
    "warmup_of_programs": 5,
}
_SMALL = ("cnn_8_16_32", "cnn_16_32_64_64", "cnn_32_64_128_128")
NETWORKS = cifar100.NETWORKS | {name: {"student": f"small/{name}"} for name in _SMALL}
# Nobody knows which pairs will be alike: all have the scales of unlike ones.
PAIRS = {
    f"{teacher},{student}": {"scales": (1, 2, 4), "beta": 8.0}
    for teacher in NETWORKS
    for student in NETWORKS
}
TABLES: dict = {"labels_only": dict.fromkeys(NETWORKS)}
EXPERIMENTS = recipes.Experiments("own_data", "cifar100", RECIPE, SETTINGS, NETWORKS, PAIRS, TABLES)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
