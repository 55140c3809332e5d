"""One page that says what came out of a folder of images, in one file, without scripts."""

import numpy as np

from images import figures, html_page, runs
from images.html_page import escape, format_note, format_table
from images.runs import DISTILLED, LABELS, TEACHER

NAMES = {TEACHER: "teacher", LABELS: "student, labels only", DISTILLED: "student, distilled"}
_LEVEL = 0.05  # of McNemar's test
_MAX_MATRIX = 20  # classes of a confusion matrix that can be read
_PAIRS = 5
_HEAD_LETTERS = 4  # of classes over the columns of the matrix
_LISTED = 200  # files that were left out
_FORMATS = {
    "keras": "Keras",
    "litert": "LiteRT",
    "litert_int8": "LiteRT, 8 bits",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "tf_saved_model": "SavedModel",
}


def write_page(path, found):
    """Write the page.

    Args:
        path: of the file.
        found: dict of `images` (as of `arrays.prepare_images`), `numbers`, `comparison`,
            `confusions` (K, K), `bins`, `regions`, `scale` (as of `results`), `networks`
            (their names and weights), `exported` and `why_not`, `runs` (as of
            `runs.describe_runs`), `command`, `date`.
    """
    title = make_title(found)
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(x)}</p>" for x in make_summary(found)),
        "<h2>The networks on the test images</h2>",
        _list_networks(found),
        "<h2>Files for devices</h2>",
        _list_files(found),
        "<h2>What the networks see in the parts of some images</h2>",
        _show_regions(found),
        "<h2>What the distilled student takes for what</h2>",
        _show_confusions(found),
        "<h2>How far its certainty can be trusted</h2>",
        _show_reliability(found),
        "<h2>The images</h2>",
        _list_classes(found),
        _list_left_out(found["images"]["left_out"]),
        "<h2>What was run</h2>",
        _list_runs(found),
    ]
    html_page.write_page(path, title, parts)


def make_title(found):
    """Return in one sentence what came out."""
    own = found["numbers"][DISTILLED]
    return (
        f"A student of {own['parameters']:,} parameters tells {len(found['images']['classes'])} "
        f"classes apart and is right in {own['accuracy']:.1f} % of "
        f"{sum(found['images']['counts']['test']):,} test images"
    )


def make_summary(found):
    """Return what a person should take home, in sentences."""
    teacher, plain, distilled = (found["numbers"][x] for x in (TEACHER, LABELS, DISTILLED))
    ratio = teacher["parameters"] / distilled["parameters"]
    more = f", {ratio:.1f} times the student's," if ratio >= 1.05 else ""
    lines = [
        f"The teacher has {teacher['parameters']:,} parameters{more} and is right in "
        f"{teacher['accuracy']:.1f} %.",
        f"{_compare(found['comparison'], distilled['accuracy'] - plain['accuracy'])} Each was "
        "trained once; another start gives somewhat other figures.",
    ]
    if teacher["accuracy"] <= plain["accuracy"]:
        lines.append(
            "The teacher is no better than the student with labels only, so that there is little "
            "to learn from it: take a larger one, or one that saw more images, or more --epochs."
        )
    images = found["confusions"].sum(1)
    if distilled["accuracy"] <= 100.0 * images.max() / images.sum():
        lines.append(
            "Who always names the commonest class of the test is right as often as the distilled "
            "student: it has learned nothing yet. More images, or more --epochs, may change that."
        )
    return lines


def _compare(test, difference):
    """Say how the students differ, `difference` in points, and whether that could be chance."""
    if not test["only_first"] and not test["only_second"]:
        return "Distillation made no difference: both students get the same images right."
    if abs(difference) < 0.05:
        change = "Distillation made no difference to the student's accuracy"
    else:
        change = (
            f"Distilled, the student is {abs(difference):.1f} points "
            f"{'better' if difference > 0 else 'worse'} than trained with labels only"
        )
    chance = (
        "chance alone would seldom part them so far"
        if test["p"] < _LEVEL
        else "which could be chance"
    )
    return (
        f"{change}: {test['only_second']} images are right that are wrong without the teacher, "
        f"and {test['only_first']} the other way round; {chance} (McNemar's test, p = "
        f"{test['p']:.2g})."
    )


def _list_networks(found):
    rows = [["network", "right, %", "95 % interval", "parameters", "ECE, %", "NLL"]]
    for name, own in found["numbers"].items():
        low, high = own["interval"]
        rows.append(
            [
                NAMES[name],
                f"{own['accuracy']:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{own['parameters']:,}",
                f"{own['ece']:.1f}",
                f"{own['nll']:.3f}",
            ]
        )
    note = (
        "The interval is Wilson's: where the accuracy on very many such images would lie. ECE is "
        "how far certainty and accuracy are apart on average, NLL the mean negative "
        "log-likelihood; less is better. None of these images was seen in training, or to choose."
    )
    return format_table(rows) + format_note(note)


def _list_files(found):
    if not found["exported"]:
        return f"<p>None. {escape(found['why_not'])}</p>"
    rows = [["file", "MB", "ms an image", "right, %", "same class as Keras, %"]]
    for row in found["exported"]:
        name = _FORMATS[row["format"]]
        rows.append(
            [
                f"{name}: {row['file'].rpartition('/')[2]}",
                f"{row['megabytes']:.2f}",
                # Keras's own file is run by a program that is made for batches.
                "-" if row["format"] == "keras" else f"{row['milliseconds']:.2f}",
                f"{row['accuracy']:.1f}",
                f"{row['same_class']:.1f}",
            ]
        )
    size = found["image_size"]
    note = (
        f"All take RGB of 0 to 255 as floating point, ({size}, {size}, 3), and give a number for "
        "each class in the order of labels.txt, the largest for the likeliest. Milliseconds are "
        "those of one image on this machine's processor. Measured on "
        f"{found['measured_on']:,} test images."
    )
    return format_table(rows) + format_note(note)


