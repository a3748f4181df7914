"""A model's card, in Markdown: what a reader must know before they use it, as far as it is known.

The sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993).
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from glr_assets.markdown import Markup, code, escape, table
from glr_assets.training.record import ModelRecord

#: Licences that are told by themselves; the rest is summed up.
LICENCES_TOLD = 12
_EMBEDDER = "embedder"


def card(record: ModelRecord) -> str:
    """The card of a version, from its record alone."""
    sections = {
        "What it is": _what(record),
        "Intended use": _use(record),
        "Factors": (
            "How well a landmark is told depends most on how many photographs of it trained; figures are given by it. "
            "Views, seasons, light and cameras that the training photographs lack are told worse, and are not measured."
        ),
        "Metrics": _metrics(record),
        "Training data": _training_data(record),
        "Evaluation data": _evaluation_data(record),
        "Figures": _figures(record),
        "Rights and people": _rights(record),
        "Limits": _limits(record),
        "How to load it": _loading(record),
    }
    title = f"# {_name(record)}, version {escape(record.version)}"
    return "\n\n".join([title, *(f"## {name}\n\n{text}" for name, text in sections.items())]) + "\n"


def _name(record: ModelRecord) -> str:
    if record.model == _EMBEDDER:
        return "Landmark embedder"
    return f"Landmark classifier of group {escape(record.model.rsplit('/', 1)[-1])}"


def _what(record: ModelRecord) -> str:
    section = record.recipe[_EMBEDDER if record.model == _EMBEDDER else "groups"]
    brought = record.origin == "brought in"
    network = (
        f"brought in as TorchScript ({code(PurePath(section['torchscript']).name)})"
        if brought
        else escape(section["backbone"])
    )
    gives = "numbers, a vector" if record.model == _EMBEDDER else "logits, one a class"
    start = "" if brought else f"trained here from {escape(section.get('weights') or 'random weights')}"
    return table(
        ("", ""),
        [
            ("network", Markup(", ".join(part for part in (network, start) if part))),
            ("parameters", f"{record.parameters:,}"),
            ("takes", f"a photograph squeezed to {record.image_size} × {record.image_size} pixels"),
            ("gives", f"{record.outputs} {gives}"),
            ("seed", record.seed),
            ("version of the code", record.code_version),
            ("libraries", ", ".join(f"{name} {number}" for name, number in record.libraries.items())),
        ],
    )


def _use(record: ModelRecord) -> str:
    if record.model == _EMBEDDER:
        made_for = (
            "To find photographs of the same landmark: vectors of the same place have a high cosine. It is made for "
            "the search, the submission and the recognition service of this platform."
        )
    else:
        made_for = (
            f"To tell the {record.landmarks:,} landmarks of its group apart, together with the other groups' "
            "classifiers and `group_calibration`, which makes their answers comparable."
        )
    return (
        f"{made_for}\n\nIt is not made to recognise people, to tell with certainty where a photograph was taken, or to "
        "decide anything about a person."
    )


def _metrics(record: ModelRecord) -> str:
    if record.model == _EMBEDDER:
        return (
            "Top-1: share of held-out photographs whose nearest photograph, of at most five that trained of each "
            "landmark asked of, shows the same landmark. The official metrics (GAP, top-1, mAP@100) are those of "
            "`evaluation`, once it is made with this version; `model_comparison` has them beside other versions'."
        )
    return (
        "Top-1: share of held-out photographs of the group's landmarks whose highest logit is their landmark's. What "
        "all groups are worth together is told by `group_calibration`."
    )


def _training_data(record: ModelRecord) -> str:
    learned = f"{_count(record.training_images, 'photograph')} of {_count(record.landmarks, 'landmark')}"
    others = f", and {record.outsiders:,} of others as a class of their own" if record.outsiders else ""
    told = f"{learned}{others}."
    if record.origin == "brought in":
        saw = f"{learned}, to centre and whiten by" if record.recipe[_EMBEDDER]["whitening"] else "none"
        told = f"What it was trained on elsewhere is not known here. Of this platform's photographs it saw {saw}."
    versions = [(name, code(digest[:12])) for name, digest in record.data_versions.items()]
    return f"{told} Data versions (digests of content):\n\n" + table(("input", "version"), versions)


def _evaluation_data(record: ModelRecord) -> str:
    return (
        f"{_count(record.held_out, 'photograph')} of the same landmarks, held out of training by the recipe's seed. "
        "They are from the same source as those that trained: figures elsewhere are lower."
    )


def _figures(record: ModelRecord) -> str:
    rows: list[tuple[Any, ...]] = [("epochs", record.epochs), ("loss of the last epoch", _number(record.loss))]
    told = table(
        ("figure", "value"),
        ([] if record.origin == "brought in" else rows) + [("held-out top-1", _number(record.validation_top1))],
    )
    if not record.by_class_size:
        return told + "\n\nNo photograph was held out, so nothing is known of landmarks by their size."
    sizes = [(f.range, f.landmarks, f.images, _number(f.right)) for f in record.by_class_size]
    return (
        told + "\n\n" + table(("images a landmark that trained", "landmarks", "held-out photographs", "top-1"), sizes)
    )


def _rights(record: ModelRecord) -> str:
    rights = record.rights
    # The order of a dictionary is lost in the record's file.
    first = sorted(rights.licences.items(), key=lambda item: (-item[1], item[0]))[:LICENCES_TOLD]
    rest = sum(rights.licences.values()) - sum(count for _, count in first)
    rows: list[tuple[Any, ...]] = [(licence, f"{count:,}") for licence, count in first]
    rows += [(f"{len(rights.licences) - len(first)} others", f"{rest:,}")] if rest else []
    rows += [("not known", f"{rights.unknown:,}")] if rights.unknown else []
    told = table(("licence", "photographs"), rows)
    return (
        f"{told}\n\nThe photographs are by {_count(rights.authors, 'known author')}. `train_attribution` names them "
        "image by image, and `glr export` puts the names beside the images. Photographs of landmarks show passers-by; "
        "faces are neither looked for nor removed."
    )


def _limits(record: ModelRecord) -> str:
    limits = [
        "It knows the landmarks it was trained on and no other; of any other photograph it still gives an answer. "
        + (
            "The penalties and the calibration behind it say how likely that is to be right."
            if record.model == _EMBEDDER
            else "Its own softmax does not say how likely that is to be right; `group_calibration` does."
        ),
        "Landmarks that look alike, and views inside or from far away, are confused; `evaluation` names the pairs.",
        "Photographs are squeezed to a square: very long panoramas lose most.",
    ]
    few = [f for f in record.by_class_size if f.images < 30]
    if few:
        told = ", ".join(f"{f.range} ({f.images})" for f in few)
        limits.append(f"Fewer than 30 held-out photographs stand behind the figures of these class sizes: {told}.")
    if record.without_onnx:
        limits.append(f"There is no ONNX file: {escape(record.without_onnx)}.")
    return "\n".join(f"- {limit}" for limit in limits)


def _loading(record: ModelRecord) -> str:
    after = "vectors = torch.nn.functional.normalize(module(pixels))  # cosine = inner product"
    if record.model != _EMBEDDER:
        after = "logits = module(pixels)  # classes in the order of config.json's landmark_ids"
    lines = [
        "```python",
        "import cv2, numpy as np, torch",
        "",
        f'module = torch.jit.load("{record.script}").eval()',
        'image = cv2.cvtColor(cv2.imread("photograph.jpg"), cv2.COLOR_BGR2RGB)',
        f"image = cv2.resize(image, ({record.image_size}, {record.image_size}), interpolation=cv2.INTER_AREA)",
        "pixels = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
        "pixels = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)",
        after,
        "```",
    ]
    if record.onnx:
        lines += [
            "",
            "```python",
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{record.onnx}")',
            'output = session.run(["output"], {"pixels": pixels.numpy()})[0]  # any number of images at once',
            "```",
        ]
    return "\n".join(lines)


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
