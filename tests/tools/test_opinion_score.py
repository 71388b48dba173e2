# SPDX-License-Identifier: Apache-2.0
"""The blinded opinion score: shuffled page, key, and the paper's table of the answers."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tools import opinion_score

TOOL = opinion_score


@pytest.fixture
def results(tmp_path):
    """Three methods' results for three cases: volumes' regions, pictures, and the truth without postfix."""
    for method, (shade, ending) in {"truth": (0, ""), "msgan": (60, "_sr_region"), "wgan": (120, "_sr")}.items():
        folder = tmp_path / method
        folder.mkdir()
        picture = np.full((20, 30), shade, np.uint8)
        picture[:10, :5] = 255
        Image.fromarray(picture).save(folder / f"a{ending}.png")
        volume = np.full((30, 20, 5), shade, np.float32)
        volume[:5, 10:, 2] = 255
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"b{ending}.nii.gz")
        if method != "wgan":
            Image.fromarray(picture).save(folder / f"c{ending}.png")
    Image.fromarray(np.zeros((80, 80), np.uint8)).save(tmp_path / "msgan" / "a_sr.png")  # the full picture beside it
    return {f"--{name}": tmp_path / name for name in ("truth", "msgan", "wgan")}


@pytest.fixture
def page(command, results, tmp_path):
    command("page", "--out", tmp_path / "scores.html", *[word for pair in results.items() for word in pair])
    key = json.loads((tmp_path / "scores.key.json").read_text(encoding="utf-8"))
    return tmp_path / "scores.html", key


def pictures(text):
    return json.loads(re.search(r"const pictures = (\[.*\]);", text)[1])


def test_the_page_shows_every_method_of_the_common_cases_in_one_grey_scale(page):
    text, key = page[0].read_text(encoding="utf-8"), page[1]
    shown = pictures(text)
    assert len(shown) == 6 and key["methods"] == ["truth", "msgan", "wgan"]
    assert {(p["case"], p["method"]) for p in key["pictures"].values()} == {
        (case, method) for case in "ab" for method in key["methods"]
    }
    greys = {"truth": 0, "msgan": 60, "wgan": 120}
    for picture in shown:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["png"]))))
        known = key["pictures"][picture["id"]]
        assert image.shape == (340, 510)  # whole multiples of 20 x 30
        assert image[-1, -1] == greys[known["method"]] and image[0, 0] == 255  # upright


def test_the_page_gives_nothing_away_and_loads_nothing(page):
    text = page[0].read_text(encoding="utf-8")
    bare = re.sub(r'"png": "[^"]*"', "", text)
    assert not any(word in bare for word in ("msgan", "wgan", "truth"))
    assert not re.search(r"(src|href)=|https?://|@import", bare)

    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.ids = [], []

        def handle_starttag(self, tag, attrs):
            self.ids += [value for name, value in attrs if name == "id"]
            if tag not in ("meta", "img"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and len(set(tags.ids)) == len(tags.ids)
    assert {"picture", "scores", "marks", "save"} <= set(tags.ids)


def test_order_follows_from_the_seed_and_the_count_limits_the_cases(command, results, tmp_path, page):
    words = [word for pair in results.items() for word in pair]
    for seed, name in ((0, "again"), (1, "other")):
        command("page", "--out", tmp_path / f"{name}.html", "--seed", seed, *words)
    again, other = (json.loads((tmp_path / f"{n}.key.json").read_text(encoding="utf-8")) for n in ("again", "other"))
    assert again == page[1] and other != page[1]
    command("page", "--out", tmp_path / "one.html", "--count", 1, *words)
    assert len(json.loads((tmp_path / "one.key.json").read_text(encoding="utf-8"))["pictures"]) == 3


def test_the_truth_sets_the_grey_scale_wherever_it_is_named(command, results, tmp_path):
    for number, order in enumerate((["--truth", "--msgan"], ["--msgan", "--truth"])):
        for folder, top in (("truth", 200), ("msgan", 100)):
            picture = np.tile(np.linspace(0, top, 30).round().astype(np.uint8), (20, 1))
            Image.fromarray(picture).save(tmp_path / folder / f"d{'_sr_region' if folder == 'msgan' else ''}.png")
        command("page", "--out", tmp_path / f"{number}.html", *[word for n in order for word in (n, results[n])])
        key = json.loads((tmp_path / f"{number}.key.json").read_text(encoding="utf-8"))["pictures"]
        shown = pictures((tmp_path / f"{number}.html").read_text(encoding="utf-8"))
        tops = {
            key[p["id"]]["method"]: np.asarray(Image.open(io.BytesIO(base64.b64decode(p["png"])))).max()
            for p in shown
            if key[p["id"]]["case"] == "d"
        }
        assert tops["truth"] == 255 and 120 < tops["msgan"] < 135


SCRIPT = """
const elements = {}, listeners = {};
function element(id) {
  return elements[id] ||= {id, attributes: {}, listeners: {}, children: [], append(x) { elements[x.id] = x; },
    setAttribute(k, v) { this.attributes[k] = v; }, addEventListener(k, f) { this.listeners[k] = f; },
    blur() {}, click() { if (this.listeners.click) this.listeners.click(); }};
}
let saved = null;
globalThis.document = {getElementById: element, body: {}, addEventListener(k, f) { listeners[k] = f; },
  createElement() { return {attributes: {}, listeners: {}, setAttribute(k, v) { this.attributes[k] = v; },
    addEventListener(k, f) { this.listeners[k] = f; }, blur() {}, click() {}}; }};
