from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.planning import costs
from fleet.planning.plan import Objective, Plan, PlanRequest
from fleet.planning.planner import PlannerDevice, plan
from fleet.planning.presence import with_present
from fleet.planning.why import with_relayed
from protos.dtypes import WireDtype
from protos.errors import InvalidInput, NoSpace, NotFound
from protos.ids import digest_of
from protos.manifest import Blob, Cost, Manifest, ModelConfig, Part, Provenance, Quantization, Tensor, Variant
from protos.physics.costs import StageCost
from protos.physics.roofline import Figures
from protos.physics.timing import StageRun
from protos.sizes import bytes_text
from quantize.parts import stage_parts

MIB = 1 << 20
GIB = 1 << 30
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "energy")


def a_blob(name: str, size_bytes: int) -> Blob:
    return Blob(digest_of(name.encode()), size_bytes)


def a_model(
    layers: int = 30, *, tied: bool = True, max_positions: int = 8192, scale: int = 1, hidden: int = 576, scales: bool = True
) -> Manifest:
    """Of about the default model's sizes; `scale` divides them."""
    config = ModelConfig("GlmForCausalLM", hidden, layers, 9, 3, 64, 1536, 49152 // scale, 1e-5, 1e5, 64, False, tied, max_positions, (0,))
    table, layer = 31_850_496 // scale, 3_982_464 // scale
    embedding, cosines = a_blob("embedding", table), a_blob("positions", 2_097_152 // scale)
    tensors = (Tensor("cos", "float32", (max_positions, 1), 0, 0),)
    kv_scales = tuple(Tensor(name, "float32", (192,), 0, 0) for name in ("k_scale", "v_scale")) if scales else ()
    head = (a_blob("norm", 4096), embedding if tied else a_blob("head", table))
    return Manifest(
        config,
        Quantization(8, 32, True),
        Provenance("test", "", ""),
        (
            Part("embedding", Cost(table, 648, 0, 0), (Variant("x", (embedding,), ()),)),
            Part("positions", Cost(cosines.size_bytes, 0, 0, 0), (Variant("x", (cosines,), tensors),)),
            *(
                Part(
                    f"layers.{i}", Cost(layer, layer, 3_538_944 // scale, 1536), (Variant("x", (a_blob(f"layer {i}", layer),), kv_scales),)
                )
                for i in range(layers)
            ),
            Part("head", Cost(table, table, 28_311_552 // scale, 0), (Variant("x", head, ()),)),
        ),
    )


def a_device(number: int, memory_bytes: int = 8 * GIB, **figures: float) -> PlannerDevice:
    known = {
        "linear_bytes_per_second": 17e9,
        "linear_macs_per_second": 1e12,
        "launch_seconds": 1e-4,
        "idle_watts": 3.0,
        "joules_per_byte": 56e-12,
        "joules_per_mac": 0.23e-12,
    }
    return PlannerDevice(f"id{number:04}", f"dev-{number}", "rk3588", True, memory_bytes, Figures(**{**known, **figures}))


def layers_of(result: Plan) -> list[int]:
    return [layer for stage in result.stages for layer in range(stage.first_layer, stage.stop_layer)]


def need_of(manifest: Manifest, result: Plan, place: int) -> costs.Need:
    shape = costs.PipelineShape(result.context, result.groups, result.slots_per_group, result.prefill_chunk)
    return costs.stage_need(manifest, result.stages[place].parts, shape)


def test_one_device_takes_it_all_when_it_fits() -> None:
    result = plan(a_model(), [a_device(2), a_device(1), a_device(3)], PlanRequest("m"))
    (stage,) = result.stages
    assert stage.device_id == "id0001"
    assert stage.parts == ("embedding", "positions", *(f"layers.{i}" for i in range(30)), "head")
    assert (result.groups, result.slots_per_group, result.context, result.prefill_chunk) == (1, 16, 4096, 256)
    assert result.why[0] == "fits on one device; 2 more are left free"
    assert result.hop_bytes == 576 * 4


def test_a_plan_names_devices_that_dial_out() -> None:
    made = plan(a_model(), [a_device(1)], PlanRequest("m"))
    assert with_relayed(made, {"id0002"}) == made
    assert with_relayed(made, {"id0001"}).why[-1].startswith("relayed: what is sent to dev-1 passes through the coordinator")


def test_stages_other_than_the_head_hold_positions_and_layers_only() -> None:
    result = plan(a_model(), [a_device(i) for i in range(3)], PlanRequest("m", stages=3))
    assert result.stages[0].parts[:2] == ("embedding", "positions")
    assert result.stages[0].parts[-1] == "head"
    for stage in result.stages[1:]:
        assert stage.parts == ("positions", *(f"layers.{i}" for i in range(stage.first_layer, stage.stop_layer)))


def test_identical_devices_get_even_stages_with_the_output_head_counted() -> None:
    # The output head takes as long as 7.3 layers (8, but for the cache that layers read): 37.3 layers' time in all, 12.4 a stage.
    result = plan(a_model(), [a_device(i) for i in range(3)], PlanRequest("m", stages=3))
    assert [stage.stop_layer - stage.first_layer for stage in result.stages] == [5, 12, 13]
    assert any("takes as long as 7.3 layers" in line for line in result.why)


def test_a_tied_head_is_resident_twice_and_pushed_once() -> None:
    (tied,), (untied,) = (plan(a_model(tied=tied), [a_device(1)], PlanRequest("m")).stages for tied in (True, False))
    assert tied.weight_bytes == untied.weight_bytes
    assert untied.push_bytes - tied.push_bytes == 31_850_496


def test_kv_is_counted_for_every_slot_of_every_group() -> None:
    result = plan(a_model(), [a_device(i) for i in range(3)], PlanRequest("m", stages=3, slots=16, context=101))
    assert (result.groups, result.slots_per_group) == (3, 6)
    assert result.stages[1].kv_bytes == 13 * 1536 * (102 + 2) * 6 * 3


def test_an_int8_cache_is_a_quarter_and_read_faster() -> None:
    devices = [a_device(i) for i in range(3)]
    whole, small = (plan(a_model(), devices, PlanRequest("m", stages=3, kv_dtype=kv)) for kv in ("float32", "int8"))
    assert sum(stage.kv_bytes for stage in small.stages) * 4 == sum(stage.kv_bytes for stage in whole.stages)
    assert small.decode_tokens_per_second > whole.decode_tokens_per_second
    assert small.kv_dtype == "int8"
    assert any(line.startswith("KV cache for 18 sequences of 4096 tokens is reserved as int8") for line in small.why)
    # 3.0 GiB with fp32.
    assert len(plan(a_model(), [a_device(i, 2 * GIB) for i in range(2)], PlanRequest("m", kv_dtype="int8")).stages) == 1


def test_an_artifact_without_scales_takes_no_int8_cache() -> None:
    old = a_model(scales=False)
    assert plan(old, [a_device(1)], PlanRequest("m")).kv_dtype == "float32"
    with pytest.raises(InvalidInput, match="no scales"):
        plan(old, [a_device(1)], PlanRequest("m", kv_dtype="int8"))


@pytest.mark.parametrize(("wire", "hop_bytes"), [("float32", 576 * 4), ("float16", 576 * 2), ("int8", 576 + 9 * 4)])
def test_the_wire_type_is_counted_and_its_effect_stated(wire: WireDtype, hop_bytes: int) -> None:
    devices = [a_device(i) for i in range(2)]
    result = plan(a_model(), devices, PlanRequest("m", stages=2, wire_dtype=wire))
    assert (result.hop_bytes, result.wire_dtype) == (hop_bytes, wire)
    slower = plan(a_model(), devices, PlanRequest("m", stages=2))
    assert (result.decode_tokens_per_second > slower.decode_tokens_per_second) == (wire != "float32")
    assert any("may depend on where the model is cut" in line for line in result.why) == (wire != "float32")


def test_only_blobs_that_are_missing_are_pushed() -> None:
    manifest = a_model()
    present = frozenset({a_blob("embedding", 0).digest, a_blob("layer 3", 0).digest})
    made = plan(manifest, [a_device(1)], PlanRequest("m"))
    fresh, again = made.stages[0], with_present(manifest, made, {"id0001": present})
    assert fresh.push_bytes == sum(costs.weights(manifest, fresh.parts).values())
    assert fresh.push_bytes - again.stages[0].push_bytes == 31_850_496 + 3_982_464
    assert again.why[-1] == f"to send: {bytes_text(again.stages[0].push_bytes)} to dev-1"
    all_here = frozenset(costs.weights(manifest, fresh.parts))
    assert "nothing has to be sent" in with_present(manifest, made, {"id0001": all_here}).why[-1]


@pytest.mark.parametrize(("hidden", "rows"), [(576, 256), (2048, 256), (4096, 128), (5000, 104), (600_000, 2)])
def test_the_prefill_chunk_is_even_and_its_message_bounded(hidden: int, rows: int) -> None:
    assert plan(a_model(hidden=hidden), [a_device(1, 1 << 60)], PlanRequest("m")).prefill_chunk == rows


def test_the_prefill_chunk_is_no_longer_than_the_context() -> None:
    assert plan(a_model(), [a_device(1)], PlanRequest("m", context=31)).prefill_chunk == 32


def test_context_defaults_to_what_the_model_takes() -> None:
    assert plan(a_model(max_positions=512), [a_device(1)], PlanRequest("m")).context == 512


def test_a_forced_split_says_what_it_costs() -> None:
    result = plan(a_model(), [a_device(i) for i in range(4)], PlanRequest("m", stages=3))
    alone = plan(a_model(), [a_device(0)], PlanRequest("m"))
    percent = 100 * (alone.decode_tokens_per_second / result.decode_tokens_per_second - 1)
    assert result.why[0] == f"--stages 3 was asked for: one device would be faster by {percent:.0f} %; 1 more is left free"


def test_a_plan_explains_why_one_device_is_too_small() -> None:
    result = plan(a_model(), [a_device(i, 2 * GIB) for i in range(2)], PlanRequest("m"))
    assert result.why[0] == "one device is too small: the model needs 3.0 GiB, the largest has 2.0 GiB free; two hold it"


def test_an_unmetered_device_makes_joules_unknown() -> None:
    devices = [a_device(1), a_device(2, idle_watts=0.0, joules_per_byte=0.0)]
    result = plan(a_model(), devices, PlanRequest("m", stages=2))
    assert {stage.device_id: stage.decode_joules is None for stage in result.stages} == {"id0001": False, "id0002": True}
    assert result.joules_per_token is None
    assert "no prediction of energy: dev-2 states no power figures" in result.why


def test_a_device_without_figures_is_taken_for_a_slow_one() -> None:
    unknown = PlannerDevice("id0001", "box", "cpu", False, 8 * GIB)
    result = plan(a_model(), [unknown, a_device(2)], PlanRequest("m"))
    assert result.stages[0].device_id == "id0002"
    alone = plan(a_model(), [unknown], PlanRequest("m"))
    assert any("speed unknown" in line for line in alone.why)


def test_named_devices_only() -> None:
    devices = [a_device(i) for i in range(4)]
    result = plan(a_model(), devices, PlanRequest("m", stages=2, devices=("dev-3", "id0002")))
    assert {stage.device_id for stage in result.stages} == {"id0002", "id0003"}


@pytest.mark.parametrize(
    ("devices", "request_", "kind", "says"),
    [
        ([], PlanRequest("m"), NotFound, "no device"),
        ([1], PlanRequest("m", devices=("dev-9",)), NotFound, "dev-9"),
        ([1, 2], PlanRequest("m", stages=3), NoSpace, "3 stages need 3 devices; 2 can be used"),
        (range(40), PlanRequest("m", stages=31), InvalidInput, "30 layers"),
        ([1], PlanRequest("m", stages=0), InvalidInput, "0 stages"),
        ([1], PlanRequest("m", context=8193), InvalidInput, "2 to 8192"),
        ([1], PlanRequest("m", context=1), InvalidInput, "2 to 8192"),
        ([1], PlanRequest("m", slots=0), InvalidInput, "slots"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(devices: Sequence[int], request_: PlanRequest, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        plan(a_model(), [a_device(i) for i in devices], request_)
    assert isinstance(caught.value, NotFound | InvalidInput | NoSpace)
    assert says in caught.value.detail
    assert caught.value.advice
    assert "\n" not in caught.value.detail + caught.value.advice


def test_no_space_names_the_biggest_piece_and_the_biggest_device() -> None:
    with pytest.raises(NoSpace) as caught:
        plan(a_model(), [a_device(1, 64 * MIB), a_device(2, 96 * MIB)], PlanRequest("m"))
    assert caught.value.detail.startswith("embedding, layers.0 and head needs 66.5 MiB plus ")
    assert caught.value.detail.endswith("; the largest free device is dev-2 with 96.0 MiB")
    assert caught.value.advice == "add devices with more memory, or lower --context (4096) or --slots (16)"


def test_no_space_names_the_sum_when_every_piece_fits() -> None:
    with pytest.raises(NoSpace) as caught:
        plan(a_model(), [a_device(1, 512 * MIB), a_device(2, GIB)], PlanRequest("m"))
    assert caught.value.detail.startswith("the model in 2 stages needs ")
    assert "the largest 2 devices have 1.5 GiB free together" in caught.value.detail


def test_no_space_on_one_device_names_the_whole() -> None:
    with pytest.raises(NoSpace) as caught:
        plan(a_model(), [a_device(1, 64 * MIB), a_device(2, 64 * MIB)], PlanRequest("m", stages=1))
    assert caught.value.detail.startswith("the whole model needs ")
    assert caught.value.advice.startswith("allow more --stages, add devices")


fleets = st.lists(
    st.tuples(st.integers(20, 900), st.sampled_from([5e9, 17e9, 50e9, 100e9]), st.sampled_from([1.0, 3.0, 7.0, 40.0])),
    min_size=1,
    max_size=6,
)


def a_fleet(kinds: Sequence[tuple[int, float, float]]) -> list[PlannerDevice]:
    return [
        a_device(i, memory * MIB // 4, linear_bytes_per_second=bandwidth, idle_watts=watts)
        for i, (memory, bandwidth, watts) in enumerate(kinds)
    ]


SMALL = a_model(layers=7, scale=4)


def plan_or_refusal(devices: Sequence[PlannerDevice], request: PlanRequest) -> Plan | str:
    try:
        return plan(SMALL, devices, request)
    except NoSpace as error:
        return error.detail


@given(fleets, st.sampled_from(OBJECTIVES), st.none() | st.integers(1, 6), st.randoms(use_true_random=False))
def test_plans_fit_cover_every_layer_once_and_ignore_the_order_of_devices(
    kinds: list[tuple[int, float, float]], objective: Objective, stages: int | None, rng: random.Random
) -> None:
    devices = a_fleet(kinds)
    request = PlanRequest("m", objective=objective, stages=stages if stages and stages <= len(devices) else None, context=1024, slots=4)
    shuffled = rng.sample(devices, len(devices))
    result, again = plan_or_refusal(devices, request), plan_or_refusal(shuffled, request)
    assert result == again
    if isinstance(result, str):
        return
    assert layers_of(result) == list(range(7))
    assert len({stage.device_id for stage in result.stages}) == len(result.stages)
    memory = {device.device_id: device.memory_bytes for device in devices}
    for place, stage in enumerate(result.stages):
        need = need_of(SMALL, result, place)
        assert need.total_bytes <= memory[stage.device_id] == stage.memory_bytes
        assert (stage.weight_bytes, stage.kv_bytes) == (need.weight_bytes, need.kv_bytes)
        assert stage.stop_layer > stage.first_layer


@given(fleets, st.integers(0, 5), st.integers(1, 400))
def test_more_memory_is_never_worse(kinds: list[tuple[int, float, float]], which: int, more: int) -> None:
    devices = a_fleet(kinds)
    index = which % len(devices)
    roomier = [replace(device, memory_bytes=device.memory_bytes + more * MIB) if i == index else device for i, device in enumerate(devices)]
    request = PlanRequest("m", context=1024, slots=4)
    try:
        before = plan(SMALL, devices, request)
    except NoSpace:
        return
    after = plan(SMALL, roomier, request)
    assert len(after.stages) <= len(before.stages)
    forced = plan(SMALL, roomier, replace(request, stages=len(before.stages)))
    assert forced.decode_tokens_per_second >= before.decode_tokens_per_second


def every_plan(manifest: Manifest, devices: Sequence[PlannerDevice], stages: int, context: int, slots: int) -> list[tuple[int, int, float]]:
    """(sum of stage ns, slowest ns, joules) of every way to place the model on `stages` devices."""
    shape = costs.shape_for(manifest, stages=stages, context=context, slots=slots)
    layers, positions = manifest.config.layers, min(context, costs.REFERENCE_POSITIONS)
    found = []
    for ring in itertools.permutations(devices, stages):
        for cuts in itertools.combinations(range(1, layers), stages - 1):
            ns, joules, fits = [], 0.0, True
            for place, (device, first, stop) in enumerate(zip(ring, (0, *cuts), (*cuts, layers), strict=True)):
                parts = stage_parts(manifest, first, stop, head=place == 0)
                fits &= costs.stage_need(manifest, parts, shape).total_bytes <= device.memory_bytes
                shares = [costs.part_share(manifest, part, positions) for part in parts]
                shares += [StageRun(StageCost(), link_bytes=4 * manifest.config.hidden_size, launches=0)] * (stages > 1)
                runs = costs.head_runs(stages) if place == 0 else 1
                ns.append(sum(costs.run_ns(device, one) for one in shares) + runs * costs.launch_ns(device))
                joules += sum(costs.run_nj(device, one) for one in shares) / 1e9
            if fits:
                seconds = (sum(ns) + costs.hops_ns(manifest, stages, "float32")) / 1e9
                found.append((sum(ns), max(ns), joules + seconds * sum(costs.idle_watts(device) for device in ring)))
    return found


def assert_lowest(found: tuple[int, int], every: list[tuple[int, int]]) -> None:
    """The first figure, then the second, to the rounding of a stage's parts to nanoseconds."""
    rounding = 20
    lowest = min(first for first, _ in every)
    assert found[0] == pytest.approx(lowest, abs=rounding)
    assert found[1] == pytest.approx(min(second for first, second in every if first <= lowest + rounding), abs=rounding)


@given(st.lists(fleets.map(lambda kinds: kinds[0]), min_size=1, max_size=4), st.integers(1, 3))
def test_plans_are_the_best_of_all_there_are(kinds: list[tuple[int, float, float]], stages: int) -> None:
    manifest = a_model(layers=5, scale=4)
    devices = a_fleet(kinds)
    stages = min(stages, len(devices))
    everything = every_plan(manifest, devices, stages, 512, 4)
    for objective in OBJECTIVES:
        request = PlanRequest("m", objective=objective, stages=stages, context=512, slots=4)
        if not everything:
            with pytest.raises(NoSpace):
                plan(manifest, devices, request)
            continue
        result = plan(manifest, devices, request)
        ns = [round(stage.decode_seconds * 1e9) for stage in result.stages]
        if objective == "latency":
            assert_lowest((sum(ns), max(ns)), [(total, slowest) for total, slowest, _ in everything])
        elif objective == "throughput":
            assert_lowest((max(ns), sum(ns)), [(slowest, total) for total, slowest, _ in everything])
        else:
            assert result.joules_per_token == pytest.approx(min(joules for _, _, joules in everything), rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_sixteen_different_devices_are_planned_in_under_a_second(objective: Objective) -> None:
    devices = [a_device(i, 2 * GIB + i * MIB, linear_bytes_per_second=(5 + i) * 1e9, idle_watts=1 + i * 7 % 5) for i in range(16)]
    for stages in (1, 4, 16):
        start = time.process_time()
        result = plan(a_model(layers=40), devices, PlanRequest("m", objective=objective, stages=stages, context=1024))
        assert time.process_time() - start < 1.0
        assert layers_of(result) == list(range(40))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_thousand_devices_are_planned_in_seconds(objective: Objective) -> None:
    devices = [a_device(i, 256 * MIB + i, linear_bytes_per_second=(5 + i % 17) * 1e9) for i in range(1000)]
    start = time.process_time()
    result = plan(a_model(layers=40), devices, PlanRequest("m", objective=objective, context=1024))
    assert time.process_time() - start < 3.0
    assert layers_of(result) == list(range(40))
    needed = sum(need_of(a_model(layers=40), result, place).total_bytes for place in range(len(result.stages)))
    assert len(result.stages) >= math.ceil(needed / (256 * MIB + 1000))
