# SPDX-License-Identifier: Apache-2.0
"""Panels show what went in, what came out, and the error."""

import importlib.util

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from common.handlers import Panels, tensorboard_folder
from common.handlers import panels as module
from common.handlers.panels import draw_panel

COLUMNS = [["low resolution", "low"], ["network", "pred"], ["truth", "label"]]
SHAPE = (20, 16, 12)
WIDTH = 200


def truth():
    image = torch.zeros(SHAPE)
    image[4:16, 3:12, 2:10] = 0.3 + 0.7 * torch.rand(12, 9, 8, generator=torch.Generator().manual_seed(0))
    return image


def show(handler, count=1, batch=1, epoch=1, aside=False):
    items = [{"case": f"case-{i}", "setting": "2x2x2", "low": truth()[None], "label": truth()[None]} for i in range(count)]  # fmt: skip # noqa: E501
    engine = Engine(lambda _, batch: [{"pred": item["label"] + 0.1} for item in batch])
    handler.attach(engine)
    engine.state.aside = aside
    engine.load_state_dict({"epoch": epoch - 1, "epoch_length": count // batch, "max_epochs": epoch})
    engine.run([items[i : i + batch] for i in range(0, count, batch)])


def test_a_picture_per_case_setting_and_epoch(tmp_path):
    handler = Panels(tmp_path, COLUMNS)
    show(handler, count=4, batch=2)
    show(handler, count=4, batch=2, epoch=3)
    names = sorted(p.name for p in (tmp_path / "panels").iterdir())
    assert names == sorted(f"case-{i}_2x2x2_epoch{epoch}.png" for i in range(4) for epoch in (1, 3))
    picture = np.asarray(Image.open(tmp_path / "panels" / names[0]))
    assert picture.shape[1] == 4 * WIDTH and picture.std() > 10


def test_only_so_many_pictures_per_validation(tmp_path):
    handler = Panels(tmp_path, COLUMNS, most=3)
    show(handler, count=5)
    show(handler, count=5, epoch=2)
    assert len(list((tmp_path / "panels").iterdir())) == 6


def test_an_evaluation_aside_draws_nothing_nor_do_further_processes(tmp_path, monkeypatch):
    show(Panels(tmp_path, COLUMNS), aside=True)
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    show(Panels(tmp_path, COLUMNS))
    assert not (tmp_path / "panels").exists()


def column(picture, number):
    """A column's pictures without its title, grey."""
    return picture[16:, number * WIDTH : (number + 1) * WIDTH, 0]


def test_an_exact_prediction_has_a_black_error():
    picture = draw_panel([("truth", truth())], truth(), truth())
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert column(picture, 1).max() == 0 < column(picture, 0).max()


def test_errors_are_enlarged_five_times():
    image = truth()
    picture = draw_panel([("truth", image)], image + 0.1, image)
    assert column(picture, 1).mean() == pytest.approx(5 * 0.1 * 255, rel=0.02)


def test_all_columns_have_the_truths_grey_scale_whatever_the_units():
    one, other = (draw_panel([("a", k * truth() / 2)], k * truth(), k * truth()) for k in (1, 500))
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert 100 < column(one, 0).max() < 130  # half as bright as the truth


def test_rows_are_the_three_middle_planes_upright():
    image = truth()
    image[:] = 0
    image[:, :, -3:] = 1  # the top
    planes = column(draw_panel([("a", image)], image, image), 0)
    heights = [round(WIDTH * high / wide) for wide, high in ((16, 12), (20, 12), (20, 16))]
    assert planes.shape[0] == sum(heights)
    assert planes[5, 100] == 255 and planes[heights[0] - 5, 100] == 0
    assert planes[heights[0] + 5, 100] == 255


def test_pictures_in_two_dimensions_work_too():
    image = truth()[:, :, 6]
    assert draw_panel([("a", image)], image, image).shape == (16 + round(WIDTH * 16 / 20), 2 * WIDTH, 3)


def test_tensorboard_shows_the_picture(tmp_path):
    pytest.importorskip("tensorboard")
    folder = tensorboard_folder(tmp_path)
    assert folder == str(tmp_path / "tensorboard")
    show(Panels(tmp_path, COLUMNS, tensorboard=folder))
    (log,) = (tmp_path / "tensorboard").iterdir()
    assert b"case-0_2x2x2" in log.read_bytes() and b"PNG" in log.read_bytes()


def test_without_tensorboard_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tensorboard_folder(tmp_path) is None
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    assert tensorboard_folder(tmp_path) is None
    assert capsys.readouterr().out == ""
