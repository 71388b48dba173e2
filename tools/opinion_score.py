# SPDX-License-Identifier: Apache-2.0
"""Blinded opinion score: ``python -m tools.opinion_score page ...`` and ``python -m tools.opinion_score table ...``.

Zhu, Yang and Lio 2019, sec. 2.4: a reader scores shuffled images of all methods, the truth among them, from 0
(non-diagnostic) to 4 (great), and marks what is wrong: over-smooth (S), motion and other artefacts (A), unrealistic
textures (U), too noisy or low SNR (N). Table 1 gives each method's mean and standard deviation and all counts.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import PILReader
from monai.transforms import LoadImage
from PIL import Image

from common.handlers.scores import markdown_table
from common.io.find import stem_of
from common.utils.values import quantity
from tools.command import run_command

SCORES = ("non-diagnostic", "poor", "fair", "good", "great")
MARKS = {"S": "over-smooth", "A": "artefacts", "U": "unrealistic textures", "N": "noisy"}
IMAGES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".bmp")
EDGE = 512  # of a shown image, in pixels
NAME = "opinion_score"


def page(out: str, seed: int = 0, count: int = 100, **methods: str) -> None:
    """Write a page of shuffled images for a reader, and the key that tells which is which.

    Give a folder of results for each method, such as ``--truth DIR --msgan DIR --wgan DIR``; files of one name (up to
    the methods' postfixes, such as _sr_region) are the same case. Only cases that all methods have are shown, in the
    grey scale of the truth, or of the first method without one. Of a volume the middle slice is shown. The evaluation
    of lesion_msgan writes such folders, pictures/METHOD. The page needs no network and no server: open it in a
    browser, score with the keys 0 to 4 and S, A, U, N, and download the answers. Keep the key away from the reader.
    Page, key and answers carry a digest of the pictures in their order: a page made anew with other pictures or another
    seed is another page, with answers and a key of its own.

    Args:
        out: the page's file, such as scores.html; the key is written beside it as scores.key.json
        seed: of the order
        count: cases at most, drawn at random (the paper shows 100)
        methods: a folder of images for each method
    """
    if len(methods) < 2:
        raise ValueError("give a folder for at least two methods, such as --truth DIR --msgan DIR")
    seed, count = quantity(seed, "seed", least=0, whole=True), quantity(count, "count", least=1, whole=True)
    files = {name: _images(Path(str(folder))) for name, folder in methods.items()}
    cases = sorted(set.intersection(*(set(found) for found in files.values())))
    if not cases:
        examples = ", ".join(f"{name}: {next(iter(found))}" for name, found in files.items())
        raise ValueError(f"no case is in all folders ({examples})")
    shuffled = random.Random(seed)
    chosen = sorted(shuffled.sample(cases, min(count, len(cases))))
    items = [(case, name) for case in chosen for name in files]
    shuffled.shuffle(items)
    leading = "truth" if "truth" in files else next(iter(files))
    for case in chosen:
        _check_sizes(case, {name: found[case] for name, found in files.items()})
    pictures = []
    for number, (case, name) in enumerate(items):
        window = _window(files[leading][case])  # one grey scale for all pictures of a case
        pictures.append({"id": f"{number:04d}", "png": _png(files[name][case], window)})
    digest = hashlib.sha256(json.dumps(pictures).encode()).hexdigest()
    target = Path(str(out)).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    text = resources.files("tools").joinpath("opinion_score.html").read_text(encoding="utf-8")
    for place, content in {"/*PICTURES*/[]": pictures, "/*NAME*/": target.stem, "/*DIGEST*/": digest}.items():
        text = text.replace(place, json.dumps(content))
    target.write_text(text, encoding="utf-8")
    key = target.with_suffix(".key.json")
    lines = {f"{number:04d}": {"case": case, "method": name} for number, (case, name) in enumerate(items)}
    known = {"page": digest, "methods": list(files), "pictures": lines}
    key.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(f"{len(items)} pictures of {len(chosen)} cases and {len(files)} methods in {target}; the key in {key}")


def table(answers: str, key: str, out: str | None = None) -> None:
    """Turn a reader's answers into the paper's table 1: mean and deviation, counts of scores, counts of marks.

    Args:
        answers: the file that the page downloads, JSON; refused where it comes from another page than the key's
        key: the file written beside the page
        out: Markdown file to write the table to
    """
    given = _read(answers, "answers")
    known = _read(key, "pictures")
    methods = _methods(known, key)
    if given.get("page") != known["page"]:
        raise ValueError(f"{answers}: given on another page than the one that {key} belongs to")
    for number, answer in given["answers"].items():
        if number not in known["pictures"]:
            raise ValueError(f"{answers}: picture {number} is not in {key}")
        if not _is_answer(answer):
            raise ValueError(f"{answers}: the answer for picture {number} is not a score of 0 to 4 with marks of SAUN")
        methods[known["pictures"][number]["method"]].append(answer)
    missing = len(known["pictures"]) - len(given["answers"])
    rows = [[name, *_row(scored)] for name, scored in methods.items()]
    header = ["method", "pictures", "MOS", *(score.capitalize() for score in SCORES), *MARKS]
    text = markdown_table(header, rows)
    notes = [f"{mark}: {meaning}" for mark, meaning in MARKS.items()]
    text += "\n\n" + ", ".join(notes) + (f"; {missing} picture(s) not scored" if missing else "") + "\n"
    print(text)
    if out:
        Path(str(out)).write_text(text, encoding="utf-8")


def _row(answers: Sequence[Mapping]) -> list[str]:
    scores = [answer["score"] for answer in answers]
    if not scores:
        return ["0", "-", *["0"] * (len(SCORES) + len(MARKS))]
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    counts = [scores.count(i) for i in range(len(SCORES))]
    marks = [sum(mark in answer.get("marks", "") for answer in answers) for mark in MARKS]
    return [str(len(scores)), f"{statistics.fmean(scores):.2f} ± {deviation:.3f}", *map(str, counts + marks)]


def _is_answer(answer: Any) -> bool:
    if not isinstance(answer, dict) or type(answer.get("score")) is not int:  # true is no score
        return False
    marks = answer.get("marks", "")
    return answer["score"] in range(len(SCORES)) and isinstance(marks, str) and not set(marks) - set(MARKS)


def _methods(known: Mapping, key: str) -> dict[str, list[Mapping]]:
    """An empty list of answers for each of a key's methods."""
    names, lines = known.get("methods"), known["pictures"].values()
    if (
        not isinstance(known.get("page"), str)
        or not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or not all(isinstance(line, dict) and line.get("method") in names for line in lines)
    ):
        raise ValueError(f"{key}: not a key that this tool wrote beside a page")
    return {name: [] for name in names}


def _read(path: str, part: str) -> dict:
    try:
        content = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path}: not a JSON file") from error
    if not isinstance(content, dict) or not isinstance(content.get(part), dict):
        raise ValueError(f"{path}: holds no {part}; give the page's answers and the key written beside the page")
    return content


