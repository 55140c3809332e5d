"""Distil a teacher into a student: one cell of one of the paper's tables.

    python examples/distill.py --config=configs/cifar100.py:resnet32x4,shufflenet_v1,sd_dkd \\
        --config.teacher_checkpoint=resnet32x4.pth

The method is one of configs/methods.py, or a sum of them, as `sd_kd+sp`.

The teacher is a `.keras` file, as `train_teacher.py` and `convert_checkpoint.py` write them, or a
PyTorch checkpoint of the original network. The folder of the run, `--workdir`, then holds the
student as `last.keras` and `best.keras`, the log and the result. The same command goes on with a
run that was killed. `--config.reading=paper` follows the paper's text where its authors' code
differs, `--config.smoke` is a small form on data made on the spot, and `--config.KEY=value` changes
any setting, as `--config.terms.distillation_loss.weight=0.5`. `--distribute` trains on all devices;
on PyTorch, start the program with torchrun.
"""

import keras
from absl import flags
from training import command_line, experiment, machine


def distill(config, workdir, distribute=False):
    """Distil as a config says and return the result of the run."""
    devices = machine.setup_devices(config, distribute)

    def build_model(image_shape, *counts):
        teacher = experiment.load_teacher(config, image_shape)
        # Whatever the teacher took from the generators, a seed has one student to start from.
        keras.utils.set_random_seed(config.seed)
        student = experiment.build_network(config, config.student, image_shape)
        return experiment.build_distiller(config, teacher, student, *counts), student

    return experiment.train(config, workdir, devices, build_model)


def main(config):
    """Distil and report."""
    if config.method == "ce":
        raise command_line.SetupError(
            "This config trains with labels only; that is examples/train_teacher.py. "
            f"Received: {config.cell}"
        )
    workdir = command_line.choose_workdir(config)
    result = distill(config, workdir, flags.FLAGS.distribute)
    experiment.report(result, workdir)


if __name__ == "__main__":
    command_line.define_flags()
    command_line.launch(main)
