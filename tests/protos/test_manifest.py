"""The manifest: one model version, one row of bytes; and nothing odd gets in."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import Corrupt
from protos.ids import digest_of
from protos.manifest import (
    ALIGNMENT,
    ITEM_BYTES,
    Blob,
    Cost,
    GoldenRows,
    Manifest,
    ModelConfig,
    Part,
    Provenance,
    Quantization,
    RopeScaling,
    SamplingDefaults,
    Tensor,
    TextFile,
    Variant,
    parse,
)

CONFIG = ModelConfig(
    architecture="glm",
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    norm_epsilon=1e-5,
    rope_theta=1e5,
    rotary_dim=64,
    qkv_bias=False,
    tied_head=True,
    max_positions=8192,
    eos_token_ids=(2, 0),
)
SHARED = Blob(digest_of(b"shared"), 3 * ALIGNMENT)
OWN = Blob(digest_of(b"own"), 10_000)
MANIFEST = Manifest(
    config=CONFIG,
    quantization=Quantization(8, 32, True),
    provenance=Provenance("somewhere", "Apache-2.0", "“quoted”, and more"),
    parts=(
        Part("embedding", Cost(1, 2, 3, 0), (Variant("a", (SHARED,), (Tensor("weight", "uint8", (64, 192), 0, 0),)),)),
        Part(
            "head",
            Cost(1, 2, 3, 0),
            (Variant("a", (OWN, SHARED), (Tensor("weight", "uint8", (64, 192), 1, 0), Tensor("norm", "float32", (48,), 0, 4096))),),
        ),
    ),
    text_files=(TextFile("tokenizer.json", Blob(digest_of(b"t"), 7)),),
    golden=GoldenRows((1, 2), 0.25, Blob(digest_of(b"g"), 2 * (CONFIG.layers + 1) * 2 * CONFIG.hidden_size)),
)

digests = st.binary(max_size=8).map(digest_of)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
sizes = st.integers(0, 2**40)
floats = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**31 - 1)


@st.composite
def variants(draw: st.DrawFn) -> Variant:
    tensors, blobs = [], []
    for number in range(draw(st.integers(0, 3))):
        dtype, shape = draw(st.sampled_from(sorted(ITEM_BYTES))), tuple(draw(st.lists(st.integers(0, 50), max_size=3)))
        tensor = Tensor(draw(names), dtype, shape, number, ALIGNMENT * draw(st.integers(0, 100)))
        tensors.append(tensor)
        blobs.append(Blob(draw(digests), tensor.offset + tensor.size_bytes + draw(st.integers(0, 10))))
    return Variant(draw(names), tuple(blobs), tuple(tensors))


manifests = st.builds(
    Manifest,
    config=st.builds(
        ModelConfig,
        **{name: st.integers(1, 2**31 - 1) for name, kind in ModelConfig.__annotations__.items() if kind == "int"},
        norm_epsilon=floats,
        rope_theta=floats,
        eos_token_ids=st.lists(counts, max_size=4).map(tuple),
    ),
    quantization=st.builds(Quantization, counts, counts, st.booleans(), st.booleans()),
    provenance=st.builds(Provenance, names, names, names, sizes),
    parts=st.lists(
        st.builds(Part, names, st.builds(Cost, sizes, sizes, sizes, sizes), st.lists(variants(), min_size=1, max_size=2).map(tuple)),
        max_size=3,
        unique_by=lambda part: part.name,
    ).map(tuple),
    sampling=st.builds(SamplingDefaults, temperature=st.none() | floats, top_k=st.none() | counts, typical_p=st.none() | floats),
    text_files=st.lists(st.builds(TextFile, names, st.builds(Blob, digests, sizes)), max_size=2).map(tuple),
)


@given(manifests)
def test_bytes_read_back_to_the_same_and_are_canonical(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    again = parse(data)
    assert again == manifest
    assert again.to_bytes() == data
    assert again.digest == digest_of(data) == manifest.digest


def test_bytes_are_made_once_and_anew_for_another() -> None:
    """They are sent before each stage is loaded, and take milliseconds to make."""
    manifest = replace(MANIFEST)
    assert manifest.to_bytes() is manifest.to_bytes()
    assert replace(manifest, provenance=replace(manifest.provenance, notice="another")).to_bytes() != manifest.to_bytes()


def test_the_identity_does_not_drift() -> None:
    """Changing how a manifest is written would give every model on every device another name."""
    assert MANIFEST.digest == "a12b380bec983a5e7bc5d18e5afd3ba187b070b8114d9ba159fe88f156569073"  # pragma: allowlist secret


@pytest.mark.parametrize("change", [{"scale": 0.0}, {"token_ids": (1, 2, 3)}, {"blob": Blob(digest_of(b"g"), 8)}], ids=str)
def test_golden_rows_that_are_not_the_models(change: dict[str, Any]) -> None:
    assert MANIFEST.golden
    bad = replace(MANIFEST, golden=replace(MANIFEST.golden, **change))
    with pytest.raises(Corrupt, match="golden rows"):
        parse(bad.to_bytes())


def test_scaled_positions_are_read_back_and_fit_the_pairs_that_turn() -> None:
    scaling = RopeScaling("yarn", tuple(1 / (pair + 1) for pair in range(32)), 1.3)
    manifest = replace(MANIFEST, config=replace(CONFIG, rope_scaling=scaling))
    assert parse(manifest.to_bytes()) == manifest
    assert manifest.digest != MANIFEST.digest
    for bad in (replace(scaling, frequencies=(1.0,)), replace(scaling, magnitude=float("inf"))):
        with pytest.raises(Corrupt, match="rotary frequencies"):
            parse(replace(manifest, config=replace(CONFIG, rope_scaling=bad)).to_bytes())


def test_another_model_has_another_digest() -> None:
    assert replace(MANIFEST, config=replace(CONFIG, rope_theta=1e4)).digest != MANIFEST.digest


def test_blobs_are_named_once() -> None:
    assert MANIFEST.golden
    assert MANIFEST.blobs() == {blob.digest: blob for blob in (SHARED, OWN, Blob(digest_of(b"t"), 7), MANIFEST.golden.blob)}


def test_parts_by_name() -> None:
    assert MANIFEST.part("head").name == "head"
    with pytest.raises(KeyError):
        MANIFEST.part("layers.0")


def changed(*path: str | int, to: Any) -> bytes:
    """The manifest's JSON with one value replaced."""
    plain = json.loads(MANIFEST.to_bytes())
    target = plain
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = to
    return json.dumps(plain).encode()


