"""From a folder of photos to a small network in a file, and a page that says how good it is.

    python examples/distill_images.py --images=photos --teacher=efficientnet_v2_b0 \\
        --student=mobilenet_v3_small --export=litert,onnx --int8 --output=distilled

`photos` has a folder of images for each class; see images/folder.py for what else it may have. A
teacher is trained, or taken from a file that was; then the student, with labels only and distilled.
The same command goes on where it was killed. `distilled` then holds

report.html     what came out, to look at and to show
student.keras   the distilled student
exported/       its files for devices, and labels.txt with the names of the classes
images.npz      the images as networks saw them; networks/ and runs/ as in images/runs.py
"""

import pathlib
import shlex
import shutil
import sys
import time

import numpy as np
from absl import app, flags
from exports import runtimes
from images import networks, report, results, runs
from images.arrays import prepare_images
from images.runs import DISTILLED, LABELS
from training import command_line, folder_lock, machine, records


def check_flags(values):
    """Raise what the person at the keyboard can put right; return teacher and student."""
    unknown = [x for x in values.export if x not in runtimes.FORMATS]
    if unknown:
        known = ", ".join(runtimes.FORMATS)
        raise command_line.SetupError(f"Formats are {known}. Received: {', '.join(unknown)}")
    names = (
        networks.check_name(values.teacher, "teacher"),
        networks.check_name(values.student, "student"),
    )
    for name in names:
        if name.endswith(".keras") and not pathlib.Path(name).is_file():
            raise command_line.SetupError(f"There is no such file. Received: {name!r}")
    return names


def check_settings(output, settings):
    """Write the settings of a first run; raise a SetupError if those of a later one differ."""
    path = output / "settings.json"
    if not path.exists():
        records.write_json(path, settings)
        return
    written = records.read_json(path)
    differing = [
        f"--{x}={written.get(x)}, now {settings[x]}"
        for x in settings
        if written.get(x) != settings[x]
    ]
    if differing:
        raise command_line.SetupError(
            f"{output} was begun with other settings, and the networks would not be alike: "
            f"{'; '.join(differing)}. Pass those again, give another --output, or remove {output}."
        )


def distill_images(values, command):
    """Do all of it, or what is left of it.

    Args:
        values: the flags.
        command: of the program, for the page.
    """
    teacher, student = check_flags(values)
    output = pathlib.Path(values.output)
    images = prepare_images(values.images, output, values.image_size)
    _tell(images)
    settings = {"teacher": teacher, "student": student, "epochs": values.epochs}
    check_settings(output, settings)
    devices = runs.setup_devices()
    size = (len(images["classes"]), values.image_size)
    weights = runs.prepare_networks(output, teacher, student, *size)
    arguments = (weights, values.epochs, images["counts"])
    configs = runs.make_configs(output, teacher, student, *arguments)
    files = runs.train_all(output, configs, devices, images["classes"])
    shutil.copy(files[DISTILLED], output / "student.keras")
    found = _examine(output, files, configs, images)
    found |= _export(output, images, values)
    found |= {
        "networks": {
            role: f"{name}, {weights[role]}"
            for role, name in (("teacher", teacher), ("student", student))
        },
        "command": command,
        "image_size": values.image_size,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    report.write_page(output / "report.html", found)
    print("\n".join([report.make_title(found) + ".", *report.make_summary(found)]))
    print(f"The page: {output / 'report.html'}\nThe student: {output / 'student.keras'}")
    if found["exported"]:
        print(f"Its files, with labels.txt: {output / 'exported'}")


def _tell(images):
    """Print what the page says of the images."""
    for note in images["notes"]:
        print(note)
    for path, why in images["left_out"].items():
        print(f"left out: {path}: {why}")
    sums = {x: sum(y) if isinstance(y, list) else y for x, y in images["counts"].items()}
    print("Images: " + ", ".join(f"{x} {y}" for x, y in sums.items()) + ".", flush=True)


def _examine(output, files, configs, images):
    """Return what the page says of the networks."""
    config = configs[DISTILLED]
    jit_compile = machine.choose_jit_compile(config)
    labels, logits, numbers = results.measure_networks(files, config, jit_compile)
    scale = max(config.terms.distillation_loss.scales)
    with np.load(output / "images.npz") as arrays:
        regions = results.look_at_regions(files, arrays, labels, logits, scale)
    return {
        "images": images,
        "numbers": numbers,
        "comparison": results.compare_students(labels, logits[LABELS], logits[DISTILLED]),
        "confusions": results.count_confusions(labels, logits[DISTILLED]),
        "bins": {x: results.find_reliability(labels, y) for x, y in logits.items()},
        "regions": regions,
        "scale": scale,
        "runs": runs.describe_runs(output, configs),
    }


def _export(output, images, values):
    """Return the rows of the exported files, or why there are none."""
    if not values.export and not values.int8:
        return {"exported": [], "why_not": "Pass --export=litert for some."}
    print("Exporting and measuring the files ...", flush=True)
    folder, number = output / "exported", sum(images["counts"]["train"])
    with np.load(output / "images.npz") as arrays:
        options = (number, values.export, values.int8)
        rows, why_not = results.export(output / "student.keras", folder, arrays, *options)
        measured_on = min(results.EXPORTED, len(arrays["y_test"]))
    if why_not:
        print(f"No files were written: {why_not}")
    else:
        labels = "".join(f"{x}\n" for x in images["classes"])
        (folder / "labels.txt").write_text(labels, encoding="utf-8", errors="replace")
    return {"exported": rows, "why_not": why_not, "measured_on": measured_on}


def main(argv):
    """Take a folder to a student and a page."""
    values = flags.FLAGS
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    command_line.quieten()
    sys.stdout.reconfigure(errors="replace")  # names of files may hold bytes that are no letters
    command = shlex.join(["python", *sys.argv])
    try:
        with folder_lock.lock_workdir(pathlib.Path(values.output), "output"):
            distill_images(values, command)
    except (command_line.SetupError, records.FolderError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(
            f"error: {error}\nIf the disk is full, make room. Nothing that was finished is lost: "
            "the same command goes on."
        )
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from the last finished epoch.")


if __name__ == "__main__":
    flags.DEFINE_string("images", None, "Folder with a folder of images a class.", required=True)
    flags.DEFINE_string(
        "teacher", "efficientnet_v2_b0", "A trained network, as a .keras file, or a name to train."
    )
    flags.DEFINE_string(
        "student", "mobilenet_v3_small", "A network's name, or a .keras file of its architecture."
    )
    flags.DEFINE_list("export", "litert", f"Files to write, of {', '.join(runtimes.FORMATS)}.")
    flags.DEFINE_bool("int8", False, "Write a LiteRT file of 8 bits too.")
    flags.DEFINE_integer("image_size", 224, "Height and width of the images.", lower_bound=8)
    flags.DEFINE_integer("epochs", 40, "Epochs of each network.", lower_bound=1)
    flags.DEFINE_string("output", "distilled", "Folder of all that comes out.")
    app.run(main)
