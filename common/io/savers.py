# SPDX-License-Identifier: Apache-2.0
"""Saving results as NIfTI beside their provenance."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from common.errors import InputError, shown
from common.io import provenance
from common.io.derivatives import Derivatives
from common.io.find import stem_of
from common.io.hashes import INPUT, files_of, fingerprint

__all__ = ["FILES", "ExpectedResults", "SaveRestoredd", "check_finite", "checked_place", "result_path"]


FILES = "files"  # key of what a case was made of, where it is not its image alone
LONGEST = 255  # bytes of a file's name, on nearly all file systems


def result_path(source: str, output_dir: str, postfix: str, root: str | None = None, name: str | None = None) -> Path:
    """Where a result goes: the input's name with a postfix, in the input's sub-folder below ``root``.

    Args:
        source: the input.
        output_dir: folder for the results.
        postfix: appended to the input's name.
        root: folder below which sub-folders are kept.
        name: the result's file name, in place of one made with the postfix.

    Raises:
        InputError: the result would lie on the input, or have a name that no file system takes.
    """
    parent = Path(source).resolve().parent
    base = Path(root).expanduser().resolve() if root else parent
    base = base if base.is_dir() else base.parent
    inner = parent.relative_to(base) if parent.is_relative_to(base) else Path()
    return checked_place(
        Path(output_dir).expanduser() / inner / (name or f"{stem_of(source)}_{postfix}.nii.gz"), source
    )


def checked_place(target: Path, source: str) -> Path:
    """A result's path, if it can be one.

    Raises:
        InputError: as for ``result_path``.
    """
    if len(os.fsencode(f".{target.name}{provenance.SUFFIX}")) > LONGEST:
        raise InputError(f"its result's name would be longer than {LONGEST} bytes; rename it", source)
    if target.resolve() == Path(source).resolve():
        raise InputError("the result would overwrite it; choose another --output_dir", source)
    return target


def check_finite(image: Any) -> None:
    """Refuses a result that is no image.

    Args:
        image: the prediction, a ``MetaTensor`` of any shape.

    Raises:
        InputError: NaN or infinite values, with what is likely to have made them.
    """
    bad = int((~torch.isfinite(torch.as_tensor(image))).sum())
    if bad:
        source = str(image.meta.get("filename_or_obj", "image"))
        likely = "damaged weights, or intensities far from what they were trained on"
        raise InputError(f"{bad} values of the result are NaN or infinite ({likely}); it is not written", source)


def _alike(qform: np.ndarray, affine: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether two affines put the far corner of a grid into the same place, to 1e-3 of a voxel."""
    apart = np.abs(qform - affine)[:3]
    moved = apart[:, :3] @ np.array([*shape, 1, 1, 1][:3]) + apart[:, 3]
    return bool(moved.max() <= 1e-3 * np.linalg.norm(affine[:3, :3], axis=0).min() + 1e-6 * np.abs(affine).max())


@dataclass
class ExpectedResults:
    """Results of a case before it is loaded.

    Args:
        source: the case's input as its sidecar will name it.
        inputs: the files that it consists of.
        files: the results.
        facts: what their sidecars will tell at least.
    """

    source: str
    inputs: list[str]
    files: list[Path]
    facts: Mapping[str, Any]

    def finished(self) -> bool:
        """Whether all of them are there, complete, of the same weights, settings and input."""
        return all(provenance.is_finished(file, self.facts, self.source, self.inputs) for file in self.files)


