"""Published speeds of language models on the chips that can be simulated: to fit efficiencies on, and to judge them by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protos.physics.costs import StageCost
from protos.physics.timing import Decode, Prefill, StageRun

# As in quantize.costs: operators of a decoder layer, and elements of a row that they read and write.
_LAYER_OPERATORS, _ENDS = 10, 6


@dataclass(frozen=True)
class Model:
    """A published decoder's shape, as its configuration file has it."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    wide: int
    vocab: int
    gated: bool = True

    def cost(self, bits: float) -> StageCost:
        """With all matrices at `bits` a weight, scales included, and a cache and activations of 16 bit."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = self.hidden * (query + 2 * key) + query * self.hidden + (3 if self.gated else 2) * self.hidden * self.wide
        head = self.vocab * self.hidden
        return StageCost(
            read_bytes=int(self.layers * layer * bits / 8),
            macs_per_row=self.layers * layer,
            kv_bytes_per_token=2 * 2 * key * self.layers,
            head_read_bytes=int(head * bits / 8),
            head_macs_per_row=head,
            attention_macs_per_position=2 * query * self.layers,
            activation_bytes_per_row=2 * self.layers * (12 * self.hidden + 4 * query + 4 * key + 12 * self.wide),
            operators=self.layers * _LAYER_OPERATORS + _ENDS,
            embedding_bytes_per_row=2 * self.hidden,
        )


LLAMA31_8B = Model(4096, 32, 32, 8, 128, 14336, 128256)
LLAMA32_3B = Model(3072, 28, 24, 8, 128, 8192, 128256)
LLAMA2_7B = Model(4096, 32, 32, 32, 128, 11008, 32000)
LLAMA2_13B = Model(5120, 40, 40, 40, 128, 13824, 32000)
LLAMA2_70B = Model(8192, 80, 64, 8, 128, 28672, 32000)
QWEN25_7B = Model(3584, 28, 28, 4, 128, 18944, 152064)
QWEN25_14B = Model(5120, 48, 40, 8, 128, 13824, 152064)
QWEN25_15B = Model(1536, 28, 12, 2, 128, 8960, 151936)
QWEN2_05B = Model(896, 24, 14, 2, 64, 4864, 151936)
QWEN3_06B = Model(1024, 28, 16, 8, 128, 3072, 151936)
GEMMA2_2B = Model(2304, 26, 8, 4, 256, 9216, 256000)
GEMMA2_9B = Model(3584, 42, 16, 8, 256, 14336, 256000)
PHI35 = Model(3072, 32, 32, 32, 96, 8192, 32064)
SMOLLM2_17B = Model(2048, 24, 32, 32, 64, 8192, 49152)
TINYLLAMA = Model(2048, 22, 32, 4, 64, 5632, 32000)
INTERNLM2_18B = Model(2048, 24, 16, 8, 128, 8192, 92544)
CHATGLM3_6B = Model(4096, 28, 32, 2, 128, 13696, 65024)
GLM_EDGE_15B = Model(2048, 28, 16, 4, 128, 6144, 59264)
GLM_EDGE_4B = Model(3072, 40, 24, 6, 128, 8192, 59264)


@dataclass(frozen=True)
class Point:
    """One published speed: decode in tokens/s of one stream, prefill in seconds to the first token. `use` says which half it is of."""

    profile: str
    name: str
    model: Model
    bits: float
    phase: Literal["decode", "prefill"]
    published: float
    use: Literal["fit", "held out"]
    source: str
    prompt: int = 128

    def run(self) -> StageRun:
        body = Decode((self.prompt,)) if self.phase == "decode" else Prefill(0, self.prompt)
        return StageRun(self.model.cost(self.bits), body, head_rows=1)


NVIDIA = "NVIDIA, Jetson Orin Nano Super, December 2024; MLC, 4 bit"
RKLLM = "airockchip/rknn-llm, benchmark.md; prompt 128, 64 new tokens"
GEERLING = "geerlingguy/ollama-benchmark; Q4_K_M, 16 GB board"
FAST = "pytorch-labs/gpt-fast, README; batch 1, power limited to 330 W"
GLM = "GLM-Edge's release, INT4"
HUB = "Qualcomm AI Hub, w4a16, QRD"
INT4, Q4_K_M = 4.5, 4.85  # with their scales


def _decodes(profile: str, source: str, bits: float, *rows: tuple[str, Model, float]) -> list[Point]:
    """In turn for fitting and held out, in the order of the source."""
    return [
        Point(profile, name, model, bits, "decode", published, "held out" if index % 2 else "fit", source)
        for index, (name, model, published) in enumerate(rows)
    ]


def _rkllm() -> list[Point]:
    rows = [
        ("Qwen2 0.5B", QWEN2_05B, 41.58, 145.90),
        ("Qwen3 0.6B", QWEN3_06B, 32.91, 199.09),
        ("TinyLlama 1.1B", TINYLLAMA, 24.43, 243.93),
        ("Qwen2.5 1.5B", QWEN25_15B, 16.69, 378.31),
        ("InternLM2 1.8B", INTERNLM2_18B, 15.45, 380.14),
        ("Gemma2 2B", GEMMA2_2B, 10.37, 598.41),
        ("Phi3 3.8B", PHI35, 7.45, 1017.28),
        ("ChatGLM3 6B", CHATGLM3_6B, 4.98, 1352.94),
    ]
    decode = _decodes("rk3588", RKLLM, 8.0, *[(name, model, speed) for name, model, speed, _ in rows])
    prefill = [
        Point("rk3588", name, model, 8.0, "prefill", milliseconds / 1e3, "held out" if index % 2 else "fit", RKLLM)
        for index, (name, model, _, milliseconds) in enumerate(rows)
    ]
    return [*decode, *prefill]


POINTS: tuple[Point, ...] = (
    *_decodes(
        "jetson-orin-nano-super",
        NVIDIA,
        INT4,
        ("Llama 3.1 8B", LLAMA31_8B, 19.14),
        ("Qwen2.5 7B", QWEN25_7B, 21.75),
        ("Gemma 2 9B", GEMMA2_9B, 9.21),
        ("Llama 3.2 3B", LLAMA32_3B, 43.07),
        ("Phi 3.5 3B", PHI35, 38.1),
        ("Gemma 2 2B", GEMMA2_2B, 34.97),
        ("SmolLM2 1.7B", SMOLLM2_17B, 64.5),
    ),
    *_rkllm(),
    *_decodes(
        "raspberry-pi-5",
        GEERLING,
        Q4_K_M,
        ("Llama 3.2 3B", LLAMA32_3B, 4.88),
        ("Llama 3.1 8B", LLAMA31_8B, 2.17),
        ("DeepSeek R1 14B", QWEN25_14B, 1.20),
        ("Llama 2 13B", LLAMA2_13B, 1.36),
    ),
    Point("nvidia-a100", "Llama 2 7B, 16 bit", LLAMA2_7B, 16.0, "decode", 104.9, "held out", FAST, prompt=5),
    Point("nvidia-a100", "Llama 2 7B, 8 bit", LLAMA2_7B, 8.0, "decode", 155.58, "fit", FAST, prompt=5),
    Point("nvidia-a100", "Llama 2 7B, 4 bit", LLAMA2_7B, 5.0, "decode", 196.80, "held out", FAST, prompt=5),
    Point("nvidia-a100", "Llama 2 70B, 8 bit", LLAMA2_70B, 8.0, "decode", 19.13, "fit", FAST, prompt=5),
    Point("nvidia-a100", "Llama 2 70B, 4 bit", LLAMA2_70B, 5.0, "decode", 25.25, "held out", FAST, prompt=5),
    Point("snapdragon-8-elite", "GLM-Edge 4B", GLM_EDGE_4B, INT4, "decode", 24.0, "fit", GLM),
    Point("snapdragon-8-elite", "GLM-Edge 1.5B", GLM_EDGE_15B, INT4, "decode", 65.0, "held out", GLM),
    Point("snapdragon-8-elite", "Llama 3.1 8B", LLAMA31_8B, INT4, "decode", 12.93, "held out", HUB),
    Point("hailo-10h", "Qwen2 1.5B", QWEN25_15B, INT4, "decode", 9.45, "fit", "awesomeagents.ai, Hailo-10H"),
    Point("intel-lunar-lake-npu", "DeepSeek R1 8B", LLAMA31_8B, INT4, "decode", 6.10, "fit", "OpenVINO Model Hub, NPU"),
)
