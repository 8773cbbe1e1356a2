"""The manifest as frozen data, with its canonical bytes: their SHA-256 is the model version's identity."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from google.protobuf import json_format

from protos.errors import Corrupt
from protos.ids import Digest, digest_of, parse_digest
from protos.v1 import manifest_pb2 as pb

FORMAT_VERSION = 1
ALIGNMENT = 4096
ITEM_BYTES = {"float32": 4, "uint8": 1}


@dataclass(frozen=True)
class Experts:
    """Of a mixture of experts; see manifest.proto."""

    first_layer: int
    count: int
    per_token: int
    intermediate_size: int
    shared_intermediate_size: int
    groups: int
    groups_per_token: int
    normalized: bool
    scale: float


@dataclass(frozen=True)
class RopeScaling:
    """How the pairs of a scaled rotary embedding turn; see manifest.proto."""

    kind: str
    frequencies: tuple[float, ...]
    magnitude: float


@dataclass(frozen=True)
class Latent:
    """Of attention over a latent; see manifest.proto."""

    rank: int
    query_rank: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of a decoder (manifest.proto says what each is)."""

    architecture: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_epsilon: float
    rope_theta: float
    rotary_dim: int
    qkv_bias: bool
    tied_head: bool
    max_positions: int
    eos_token_ids: tuple[int, ...]
    rotary_halves: bool = False
    qk_norm: bool = False
    experts: Experts | None = None
    rope_scaling: RopeScaling | None = None
    prefix_whole: bool = False
    learned_positions: int = 0
    mask_token_ids: tuple[int, ...] = ()
    start_token_id: int = 0
    latent: Latent | None = None

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Quantization:
    bits: int
    block_size: int
    symmetric: bool
    rotated: bool = False
    outer_bits: int = 8


@dataclass(frozen=True)
class Provenance:
    source: str
    license: str
    notice: str
    parameters: int = 0


