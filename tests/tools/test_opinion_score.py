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
const fs = require("fs"), [, , storage, keys] = process.argv;  // what the browser keeps between visits, in a file
const kept = storage === "none" ? null : fs.existsSync(storage) ? JSON.parse(fs.readFileSync(storage, "utf8")) : {};
function allowed() { if (!kept) throw new Error("not allowed from a file"); return kept; }
globalThis.localStorage = {getItem: k => allowed()[k] ?? null,
  setItem(k, v) { allowed()[k] = String(v); fs.writeFileSync(storage, JSON.stringify(kept)); }};
globalThis.Blob = class { constructor(parts) { saved = parts[0]; } };
URL.createObjectURL = () => "blob:"; URL.revokeObjectURL = () => {};
"""
TAIL = """
const began = elements.where.textContent;
const press = key => listeners.keydown({key, target: document.body, preventDefault() {}});
JSON.parse(keys).forEach(press);
elements.save.listeners.click();
console.log(JSON.stringify({began, saved: JSON.parse(saved), where: elements.where.textContent,
  pressed: elements.score1.attributes["aria-pressed"]}));
"""
KEYS = ["3", "s", "n", "ArrowRight", "0", "U", "u", "Enter", "4", "a", "ArrowLeft", "1", "x", "9"]
GIVEN = {
    "0000": {"marks": "SN", "score": 3},
    "0001": {"marks": "", "score": 1},
    "0002": {"marks": "A", "score": 4},
}
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")


def visit(page, storage, keys=()):
    """What a reader sees who opens the page, presses the keys and downloads the answers."""
    script = re.search(r"<script>(.*)</script>", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    program = page.with_suffix(".js")
    program.write_text(SCRIPT + script + TAIL, encoding="utf-8")
    words = ["node", program, storage, json.dumps(keys)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize("storing", [True, False])
def test_keys_score_and_mark_and_the_answers_become_the_table(command, page, tmp_path, capsys, storing):
    told = visit(page[0], tmp_path / "storage.json" if storing else "none", KEYS)
    assert told["began"] == "image 1 of 6, 0 scored"
    assert told["where"] == "image 2 of 6, 3 scored" and told["pressed"] is True
    assert told["saved"] == {"page": page[1]["page"], "answers": GIVEN}
    (tmp_path / "answers.json").write_text(json.dumps(told["saved"]), encoding="utf-8")
    command("table", "--answers", tmp_path / "answers.json", "--key", page[0].with_suffix(".key.json"))
    assert "3 picture(s) not scored" in capsys.readouterr().out


@needs_node
def test_answers_wait_in_the_browser_for_their_own_page_alone(command, results, page, tmp_path):
    storage, words = tmp_path / "storage.json", [word for pair in results.items() for word in pair]
    visit(page[0], storage, KEYS)
    command("page", "--out", page[0], *words)  # made anew, the same
    told = visit(page[0], storage)
    assert told["began"] == "image 4 of 6, 3 scored" and told["saved"]["answers"] == GIVEN  # where the reader stopped
    command("page", "--out", page[0], "--seed", 1, *words)
    assert visit(page[0], storage)["began"] == "image 1 of 6, 0 scored"
    Image.fromarray(np.full((20, 30), 7, np.uint8)).save(tmp_path / "wgan" / "a_sr.png")
    command("page", "--out", page[0], *words)  # of the first name, seed and count, but with another picture
    told = visit(page[0], storage)
    assert told["began"] == "image 1 of 6, 0 scored" and told["saved"]["answers"] == {}


def answers(path, key, given):
    """Answers by (case, method)."""
    numbers = {(p["case"], p["method"]): number for number, p in key["pictures"].items()}
    content = {numbers[place]: {"score": score, "marks": marks} for place, (score, marks) in given.items()}
    path.write_text(json.dumps({"page": key["page"], "answers": content}), encoding="utf-8")
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


@pytest.mark.parametrize("change", ["seed", "picture"])
def test_answers_given_on_another_page_are_refused(command, results, page, tmp_path, change):
    given = {("a", "truth"): (4, ""), ("b", "truth"): (3, "A")}
    path = answers(tmp_path / "answers.json", page[1], given)
    if change == "picture":
        Image.fromarray(np.full((20, 30), 7, np.uint8)).save(tmp_path / "wgan" / "a_sr.png")
    words = [word for pair in results.items() for word in pair]
    command("page", "--out", page[0], *words, *(("--seed", 1) if change == "seed" else ()))
    with pytest.raises(
        SystemExit, match=r"answers.json: given on another page than the one that \S+key.json belongs to"
    ):
        command("table", "--answers", path, "--key", page[0].with_suffix(".key.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no", "not a JSON file"),
        (b"\xff\xfe\x00", "not a JSON file"),
        (b'{"other": 1}', "holds no answers"),
        (b'{"answers": [1]}', "holds no answers"),
        (b'{"answers": {}}', "given on another page"),
        ({"9999": {"score": 1}}, "picture 9999 is not in"),
        *(
            ({"0000": answer}, "the answer for picture 0000 is not a score of 0 to 4 with marks of SAUN")
            for answer in (
                *(3, None, [], {}, {"marks": "S"}),
                *({"score": score} for score in (5, -1, 1.5, "3", True, None, [2])),
                *({"score": 1, "marks": marks} for marks in ("X", 5, None, ["S"])),
            )
        ),
    ],
)
def test_answers_that_cannot_be(command, page, tmp_path, content, message):
    if isinstance(content, dict):
        content = json.dumps({"page": page[1]["page"], "answers": content}).encode()
    (tmp_path / "answers.json").write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        command("table", "--answers", tmp_path / "answers.json", "--key", page[0].with_suffix(".key.json"))


@pytest.mark.parametrize(
    ("part", "to"),
    [
        *((part, None) for part in ("page", "methods")),
        ("methods", ["truth"]),
        ("methods", [["truth"]]),
        ("pictures", {"0000": 1}),
        ("pictures", {"0000": {"case": "a"}}),
    ],
)
def test_a_key_that_cannot_be(command, page, tmp_path, change, part, to):
    path = answers(tmp_path / "answers.json", page[1], {("a", "truth"): (4, "")})
    key = page[0].with_suffix(".key.json")
    change(key, part, to=to)
    with pytest.raises(SystemExit, match=r"key.json: not a key that this tool wrote"):
        command("table", "--answers", path, "--key", key)


@pytest.mark.parametrize(("option", "given"), [("seed", "x"), ("seed", -1), ("count", 0), ("count", 1.5)])
def test_numbers_that_cannot_be(command, results, tmp_path, option, given):
    words = [word for pair in results.items() for word in pair]
    with pytest.raises(SystemExit, match=rf"^error: {option} must be a whole number from \d"):
        command("page", "--out", tmp_path / "p.html", f"--{option}", given, *words)


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