globalThis.localStorage = {getItem: () => null, setItem() { throw new Error("not allowed from a file"); }};
globalThis.Blob = class { constructor(parts) { saved = parts[0]; } };
URL.createObjectURL = () => "blob:"; URL.revokeObjectURL = () => {};
"""
TAIL = """
const press = key => listeners.keydown({key, target: document.body, preventDefault() {}});
["3", "s", "n", "ArrowRight", "0", "U", "u", "Enter", "4", "a", "ArrowLeft", "1", "x", "9"].forEach(press);
elements.save.listeners.click();
console.log(JSON.stringify({saved, where: elements.where.textContent, pressed: elements.score1.attributes}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_keys_score_and_mark_and_the_answers_become_the_table(command, page, tmp_path, capsys):
    script = re.search(r"<script>(.*)</script>", page[0].read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "page.js").write_text(SCRIPT + script + TAIL, encoding="utf-8")
    done = subprocess.run(["node", tmp_path / "page.js"], capture_output=True, encoding="utf-8", check=True)
    told = json.loads(done.stdout)
    assert told["where"] == "image 2 of 6, 3 scored" and told["pressed"]["aria-pressed"] is True
    (tmp_path / "answers.json").write_text(told["saved"], encoding="utf-8")
    given = json.loads(told["saved"])["answers"]
    assert given == {
        "0000": {"marks": "SN", "score": 3},
        "0001": {"marks": "", "score": 1},
        "0002": {"marks": "A", "score": 4},
    }
    command("table", "--answers", tmp_path / "answers.json", "--key", page[0].with_suffix(".key.json"))
    assert "3 picture(s) not scored" in capsys.readouterr().out


def answers(path, key, given):
    """Answers by (case, method)."""
    numbers = {(p["case"], p["method"]): number for number, p in key["pictures"].items()}
    content = {numbers[place]: {"score": score, "marks": marks} for place, (score, marks) in given.items()}
    path.write_text(json.dumps({"answers": content}), encoding="utf-8")
    return path


def test_the_paper_s_table(command, page, tmp_path, capsys):
    given = {("a", "truth"): (4, ""), ("b", "truth"): (3, "A"), ("a", "msgan"): (4, "SU"), ("b", "msgan"): (1, "U")}
    path = answers(tmp_path / "answers.json", page[1], given)
    command("table", "--answers", path, "--key", page[0].with_suffix(".key.json"), "--out", tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    rows = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines()[2:5]}
    #                        MOS            0    1    2    3    4    S    A    U    N
    assert rows["truth"] == ["2", "3.50 ± 0.707", "0", "0", "0", "1", "1", "0", "1", "0", "0"]
    assert rows["msgan"] == ["2", "2.50 ± 2.121", "0", "1", "0", "0", "1", "1", "0", "2", "0"]
    assert rows["wgan"] == ["0", "-", *["0"] * 9]
    assert "Poor" in text.splitlines()[0] and "2 picture(s) not scored" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "not a JSON file"),
        ('{"other": 1}', "holds no answers"),
        ('{"answers": {"9999": {"score": 1}}}', "picture 9999 is not in"),
        ('{"answers": {"0000": {"score": 5}}}', "not a score of 0 to 4"),
        ('{"answers": {"0000": {"score": 1, "marks": "X"}}}', "not a score of 0 to 4"),
    ],
)
def test_answers_that_cannot_be(command, page, tmp_path, content, message):
    (tmp_path / "answers.json").write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        command("table", "--answers", tmp_path / "answers.json", "--key", page[0].with_suffix(".key.json"))


def test_folders_that_cannot_be(command, results, tmp_path):
    (tmp_path / "empty").mkdir()
    for words, message in (
        (("--truth", tmp_path / "none", "--msgan", tmp_path / "msgan"), "no such folder"),
        (("--truth", tmp_path / "truth"), "at least two methods"),
        (("--truth", tmp_path / "truth", "--other", tmp_path / "empty"), "no images"),
    ):
        with pytest.raises(SystemExit, match=message):
            command("page", "--out", tmp_path / "p.html", *words)
    Image.fromarray(np.zeros((80, 80), np.uint8)).save(tmp_path / "truth" / "c.png")  # the region's slice as a whole
    words = [word for name in ("--truth", "--msgan") for word in (name, results[name])]
    message = r"case c: the methods' pictures differ in size \(truth 80 x 80, msgan 30 x 20\); give"
    with pytest.raises(SystemExit, match=message):
        command("page", "--out", tmp_path / "p.html", *words)
    assert not (tmp_path / "p.html").exists()
    (tmp_path / "truth" / "b.nii.gz").write_bytes(b"no")
    with pytest.raises(SystemExit, match=r"b.nii.gz: cannot be read"):
        command("page", "--out", tmp_path / "p.html", *[word for pair in results.items() for word in pair])