class SaveRestoredd(SaveImaged):
    """Saves predictions as NIfTI with affine, codes and units of their image, and ``.provenance.json`` beside them.

    A subclass of ``SaveImaged``, since MONAI Label takes savers of that type out of the chain.

    Args:
        keys: predictions ``(1, H, W[, D])`` as ``MetaTensor`` in the input's units; several keys with a postfix each.
        output_dir: folder for the results, made if missing.
        output_postfix: appended to the input's name; one per key, or one for all.
        facts: see ``common.io.provenance.describe``.
        root: folder below which the inputs' sub-folders are kept.
        integers: round to int16 instead of float32; values outside its range are an error.
        description: text for the NIfTI field ``descrip``, at most 79 characters.
        label: what BIDS calls the results, such as "denoised".
        bids: write them as a BIDS derivative dataset, see ``common.io.derivatives``.

    Raises:
        InputError: NaN or infinite values; int16 wanted for values outside its range; the result would overwrite a file
            that is no earlier result, or that of another input of this run (``a.nii`` beside ``a.nii.gz``).
        StorageError: the folder is full or read-only; nothing hidden is left behind.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        output_postfix: str | list[str],
        facts: Mapping[str, Any],
        root: str | None = None,
        integers: bool = False,
        description: str = "restored image, not for diagnosis",
        label: str = "restored",
        bids: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, resample=False, separate_folder=False, print_log=False)
        self.derivatives = Derivatives(output_dir, label) if bids else None
        self.postfixes = [output_postfix] * len(self.keys) if isinstance(output_postfix, str) else list(output_postfix)
        self.output_dir = str(self.derivatives.root) if self.derivatives else output_dir
        self.facts = facts
        self.root = root
        self.integers = integers
        self.description = description
        self.sources: dict[Path, str] = {}  # results written so far, and of what

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the predictions and their sidecars; the entry gets their places below the folder as "saved"."""
        out = dict(data)
        for key in self.keys:  # all before the first is written
            check_finite(out[key])
        for key, postfix in zip(self.keys, self.postfixes, strict=True):
            image = out[key]
            source = str(image.meta["filename_or_obj"])
            target = self.place_of(image, source, postfix)
            self._check_free(target, source)
            facts = {**self.facts_of(image), INPUT: out.get(INPUT) or fingerprint([source])}
            with provenance.publish(target, facts, source) as partial:
                self.write(partial, image, source)
                self.write_beside(target, image, source, out, facts)  # before the result, which tells that all is done
                if self.derivatives:
                    kind = self.kind_of(postfix)
                    text = f"{kind}, {self.description}" if kind else self.description
                    self.derivatives.describe(target, out.get(FILES) or [source], facts, text)
            self.sources[target] = source
            out["saved"] = [*out.get("saved", ()), os.path.relpath(target, Path(self.output_dir).expanduser())]
            print(f"saved {shown(str(target))}", flush=True)
        return out

    def place_of(self, image: Any, source: str, postfix: str) -> Path:
        """Where a result goes; of a case that is not loaded yet there is no image."""
        if self.derivatives:
            return checked_place(self.derivatives.place(source, self.kind_of(postfix)), source)
        return result_path(source, self.output_dir, postfix, self.root, self.name_of(image, source, postfix))

    def kind_of(self, postfix: str) -> str:
        """What a result beside the image itself is, by the end of its postfix: "std"; "" of the image."""
        return "" if postfix == self.postfixes[0] else re.split(r"[-_]", postfix)[-1]

    def name_of(self, image: Any, source: str, postfix: str) -> str:
        """The result's file name, for bundles with names of their own."""
        return f"{stem_of(source)}_{postfix}.nii.gz"

    def facts_of(self, image: Any) -> Mapping[str, Any]:
        """What the sidecar tells, for bundles whose facts depend on the image."""
        return self.facts

    def write(self, path: Path, image: Any, source: str) -> None:
        """Writes a result to a file, for bundles with files of other kinds."""
        nib.save(self._image(image.as_tensor().detach().cpu().float().numpy()[0], image, source), path)

    def write_beside(
        self, target: Path, image: Any, source: str, data: Mapping[Hashable, Any], facts: Mapping[str, Any]
    ) -> None:
        """Writes what else belongs to a result, for bundles with more files; else nothing."""
        return

    def expect(self, entry: Mapping[Hashable, Any]) -> ExpectedResults:
        """What ``__call__`` will write for a case that is not loaded yet.

        Args:
            entry: as the configuration's ``cases`` lists it.
        """
        source = str(entry["image"])
        files = [self.place_of(None, source, postfix) for postfix in self.postfixes]
        return ExpectedResults(source, files_of(entry), files, self.facts)

    def _check_free(self, target: Path, source: str) -> None:
        before = self.sources.get(target, source)
        if before != source:
            raise InputError(f"its result would overwrite that of {before}; rename one of them", source)
        if target.exists() and not Path(f"{target}{provenance.SUFFIX}").exists():
            raise InputError(f"{target} is there and is no earlier result; choose another --output_dir", source)

    def _image(self, array: np.ndarray, image: Any, source: str) -> nib.Nifti1Image:
        if self.integers:
            array = np.rint(array)
            if array.min() < -32768 or array.max() > 32767:
                raise InputError(f"values {array.min():g} to {array.max():g} do not fit int16; save float32", source)
            array = array.astype(np.int16)
        affine = np.asarray(image.affine, dtype=np.float64)
        nifti = nib.Nifti1Image(array, affine)
        meta = image.meta
        qform, sform = (int(np.asarray(meta.get(name, 1)).flat[0]) for name in ("qform_code", "sform_code"))
        nifti.set_qform(affine, code=qform)
        if not _alike(nifti.get_qform(), affine, array.shape):
            qform = 0  # a quaternion holds no shear, and readers that prefer it would see another place
            nifti.set_qform(affine, code=qform)
        # at least one code must be valid for readers to use the affine at all
        nifti.set_sform(affine, code=sform if qform > 0 else max(sform, 1))
        nifti.header.set_xyzt_units("mm")
        nifti.header["descrip"] = self.description.encode()[:79]
        return nifti