def test_changed_changes_nothing_else() -> None:
    assert parse(changed("config", "heads", to=31)) == replace(MANIFEST, config=replace(CONFIG, heads=31))


TENSOR = ("parts", 1, "variants", 0, "tensors", 0)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a manifest"),
        (b"\xff\xfe", "not a manifest"),
        (b"[]", "manifest format 0"),
        (b"null", "not a manifest"),
        (b"7", "not a manifest"),
        (b"{}", "manifest format 0"),
        (b"{" * 5000, "not a manifest"),
        (MANIFEST.to_bytes()[:-1], "not a manifest"),
        (changed("format_version", to=2), "manifest format 2; this program reads 1"),
        (changed("surprise", to=1), "surprise"),
        (changed("config", "layers", to=-1), "not a manifest"),
        (changed("config", "layers", to="many"), "not a manifest"),
        (changed("parts", 0, "name", to="head"), "a part is named twice"),
        (changed("parts", 0, "variants", to=[]), "part embedding has no variant"),
        (changed("text_files", 0, "blob", "digest", to="../../etc/passwd"), "not a SHA-256 digest"),
        (changed("parts", 0, "variants", 0, "blobs", 0, "digest", to="A" * 64), "not a SHA-256 digest"),
        (changed(*TENSOR, "dtype", to="object"), "tensor head/weight: unknown dtype 'object'"),
        (changed(*TENSOR, "offset", to="1"), "offset is not a multiple of 4096"),
        (changed(*TENSOR, "offset", to="4096"), "tensor head/weight: reaches beyond its blob"),
        (changed(*TENSOR, "shape", to=["64", "193"]), "tensor head/weight: reaches beyond its blob"),
        (changed(*TENSOR, "shape", to=["-64", "192"]), "not a manifest"),
        (changed(*TENSOR, "shape", to=[str(2**63), "2"]), "tensor head/weight: reaches beyond its blob"),
        (changed(*TENSOR, "blob", to=2), "tensor head/weight: no blob number 2"),
    ],
)
def test_what_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(Corrupt, match=complaint) as caught:
        parse(data)
    assert "\n" not in caught.value.detail
    assert caught.value.advice


@given(st.integers(0, len(MANIFEST.to_bytes()) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused_as_corrupt_or_read_as_what_it_says(position: int, bit: int) -> None:
    data = bytearray(MANIFEST.to_bytes())
    data[position] ^= 1 << bit
    try:
        manifest = parse(bytes(data))
    except Corrupt:
        return
    assert (manifest.digest == MANIFEST.digest) == (manifest == MANIFEST)
    assert parse(manifest.to_bytes()) == manifest


@pytest.mark.parametrize("field", ["hidden_size", "layers", "heads", "kv_heads", "head_dim", "vocab_size", "max_positions"])
def test_a_size_that_is_zero_is_no_model(field: str) -> None:
    """Whoever lists the models would divide by it."""
    golden = GoldenRows((1, 2), 1.0, Blob(digest_of(b"g"), 2 * 31 * 2 * 576), 1.0, Blob(digest_of(b"l"), 2 * 49152))
    parse(replace(MANIFEST, golden=golden).to_bytes())
    zero: dict[str, Any] = {field: 0}
    with pytest.raises(Corrupt, match="a size of the model is zero"):
        parse(replace(MANIFEST, config=replace(CONFIG, **zero), golden=golden).to_bytes())