@dataclass(frozen=True)
class Blob:
    digest: Digest
    size_bytes: int


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: `offset` bytes into blob number `blob` of its variant; C order, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blob: int
    offset: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Variant:
    layout: str
    blobs: tuple[Blob, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Cost:
    """Of one token in one part; see manifest.proto."""

    weight_bytes: int
    read_bytes: int
    macs: int
    kv_bytes_per_token: int


@dataclass(frozen=True)
class Part:
    name: str
    cost: Cost
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class TextFile:
    name: str
    blob: Blob


@dataclass(frozen=True)
class GoldenRows:
    """See manifest.proto."""

    token_ids: tuple[int, ...]
    scale: float
    blob: Blob
    logits_scale: float = 0.0
    logits: Blob | None = None

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return (self.blob, self.logits) if self.logits else (self.blob,)


@dataclass(frozen=True)
class SamplingDefaults:
    """How the model's maker has it sampled where a request does not say; None: that is not said. See protos/sampling.py."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    typical_p: float | None = None

    @property
    def said(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    config: ModelConfig
    quantization: Quantization
    provenance: Provenance
    parts: tuple[Part, ...]
    text_files: tuple[TextFile, ...] = ()
    golden: GoldenRows | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    format_version: int = field(default=FORMAT_VERSION)

    def part(self, name: str) -> Part:
        """Raises KeyError."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    def blobs(self) -> dict[Digest, Blob]:
        """Every blob the manifest names (first variants and others, text files, golden rows), by digest."""
        found = [blob for part in self.parts for variant in part.variants for blob in variant.blobs]
        golden = self.golden.blobs if self.golden else ()
        return {blob.digest: blob for blob in [*found, *(file.blob for file in self.text_files), *golden]}

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        plain = json_format.MessageToDict(_to_proto(self), preserving_proto_field_name=True)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def digest(self) -> Digest:
        return digest_of(self.to_bytes())


def parse(data: bytes) -> Manifest:
    """The manifest in these bytes. Raises Corrupt when they are no manifest we can read, or contradict themselves."""
    message = pb.Manifest()
    try:
        json_format.Parse(data.decode(), message, max_recursion_depth=20)
        if message.format_version != FORMAT_VERSION:
            raise Corrupt(
                f"manifest format {message.format_version}; this program reads {FORMAT_VERSION}",
                advice="update glmfleet, or import the model again",
            )
        manifest = _from_proto(message)
        _check(manifest)
    except (json_format.ParseError, UnicodeDecodeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Corrupt(f"not a manifest: {' '.join(str(error).split())[:200]}", advice="import the model again") from error
    return manifest


def _check(manifest: Manifest) -> None:
    config = manifest.config
    if not all(
        (config.hidden_size, config.layers, config.heads, config.kv_heads, config.head_dim, config.vocab_size, config.max_positions)
    ):
        raise ValueError("a size of the model is zero")
    if (scaling := manifest.config.rope_scaling) is not None:
        values = (*scaling.frequencies, scaling.magnitude)
        if len(scaling.frequencies) * 2 != manifest.config.rotary_dim or not all(map(math.isfinite, values)):
            raise ValueError("the rotary frequencies are not of the model's shape")
    names = [part.name for part in manifest.parts]
    if len(set(names)) != len(names):
        raise ValueError("a part is named twice")
    if (golden := manifest.golden) is not None:
        if golden.blob.size_bytes != 2 * (manifest.config.layers + 1) * len(golden.token_ids) * manifest.config.hidden_size:
            raise ValueError("the golden rows are not of the model's shape")
        if not (math.isfinite(golden.scale) and golden.scale > 0):
            raise ValueError("the golden rows have no scale")
        if golden.logits is not None:
            rows, rest = divmod(golden.logits.size_bytes, 2 * manifest.config.vocab_size)
            if rest or not 0 < rows <= len(golden.token_ids):
                raise ValueError("the golden logits are not of the model's shape")
            if not (math.isfinite(golden.logits_scale) and golden.logits_scale > 0):
                raise ValueError("the golden logits have no scale")
    for part in manifest.parts:
        if not part.variants:
            raise ValueError(f"part {part.name} has no variant")
        for variant in part.variants:
            for tensor in variant.tensors:
                where = f"tensor {part.name}/{tensor.name}"
                if tensor.dtype not in ITEM_BYTES:
                    raise ValueError(f"{where}: unknown dtype {tensor.dtype!r}")
                if tensor.offset % ALIGNMENT:
                    raise ValueError(f"{where}: offset is not a multiple of {ALIGNMENT}")
                if not 0 <= tensor.blob < len(variant.blobs):
                    raise ValueError(f"{where}: no blob number {tensor.blob}")
                if tensor.offset + tensor.size_bytes > variant.blobs[tensor.blob].size_bytes:
                    raise ValueError(f"{where}: reaches beyond its blob")


def _to_proto(manifest: Manifest) -> pb.Manifest:
    config = manifest.config
    return pb.Manifest(
        format_version=manifest.format_version,
        config=pb.ModelConfig(
            **{name: getattr(config, name) for name in config.__dataclass_fields__ if name not in ("experts", "rope_scaling", "latent")},
            experts=pb.Experts(**vars(config.experts)) if config.experts else None,
            rope_scaling=pb.RopeScaling(**vars(config.rope_scaling)) if config.rope_scaling else None,
            latent=pb.Latent(**vars(config.latent)) if config.latent else None,
        ),
        quantization=pb.Quantization(**vars(manifest.quantization)),
        provenance=pb.Provenance(**vars(manifest.provenance)),
        parts=[
            pb.Part(name=part.name, cost=pb.Cost(**vars(part.cost)), variants=[_variant_to_proto(variant) for variant in part.variants])
            for part in manifest.parts
        ],
        text_files=[pb.TextFile(name=file.name, blob=_blob_to_proto(file.blob)) for file in manifest.text_files],
        golden=_golden_to_proto(manifest.golden) if manifest.golden else None,
        sampling=pb.SamplingDefaults(**manifest.sampling.said) if manifest.sampling.said else None,
    )


def _blob_to_proto(blob: Blob) -> pb.Blob:
    return pb.Blob(digest=blob.digest, size_bytes=blob.size_bytes)


def _golden_to_proto(golden: GoldenRows) -> pb.GoldenRows:
    logits = _blob_to_proto(golden.logits) if golden.logits else None
    blob = _blob_to_proto(golden.blob)
    return pb.GoldenRows(token_ids=golden.token_ids, scale=golden.scale, blob=blob, logits_scale=golden.logits_scale, logits=logits)


def _variant_to_proto(variant: Variant) -> pb.Variant:
    return pb.Variant(
        layout=variant.layout,
        blobs=[_blob_to_proto(blob) for blob in variant.blobs],
        tensors=[pb.Tensor(**vars(tensor)) for tensor in variant.tensors],
    )


def _blob(message: pb.Blob) -> Blob:
    return Blob(parse_digest(message.digest), message.size_bytes)


def _golden(message: pb.GoldenRows) -> GoldenRows:
    logits = _blob(message.logits) if message.HasField("logits") else None
    return GoldenRows(tuple(message.token_ids), message.scale, _blob(message.blob), message.logits_scale, logits)


def _variant(message: pb.Variant) -> Variant:
    tensors = tuple(Tensor(t.name, t.dtype, tuple(t.shape), t.blob, t.offset) for t in message.tensors)
    return Variant(message.layout, tuple(_blob(blob) for blob in message.blobs), tensors)


def _cost(message: pb.Cost) -> Cost:
    return Cost(message.weight_bytes, message.read_bytes, message.macs, message.kv_bytes_per_token)


def _rope_scaling(message: pb.RopeScaling) -> RopeScaling:
    return RopeScaling(message.kind, tuple(message.frequencies), message.magnitude)


def _from_proto(message: pb.Manifest) -> Manifest:
    c = message.config
    return Manifest(
        config=ModelConfig(
            **{
                name: getattr(c, name)
                for name in ModelConfig.__dataclass_fields__
                if not name.endswith(("token_ids", "experts", "scaling", "latent"))
            },
            eos_token_ids=tuple(c.eos_token_ids),
            mask_token_ids=tuple(c.mask_token_ids),
            experts=Experts(**{name: getattr(c.experts, name) for name in Experts.__dataclass_fields__}) if c.HasField("experts") else None,
            rope_scaling=_rope_scaling(c.rope_scaling) if c.HasField("rope_scaling") else None,
            latent=Latent(**{name: getattr(c.latent, name) for name in Latent.__dataclass_fields__}) if c.HasField("latent") else None,
        ),
        quantization=Quantization(**{name: getattr(message.quantization, name) for name in Quantization.__dataclass_fields__}),
        provenance=Provenance(**{name: getattr(message.provenance, name) for name in Provenance.__dataclass_fields__}),
        parts=tuple(Part(p.name, _cost(p.cost), tuple(_variant(v) for v in p.variants)) for p in message.parts),
        text_files=tuple(TextFile(f.name, _blob(f.blob)) for f in message.text_files),
        golden=_golden(message.golden) if message.HasField("golden") else None,
        sampling=SamplingDefaults(
            **{name: getattr(message.sampling, name) for name in SamplingDefaults.__dataclass_fields__ if message.sampling.HasField(name)}
        ),
        format_version=message.format_version,
    )