def _show_regions(found):
    classes, scale = found["images"]["classes"], found["scale"]
    cards = []
    for entry in found["regions"]:
        panels = []
        for name in (TEACHER, DISTILLED):
            own = entry[name]
            source = figures.draw_cells(
                entry["image"], scale, own["classes"], own["complementary"], classes
            )
            says = classes[own["whole"]]
            panels.append(
                f'<figure><img alt="{escape(NAMES[name])}" src="{source}"><figcaption>'
                f"{escape(NAMES[name])}: {escape(says)}</figcaption></figure>"
            )
        cards.append(
            f'<div class="card"><b>{escape(classes[entry["label"]])}</b>'
            f"<div>{''.join(panels)}</div></div>"
        )
    note = (
        f"Up to three images that the distilled student gets right, then up to three that it gets "
        f"wrong, drawn at random; what it is stands above, what each network says of the whole "
        f"below, and what it says of {scale} x {scale} parts within them (cut short as in the "
        "table of the images). Blue: right or wrong as the whole. Orange, dashed: "
        "right where the whole is wrong, or wrong where it is right."
    )
    return format_note(note) + f'<div class="cards">{"".join(cards)}</div>'


def _show_confusions(found):
    classes, counts = found["images"]["classes"], found["confusions"]
    wrong = counts - np.diag(np.diag(counts))
    largest = np.argsort(wrong, axis=None)[::-1][:_PAIRS]
    pairs = [divmod(int(i), len(classes)) for i in largest if wrong.flat[i]]
    text = "; ".join(
        f"{classes[a]} is taken for {classes[b]} in {wrong[a, b]} of {counts[a].sum()}"
        for a, b in pairs
    )
    text = f"Most often: {text}." if pairs else "No test image was taken for another class."
    if len(classes) > _MAX_MATRIX:
        return f"<p>{escape(text)}</p>"
    head = "".join(f"<th>{escape(x)}</th>" for x in figures.shorten(classes, _HEAD_LETTERS))
    lines = []
    for i, name in enumerate(classes):
        fields = "".join(_shade(n, counts[i].sum(), i == j) for j, n in enumerate(counts[i]))
        lines.append(f"<tr><th>{escape(name)}</th>{fields}</tr>")
    return (
        f'<p>{escape(text)}</p><div class="wide"><table class="matrix"><thead><tr>'
        f"<th>is, taken for</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _shade(number, total, is_right):
    part = number / total if total else 0.0
    colour = "0,114,178" if is_right else "213,94,0"
    return f'<td style="background:rgba({colour},{0.6 * part:.2f})">{number or ""}</td>'


def _show_reliability(found):
    source = figures.draw_reliability(found["bins"], NAMES)
    note = (
        "On the grey line a network is right as often as it says; below it, it is too sure. "
        f"Points of fewer than {figures.LEAST} images are left out."
    )
    return f'<img class="chart" alt="reliability" src="{source}">' + format_note(note)


def _list_classes(found):
    images, counts = found["images"], found["confusions"]
    right = np.diag(counts)
    short = figures.shorten(images["classes"], _HEAD_LETTERS)
    rows = [["class", "short", "training", "validation", "test", "distilled right, %"]]
    for i, name in enumerate(images["classes"]):
        own = [images["counts"][x][i] for x in ("train", "validation", "test")]
        rate = f"{100 * right[i] / own[2]:.1f}" if own[2] else "-"
        rows.append([name, short[i], *map(str, own), rate])
    notes = [*images["notes"]]
    if images["counts"]["unlabelled"]:
        notes.append(
            f"{images['counts']['unlabelled']:,} images have no label: the distilled student "
            "learned from what the teacher says of them, the others did not see them."
        )
    return format_table(rows) + "".join(f"<p>{escape(x)}</p>" for x in notes)


def _list_left_out(left_out):
    if not left_out:
        return "<p>No file was left out.</p>"
    listed = list(left_out.items())[:_LISTED]
    lines = "".join(f"<li>{escape(path)}: {escape(why)}</li>" for path, why in listed)
    more = f"<li>and {len(left_out) - _LISTED} more</li>" if len(left_out) > _LISTED else ""
    number = f"{len(left_out)} file{'s were' if len(left_out) > 1 else ' was'} left out"
    return f"<details open><summary>{number}</summary><ul>{lines}{more}</ul></details>"


def _list_runs(found):
    settings, results = found["runs"]["settings"], found["runs"]["results"]
    rows = [["run", "epochs", "learning rate", "best on validation, %", "time"]]
    for name, config in settings.items():
        result = results[name]
        rows.append(
            [
                NAMES[name],
                f"{config['epochs']}",
                f"{config['learning_rate']:g}",
                f"{result['best_validation_accuracy']:.1f}, epoch {result['best_epoch']}",
                runs.format_time(result["seconds"]),
            ]
        )
    texts = [f"{role}: {text}" for role, text in found["networks"].items()]
    scales = ", ".join(map(str, settings[DISTILLED]["terms"]["distillation_loss"]["scales"]))
    texts.append(
        f"Both students start from the same weights. Distillation: SD-KD, scales {scales}. Random "
        "crops and flips in the data. Of each run the epoch that is best on the validation images "
        "was tested."
    )
    versions = {x: y for x, y in found["runs"]["versions"].items() if y}
    words = ", ".join(f"{x} {y}" for x, y in versions.items())
    return (
        format_table(rows)
        + "".join(f"<p>{escape(x)}</p>" for x in texts)
        + f"<pre>{escape(found['command'])}</pre>"
        + format_note(f"{found['date']}; {words}")
    )
