# SPDX-License-Identifier: Apache-2.0
"""Slices through lesions: random crops for training, whole slices with their region for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.data import CacheDataset, MetaTensor
from torch.utils.data import Dataset

from common.engine.domain import Measures, variants
from common.errors import InputError
from common.io.find import stem_of
from common.io.readers import LoadScan
from common.transforms.geometry import grid_affine
from common.transforms.intensity import foreground_mask
from common.utils.console import say
from common.utils.images import like_image
from common.utils.types import Items

from .degradation import WAYS, RandDownsample, ways_of
from .detection import region_around
from .networks import interpolate
from .regions import Sides, bounding_box, crop_corner_range, cut, foreground_region, square_region
from .slices import downsample, foreground, slice_axis, statistics, whole_pixels
from .transforms import AXIS, MEAN, REGION, SCORED, SPREAD, in_own_order, measure_slices
from .volumes import SCALE

__all__ = ["LesionCrops", "LesionSlices", "LesionVolumes", "lesion_slices", "measured", "region_of"]

FACTOR = 4
LEAST_AREA = 16  # lesion pixels of a slice that counts
LEAST_SHARE = 0.2  # foreground of a slice that counts, as a share of the fullest slice's

Finder = Callable[[torch.Tensor], torch.Tensor]


def measured(entry: Mapping[str, Any], axis: Any, ways: Any) -> Iterator[Measures]:
    """Measures of the low-resolution scans that a training scan becomes, see ``common.engine.domain``.

    Args:
        entry: with the scan's path as "image".
        axis: across the slices, see ``slice_axis``.
        ways: of coming about, see ``degradation.ways_of``.
    """
    scan = LoadScan()(entry["image"])
    across = slice_axis(scan.affine, axis, scan.shape[1:])
    slices = whole_pixels(scan.as_tensor().float().movedim(across + 1, 1))
    affine = torch.as_tensor(grid_affine(scan.affine, in_own_order([FACTOR, FACTOR, 1], across)))
    lows = (like_image(WAYS[way](slices).movedim(1, across + 1), scan, affine) for way in ways_of(ways))
    yield variants(measure_slices(low, across) for low in lows)


def _source(item: Mapping[str, Any], number: int) -> str:
    return str(getattr(item["image"], "meta", {}).get("filename_or_obj", f"volume {number}"))


def lesion_slices(volume: torch.Tensor, source: str, quiet: bool = False) -> tuple[list[int], bool]:
    """Slices of a volume ``(2, H, W, D)`` (image and mask) that show its lesion, and whether there is one.

    A volume without lesion gives the slices with a fair amount of foreground, which one line says unless ``quiet``.
    """
    image, mask = torch.as_tensor(volume)
    areas = (mask > 0).sum(dim=(0, 1))
    found = torch.nonzero(areas >= LEAST_AREA).flatten().tolist()
    if found:
        return found, True
    if not quiet:
        say(f"{source}: no lesion in its mask; the foreground's box is the region")
    return _shown(image), False


def _shown(image: torch.Tensor) -> list[int]:
    """Slices of a volume ``(H, W, D)`` with a fair amount of foreground."""
    shares = foreground_mask(image.float()).sum(dim=(0, 1))
    return torch.nonzero(shares >= LEAST_SHARE * shares.max()).flatten().tolist()


def region_of(truth: torch.Tensor, mask: torch.Tensor, lesion: bool) -> tuple:
    """The region of a high-resolution slice ``(H, W)`` and its mask, in low-resolution pixels."""
    low_shape = [n // FACTOR for n in truth.shape]
    box = bounding_box(mask) if lesion else None
    return foreground_region(downsample(truth)) if box is None else square_region(box, low_shape)


class LesionVolumes(Dataset):
    """Slices of volumes in memory, ``(2, H, W, D)`` each.

    Args:
        volumes: dataset of ``{"image": (2, H, W, D)}``, see ``AddMaskd``.
        detector: without it, or with ``mask``, one line tells of a volume without lesion.
    """

    def __init__(self, volumes: Items, detector: str = "mask") -> None:
        self.volumes = volumes
        quiet = detector != "mask"
        self.known: list[tuple[list[int], bool]] = []
        for number in range(len(volumes)):
            item = volumes[number]
            self.known.append(lesion_slices(item["image"], _source(item, number), quiet))

    def find(self, number: int, finder: Finder | None, way: str = "bicubic") -> torch.Tensor:
        """The mask ``(h, w, d)`` of what a detector finds in a volume's low resolution, made in a way."""
        assert finder is not None  # it is given where a network detects
        depth = self.volumes[number]["image"].shape[-1]
        low = [WAYS[way](self.slice(number, place)[0]) for place in range(depth)]
        levels = [statistics(one) for one in low]
        standardised = [(one - mean) / spread for one, (mean, spread) in zip(low, levels, strict=True)]
        return finder(torch.stack(standardised, dim=-1))

    def slice(self, number: int, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and mask ``(H, W)`` of a slice, in whole low-resolution pixels."""
        volume = self.volumes[number]["image"]
        truth, mask = whole_pixels(torch.as_tensor(volume)[..., place].as_subclass(torch.Tensor).float())
        return truth * getattr(volume, "meta", {}).get(SCALE, 1.0), mask


class LesionCrops(LesionVolumes):
    """Random crops inside lesions' regions, low and high resolution, each epoch drawn anew.

    Slices are taken in turn over the volumes, so each volume is seen equally often. A volume without lesion gives crops
    whose middle is a random pixel of its foreground. Everything random about a sample follows from (seed, epoch,
    index). A crop is standardised with its whole slice's low-resolution statistics, as a slice is at inference. Call
    ``set_epoch`` before each epoch; give the loader ``shuffle=False``.

    Args:
        volumes: dataset of ``{"image": (2, H, W, D)}``, see ``AddMaskd``.
        patches: samples per epoch; None for as many as there are slices.
        patch_size: edge of the crop in high-resolution pixels, a multiple of 4.
        detector: ``mask`` or ``any`` for lesions where there are some, ``network`` for those that the ``finder`` sees,
            ``foreground`` for none.
        seed: start of all randomness.
        orient: also flip and transpose crops at random (an addition to the paper).
        ways: of down-sampling, of which one is drawn per sample, see ``degradation.RandDownsample``.
        zoom: a slice is first resampled to a grid up to this many times as coarse or as fine, in half of the samples:
            scans that were resampled before are smoother than native ones. 1 for none; an addition to the paper.
        finder: the detector, see ``detection.LesionFinder``.

    Raises:
        InputError: a slice smaller than a crop, or a crop that is no multiple of 4.
    """

    def __init__(
        self,
        volumes: Items,
        patches: int | None = None,
        patch_size: int = 96,
        detector: str = "mask",
        seed: int = 0,
        orient: bool = True,
        ways: Any = "bicubic",
        zoom: float = 1.0,
        finder: Finder | None = None,
    ) -> None:
        super().__init__(volumes, detector)
        self.found: list[torch.Tensor] = []
        if detector == "network":
            self.found = [self.find(number, finder) for number in range(len(volumes))]
            for number, mask in enumerate(self.found):
                seen = torch.nonzero(mask.any(dim=0).any(dim=0)).flatten().tolist()
                self.known[number] = (
                    (seen, True) if seen else (_shown(torch.as_tensor(volumes[number]["image"])[0]), False)
                )
        self.downsample, self.zoom = RandDownsample(ways), float(zoom)
        if patch_size < FACTOR or patch_size % FACTOR:
            raise InputError(f"patch_size must be a multiple of {FACTOR}, got {patch_size}")
        for number in range(len(volumes)):
            shape = volumes[number]["image"].shape[1:3]
            if min(shape) - min(shape) % FACTOR < patch_size:
                reason = f"slices of {' x '.join(map(str, shape))} pixels are smaller than a patch_size of {patch_size}"
                raise InputError(reason, _source(volumes[number], number))
        self.patches = patches or sum(len(places) for places, _ in self.known)
        self.patch_size, self.seed, self.orient = patch_size, seed, orient
        self.epoch = 0
        self._order: tuple[int, np.ndarray] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self.volumes)} volumes, {len(self)} crops of {self.patch_size} pixels per epoch"

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Gives "image" ``(1, patch_size / 4, ...)`` and "label" ``(1, patch_size, ...)``, standardised alike."""
        if self._order is None or self._order[0] != self.epoch:
            self._order = (self.epoch, np.random.default_rng([self.seed, self.epoch]).permutation(len(self)))
        number = int(self._order[1][index]) % len(self.volumes)
        random = np.random.default_rng([self.seed, self.epoch, index])
        places, lesion = self.known[number]
        place = places[random.integers(len(places))]
        truth, mask = self.slice(number, place)
        if self.found:
            mask = self.found[number][..., place].repeat_interleave(FACTOR, 0).repeat_interleave(FACTOR, 1)
        if self.zoom > 1 and random.random() < 0.5:
            least = self.patch_size / min(truth.shape)  # what is left must hold a crop
            truth, mask = _zoomed(truth, mask, max(least, self.zoom ** random.uniform(-1, 1)))
        self.downsample.set_random_state(int(random.integers(2**31)))
        low = self.downsample(truth)
        mean, spread = statistics(low)
        size = self.patch_size // FACTOR
        if lesion:
            ranges = [
                crop_corner_range(side, size, n)
                for side, n in zip(region_of(truth, mask, lesion), low.shape, strict=True)
            ]
            starts = [int(random.integers(first, last + 1)) for first, last in ranges]
        else:
            inside = torch.nonzero(foreground(low))
            middle = inside[int(random.integers(len(inside)))].tolist()
            starts = [min(max(m - size // 2, 0), n - size) for m, n in zip(middle, low.shape, strict=True)]
        window = [(start, start + size) for start in starts]
        pair = [(cut(low, window)[None] - mean) / spread, (cut(truth, window, FACTOR)[None] - mean) / spread]
        if self.orient:
            flips = [axis for axis in (1, 2) if random.random() < 0.5]
            turn = random.random() < 0.5
            pair = [(x.transpose(1, 2) if turn else x).flip(flips) for x in pair]
        return {"image": pair[0].contiguous(), "label": pair[1].contiguous()}


class LesionSlices(LesionVolumes):
    """Slices through held-out lesions, always the same: low resolution as "image", the truth in the region as "label".

    "image" ``(1, h, w)`` is standardised and carries its statistics and region; "label" and "bicubic" ``(1, H, W)`` are
    the region alone in the scan's units. Items also carry "case", no two alike, and "setting".

    Every slice is an item for each way of down-sampling; the region is the same in all of them.

    Args:
        data: entries, or volumes ``{"image": (2, H, W, D)}`` that are loaded already.
        transform: loads an entry.
        slices: per volume, spread evenly over those with lesion; None for all.
        detector: ``mask``, ``any`` or ``foreground``; with ``network`` the region is super-resolved that the ``finder``
            finds in the low resolution of the volume, as in inference, and the lesion's own is scored: both steps are
            judged together.
        ways: of down-sampling, see ``degradation.RandDownsample``.
        others: further methods, called with the low-resolution image ``(1, 1, h, w)``, its key their name.
        finder: the detector, see ``detection.LesionFinder``.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable | None = None,
        slices: int | None = None,
        detector: str = "mask",
        ways: Any = "bicubic",
        others: Mapping[str, Any] | None = None,
        finder: Finder | None = None,
    ) -> None:
        self.data = data
        self.finder = finder if detector == "network" else None
        self._found: dict[tuple[int, str], torch.Tensor] = {}
        volumes = data if transform is None else CacheDataset(data, transform, num_workers=0, progress=False)
        super().__init__(volumes, detector)
        self.downsample = RandDownsample(ways)
        self.others = dict(others or {})
        self.names = _names([_source(volumes[number], number) for number in range(len(volumes))])
        self.places = [
            (number, places[i]) for number, (places, _) in enumerate(self.known) for i in _spread(len(places), slices)
        ]

    def __len__(self) -> int:
        return len(self.places) * len(self.downsample.ways)

    def __getitem__(self, index: int) -> dict[str, Any]:
        (number, place), way = self.places[index // len(self.downsample.ways)], self._way(index)
        truth, mask = self.slice(number, place)
        low = self.downsample(truth, way)
        mean, spread = statistics(low)
        region = region_of(truth, mask, self.known[number][1])
        seen = region if self.finder is None else self._seen(number, place, way)
        meta = {AXIS: -1, MEAN: torch.tensor([mean]), SPREAD: torch.tensor([spread])}
        meta |= {REGION: torch.tensor(seen), SCORED: torch.tensor(region)}
        image = MetaTensor(((low - mean) / spread)[None], meta=meta)
        item = {"image": image, "label": cut(truth, region, FACTOR)[None].clone()}
        item["bicubic"] = cut(interpolate(low[None, None]), region, FACTOR)[0].clone()
        for name, method in self.others.items():
            item[name] = cut(method(image.as_tensor()[None]), region, FACTOR)[0].cpu() * spread + mean
        volume = self.names[number] + (f"-{way}" if len(self.downsample.ways) > 1 else "")
        return {**item, "case": f"{volume}_{place}", "setting": f"x4 {way}"}

    def _seen(self, number: int, place: int, way: str) -> Sides:
        """What inference would super-resolve of a slice; an empty region where the detector saw nothing there."""
        if (number, way) not in self._found:
            self._found[number, way] = self.find(number, self.finder, way)
        region = region_around(self._found[number, way])
        if region is None:
            return foreground_region(WAYS[way](self.slice(number, place)[0]))
        return region[:2] if region[2][0] <= place < region[2][1] else ((0, 0), (0, 0))

    def _way(self, index: int) -> str:
        return self.downsample.ways[index % len(self.downsample.ways)]

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self)} slices of {len(self.volumes)} volumes"


def _zoomed(truth: torch.Tensor, mask: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A slice ``(H, W)`` and its mask on a grid ``scale`` times as fine, in whole low-resolution pixels."""
    size = [FACTOR * max(1, round(n * scale / FACTOR)) for n in truth.shape]
    finer = F.interpolate(truth[None, None].float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    return finer[0, 0], F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0]


def _names(sources: Sequence[str]) -> list[str]:
    """Names of volumes without folders; with their folder's name, or a number, where files are called alike."""
    stems = [stem_of(source) for source in sources]
    longer = [f"{Path(source).parent.name}_{stem}" for source, stem in zip(sources, stems, strict=True)]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{n}_{longer[: i + 1].count(n)}" if longer.count(n) > 1 else n for i, n in enumerate(longer)]


def _spread(count: int, wanted: int | None) -> Sequence[int]:
    """Indices of ``wanted`` of ``count`` items, evenly spread and away from the ends."""
    if wanted is None or wanted >= count:
        return range(count)
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]
