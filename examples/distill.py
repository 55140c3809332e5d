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

import train
from training import command_line


def main(config):
    """Distil and report."""
    if config.method == "ce":
        raise command_line.SetupError(
            "This config trains with labels only; that is examples/train_teacher.py. "
            f"Received: {config.cell}"
        )
    train.main(config)


if __name__ == "__main__":
    command_line.define_flags()
    command_line.launch(main)
