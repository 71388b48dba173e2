# SPDX-License-Identifier: Apache-2.0
"""Results as files of the input's kind: what is not ultrasound keeps its pixels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.utils import ensure_tuple
from PIL import Image, ImageSequence

from common.errors import InputError
from common.io import provenance
from common.io.find import stem_of
from common.io.headers import check_file
from common.io.pictures import open_picture, orientation, turned
from common.io.savers import ExpectedResults, SaveRestoredd
from common.io.series import is_dicom

from .deidentify import deidentified
from .frames import Frames, read_frames
from .metrics import histogram, kl_divergence
from .pictures import draw_histograms
from .reference import load_reference

__all__ = ["SaveFramesd", "write_like"]

ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif"}
HISTOGRAM = ".histogram.png"  # behind the result's whole file name: frame.png and frame.jpg have one each
TEXT = "despeckled by us_despeckle, not for diagnosis"
STD = "despeckled_std"  # postfix of standard deviations


def write_like(
    source: str,
    target: Path,
    grey: np.ndarray,
    region: np.ndarray,
    lossless: bool = False,
    deidentify: bool = False,
) -> None:
    """Writes new grey levels inside a region into a copy of a file, of the same kind, size and pixel type.

    JPEG is written with the source's own quantisation tables and subsampling, so that blocks without ultrasound come
    back as they were but for rounding. DICOM keeps its data set, uncompressed, as a derived picture with own UIDs.

    Args:
        source: PNG, JPEG, TIFF or DICOM.
        target: file to write.
        grey: ``(N, H, W)`` in [0, 1].
        region: boolean ``(H, W)``, what is replaced.
        lossless: PNG where the source is JPEG.
        deidentify: black outside the region, where names are written, and DICOM without the patient's data, see
            ``deidentified``.
    """
    frames = read_frames(source)
    pixels = frames.replaced(grey, region)
    if deidentify:
        pixels[:, ~region] = 0
    if is_dicom(source):
        _write_dicom(source, target, pixels, frames, deidentify)
        return
    with open_picture(source, tuple(ENDINGS)) as before:
        pages = [Image.fromarray(page) for page in pixels]
        options = turned(orientation(before)) if before.format != "TIFF" else {}  # Pillow turns a TIFF as it reads it
        for page, own in zip(pages, ImageSequence.Iterator(before), strict=True):
            if "A" in own.getbands():
                page.putalpha(own.getchannel("A"))
        if "dpi" in before.info:
            options["dpi"] = before.info["dpi"]
        kind = "PNG" if before.format == "JPEG" and lossless else before.format
        if kind == "JPEG":
            # Pillow has no public name for a file's subsampling
            from PIL.JpegImagePlugin import get_sampling

            options |= {"qtables": getattr(before, "quantization", None)}
            if before.mode == "RGB":
                options["subsampling"] = get_sampling(before)
        if kind == "TIFF":
            options |= {
                "save_all": True,
                "append_images": pages[1:],
                "compression": "tiff_deflate",
                "description": TEXT,
            }
        pages[0].save(target, kind, **options)


def _write_dicom(source: str, target: Path, pixels: np.ndarray, frames: Frames, deidentify: bool) -> None:
    import pydicom

    dataset = pydicom.dcmread(source)
    colour = pixels.ndim == 4
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    values = frames.top - pixels if inverted else pixels
    single = len(values) == 1 and "NumberOfFrames" not in dataset
    kind = "RGB" if colour else ("MONOCHROME1" if inverted else "MONOCHROME2")
    bits = 8 if values.dtype == np.uint8 else int(dataset.BitsStored)
    dataset.set_pixel_data(values[0] if single else values, kind, bits)
    if not single:
        dataset.NumberOfFrames = len(values)
    for name in ("RedPaletteColorLookupTable", "GreenPaletteColorLookupTable", "BluePaletteColorLookupTable"):
        for part in ("Descriptor", "Data"):
            if name + part in dataset:
                del dataset[name + part]
    dataset.ImageType = ["DERIVED", "SECONDARY", *list(dataset.get("ImageType", []))[2:]]
    dataset.DerivationDescription = TEXT
    dataset.SeriesInstanceUID = pydicom.uid.generate_uid()
    written: pydicom.Dataset = deidentified(dataset) if deidentify else dataset
    for _ in written.iterall():  # elements as yet undecoded would be written as they are, in whatever encoding that is
        pass
    written.save_as(target, enforce_file_format=True)


class SaveFramesd(SaveRestoredd):
    """Saves each result beside its provenance, of the input's kind, and the paper's picture of three histograms.

    Standard deviations become TIFF files of float32, in the input's grey levels.

    A subclass of ``SaveImaged``, since MONAI Label takes savers of that type out of the chain.

    Args:
        keys: predictions ``(N, H, W)`` in [0, 1] as ``MetaTensor``, with their region as meta data; then their
            standard deviations, if wanted.
        output_dir, facts, root: as in ``SaveRestoredd``.
        reference: histogram of the reference probe for the picture, see ``load_reference``; None leaves it out of it.
        histograms: write the picture as ``<result>.histogram.png``.
        lossless: JPEG becomes PNG.
        deidentify: see ``write_like``.
        ref_key: the input.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        facts: Mapping[str, Any],
        root: str | None = None,
        reference: Any = None,
        histograms: bool = True,
        lossless: bool = False,
        deidentify: bool = False,
        ref_key: str = "image",
    ) -> None:
        postfixes = ["despeckled", STD][: len(ensure_tuple(keys))]
        super().__init__(keys, output_dir, postfixes, facts, root, description=TEXT)
        self.reference = load_reference(reference)
        self.histograms, self.lossless, self.deidentify = histograms, lossless, deidentify
        self.ref_key = ref_key

    def name_of(self, image: Any, source: str, postfix: str) -> str:
        """The result's file name, with the ending of its kind."""
        return f"{stem_of(source)}_{postfix}{'.tif' if postfix == STD else self._ending(source)}"

    def write(self, path: Path, image: Any, source: str) -> None:
        """Writes the ultrasound region into a copy of the input."""
        frames = image.as_tensor().detach().cpu().float()
        if _is_std(path):
            pages = [Image.fromarray(page) for page in (frames * read_frames(source).top).numpy()]
            pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:], description=TEXT)
            return
        write_like(source, path, frames.numpy(), _region(image).numpy(), self.lossless, self.deidentify)

    def write_beside(
        self, target: Path, image: Any, source: str, data: Mapping[Hashable, Any], facts: Mapping[str, Any]
    ) -> None:
        """Draws the histograms."""
        if self.histograms and not _is_std(target):
            before, after = data[self.ref_key].as_tensor().cpu(), image.as_tensor().detach().cpu().float()
            picture = target.with_name(target.name + HISTOGRAM)
            if picture.resolve() == Path(source).resolve():
                raise InputError("the histogram would overwrite it; choose another --output_dir", source)
            with provenance.publish(picture, facts, source) as partial:
                self._draw(partial, before, after, _region(image))

    def expect(self, entry: Mapping[Hashable, Any]) -> ExpectedResults:
        """What will be written for a case, with the picture of the histograms."""
        expected = super().expect(entry)
        if self.histograms:
            expected.files += [f.with_name(f.name + HISTOGRAM) for f in expected.files if not _is_std(f)]
        return expected

    def _ending(self, source: str) -> str:
        check_file(source)
        if is_dicom(source):
            return Path(source).suffix or ".dcm"
        with open_picture(source, tuple(ENDINGS), kept=False) as picture:
            changed = picture.format == "JPEG" and self.lossless
            return ".png" if changed else Path(source).suffix or ENDINGS[str(picture.format)]

    def _draw(self, file: Path, before: torch.Tensor, after: torch.Tensor, region: torch.Tensor) -> None:
        counts = {"input x": histogram(before, region.expand(before.shape))}
        counts["result x^"] = histogram(after, region.expand(after.shape))
        notes = [f"KL(x, x^) {float(kl_divergence(counts['input x'], counts['result x^'])):.3f}"]
        if self.reference is not None:
            for name, label in (("input x", "KL(y, x)"), ("result x^", "KL(y, x^)")):
                notes.append(f"{label} {float(kl_divergence(self.reference, counts[name])):.3f}")
            counts = {"reference y": self.reference, **counts}
        Image.fromarray(draw_histograms(counts, "; ".join(notes))).save(file)


def _is_std(path: Path) -> bool:
    return path.name.endswith(f"_{STD}.tif")


def _region(image: Any) -> torch.Tensor:
    return torch.as_tensor(image.meta["region"]).cpu() > 0