def _images(folder: Path) -> dict[str, Path]:
    """Images of a folder by case; full pictures are left out where a folder has the regions alone, too."""
    if not folder.expanduser().is_dir():
        raise ValueError(f"{folder}: no such folder")
    paths = [p for p in sorted(folder.expanduser().rglob("*")) if p.name.lower().endswith(IMAGES)]
    regions = [p for p in paths if stem_of(p).endswith("_sr_region")]
    found = {stem_of(p).removesuffix("_sr_region").removesuffix("_sr"): p for p in regions or paths}
    if not found:
        raise ValueError(f"{folder}: no images")
    return found


def _slice(path: Path) -> np.ndarray:
    """Grey picture ``(rows, columns)``, of a volume the middle slice with its second axis pointing up."""
    volume = path.name.lower().endswith((".nii", ".nii.gz"))
    reader = None if volume else PILReader(converter=lambda picture: picture.convert("F"))
    try:
        image = LoadImage(reader, image_only=True, dtype=np.float32)(str(path)).numpy()
    except Exception as error:
        raise ValueError(f"{path}: cannot be read") from error
    if image.ndim == 3:
        image = image[:, :, image.shape[2] // 2]
    if image.ndim != 2:
        raise ValueError(f"{path}: neither a picture nor a volume")
    return image.T[::-1] if volume else image.T


def _check_sizes(case: str, paths: Mapping[str, Path]) -> None:
    """A crop beside a whole slice would tell the reader which method it is."""
    sizes = {name: " x ".join(map(str, _slice(path).shape[::-1])) for name, path in paths.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"case {case}: the methods' pictures differ in size ({told}); give results of one region")


def _window(path: Path) -> tuple[float, float]:
    low, high = np.percentile(_slice(path), [0.5, 99.5])
    return float(low), float(high) if high > low else float(low) + 1.0


def _png(path: Path, window: tuple[float, float]) -> str:
    """A picture for the page, as text; whole pixels stay visible, so no method is flattered by smoothing."""
    low, high = window
    grey = Image.fromarray((((_slice(path) - low) / (high - low)).clip(0, 1) * 255).round().astype(np.uint8))
    factor = max(1, EDGE // max(grey.size))
    shown = grey.resize((grey.width * factor, grey.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    shown.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def main() -> None:
    """Run the command line."""
    run_command({"page": page, "table": table}, NAME, [RuntimeError], lambda error: str(error).splitlines()[-1])


if __name__ == "__main__":
    main()
