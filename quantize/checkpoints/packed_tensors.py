"""Matrices of small integers packed into words of 32 bits, scaled by groups of inputs: as GPTQ, AWQ and compressed-tensors store them.

All mean the same: a weight [out, in] is its level less its group's zero point, times its group's scale. They differ in which way they
pack, and in what zero points are counted from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.checkpoints.tensors import StoredTensor

Words = npt.NDArray[np.uint32]
# AutoAWQ's packing_utils.py: where in its word each of eight neighbouring columns lies.
_AWQ_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
_AWQ_PER_WORD = 8


@dataclass(frozen=True)
class GptqTensor:
    """`levels` [in x bits / 32, out] are packed along in, `zeros` [groups, out x bits / 32] along out; `scales` [groups, out]. `groups`
    [in] says which group an input is of, where they do not follow each other. `zero_shift` is what stored zero points lack."""

    name: str
    bits: int
    levels: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor
    groups: StoredTensor | None
    group_size: int
    zero_shift: int

    @property
    def file(self) -> str:
        return self.levels.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.levels.shape[1], self.levels.shape[0] * 32 // self.bits

    def read(self, start: int, stop: int) -> Floats:
        inputs = self.shape[1]
        levels = unpack(_words(self.levels.raw_columns(start, stop)), self.bits, inputs)
        first, last = start * self.bits // 32, -(-stop * self.bits // 32)
        if self.bits == 3:  # words hold parts of levels: a whole run is 32 levels in 3 words
            first, last = start // 32 * 3, min(-(-stop // 32) * 3, self.zeros.shape[1])
        skipped = start - first * 32 // self.bits
        words = _words(self.zeros.raw_columns(first, last))
        zeros = unpack(words.T, self.bits, skipped + stop - start)[skipped:].T
        zeros = (zeros + np.uint8(self.zero_shift)) & np.uint8((1 << self.bits) - 1)
        in_order = np.arange(inputs) // self.group_size
        group_of = in_order if self.groups is None else group_numbers(self.groups, len(zeros), self.name)
        return _weights(levels, zeros, self.scales.columns(start, stop), group_of)

    def flattened(self) -> GptqTensor:
        return self


@dataclass(frozen=True)
class AwqTensor:
    """`levels` [in, out / 8] and `zeros` [groups, out / 8] of 4 bits, packed along out in AWQ's order; `scales` [groups, out]."""

    levels: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor
    group_size: int

    @property
    def file(self) -> str:
        return self.levels.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.levels.shape[1] * _AWQ_PER_WORD, self.levels.shape[0]

    def read(self, start: int, stop: int) -> Floats:
        first, last = start // _AWQ_PER_WORD, -(-stop // _AWQ_PER_WORD)
        cut = slice(start - first * _AWQ_PER_WORD, stop - first * _AWQ_PER_WORD)
        levels, zeros = (self._unpacked(packed.raw_columns(first, last))[:, cut] for packed in (self.levels, self.zeros))
        return _weights(levels, zeros, self.scales.columns(start, stop), np.arange(self.shape[1]) // self.group_size)

    def flattened(self) -> AwqTensor:
        return self

    @staticmethod
    def _unpacked(packed: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """[rows, 8 x columns]."""
        levels = _words(packed)[..., None] >> (4 * _AWQ_PLACES).astype(np.uint32) & np.uint32(15)
        return levels.astype(np.uint8).reshape(len(packed), -1)


@dataclass(frozen=True)
class PackedTensor:
    """compressed-tensors: `levels` [out, in x bits / 32] are packed along in and count from the middle; `scales` [out, groups]; `zeros`
    [out x bits / 32, groups] are packed along out and count likewise, or are left out. `groups` [in] as GPTQ's."""

    name: str
    bits: int
    shape: tuple[int, ...]
    levels: StoredTensor
    scales: StoredTensor
    zeros: StoredTensor | None
    groups: StoredTensor | None

    @property
    def file(self) -> str:
        return self.levels.file

    def read(self, start: int, stop: int) -> Floats:
        inputs, per_word, middle = self.shape[1], 32 // self.bits, 1 << (self.bits - 1)
        levels = unpack(_words(self.levels.raw(start, stop)).T, self.bits, inputs)
        count = self.scales.shape[1]
        zeros = np.full((count, stop - start), middle, np.uint8)
        if self.zeros is not None:
            first = start // per_word
            words = _words(self.zeros.raw(first, -(-stop // per_word)))
            zeros = unpack(words, self.bits, stop - first * per_word)[start - first * per_word :].T
        group_of = np.arange(inputs) // (inputs // count)
        if self.groups is not None and self.groups.raw(0, inputs).min() >= 0:  # -1: never set
            group_of = group_numbers(self.groups, count, self.name)
        return _weights(levels, zeros, self.scales.read(start, stop).T, group_of)

    def flattened(self) -> PackedTensor:
        return self


def unpack(words: Words, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """[count, columns] of `bits` each out of words [n, columns], the lowest bits first and across words where they do not divide 32."""
    places = np.arange(count) * bits
    word, shift = places // 32, (places % 32).astype(np.uint32)[:, None]
    levels = words[word] >> shift
    if 32 % bits:
        beyond = np.flatnonzero(shift[:, 0] + bits > 32)
        levels[beyond] |= words[word[beyond] + 1] << (np.uint32(32) - shift[beyond])
    return (levels & np.uint32((1 << bits) - 1)).astype(np.uint8)


def group_numbers(stored: StoredTensor, count: int, name: str) -> npt.NDArray[np.intp]:
    """Of each input. Raises InvalidInput for one beyond `count`."""
    found = stored.raw(0, stored.shape[0]).astype(np.intp)
    if found.min() < 0 or found.max() >= count:
        raise InvalidInput(f"{stored.file}: {name} names a group that has no scale", advice="get the checkpoint again")
    return found


def _weights(levels: npt.NDArray[np.uint8], zeros: npt.NDArray[np.uint8], scales: Floats, group_of: npt.NDArray[np.intp]) -> Floats:
    """float32 [out, in] of levels [in, out], zero points and scales [groups, out]."""
    weights = levels.astype(np.float32)
    weights -= zeros.astype(np.float32)[group_of]
    weights *= scales[group_of]
    return np.ascontiguousarray(weights.T)


def _words(stored: npt.NDArray[Any]) -> Words:
    return stored.view(np.uint32)
