"""The command for what-if: what a model would give on boards that nobody has bought yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.cli.deploy import ContextOption, DecodeOption, KvOption, SlotsOption, WireOption
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_names
from fleet.cli.output import count_text, figure, note, print_json
from fleet.cli.scatter import Dot, scatter
from fleet.cli.sim import TimingOption
from fleet.cli.tables import Column, print_table
from fleet.planning.compared import compared_lines
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import PlannerDevice
from fleet.planning.prediction import LinkModel, LinkModels, Outlook, Prices, Traffic, outlooks, wired
from fleet.planning.programs import with_programs
from protos.dialects import ISA_DIALECT
from protos.errors import NoSpace
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from sim_devices.chip.core_profiles import core_of
from sim_devices.fleet_file import load_fleet
from sim_devices.links import LinkRule, shape_between
from sim_devices.profiles import Profile, load_profile


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of `glmfleet model list`.")],
    fleet: Annotated[str | None, typer.Option("--fleet", metavar="FILE", help="FLEET.toml, or of the gallery.", show_default=False)] = None,
    profile: Annotated[str | None, typer.Option("--profile", metavar="A,B", help="One device of each.", show_default=False)] = None,
    prompt: Annotated[int, typer.Option("--prompt", min=1, help="Tokens of a prompt.")] = 128,
    answer: Annotated[int, typer.Option("--answer", min=1, help="Tokens of an answer.")] = 128,
    streams: Annotated[int, typer.Option("--streams", min=1, help="Answers at once.")] = 1,
    context: ContextOption = None,
    slots: SlotsOption = 16,
    kv: KvOption = "float32",
    wire: WireOption = "float32",
    decode: DecodeOption = "rows",
    timing: TimingOption = "",
    price_energy: Annotated[
        str | None, typer.Option("--price-energy", metavar="PRICE", help="Of a kWh: 0.30 or 0.30/kWh.", show_default=False)
    ] = None,
    price_hardware: Annotated[
        str | None,
        typer.Option("--price-hardware", metavar="A=PRICE,…", help="Of each board, or one for all.", show_default=False),
    ] = None,
    years: Annotated[float, typer.Option("--years", min=0.1, help="Over which the hardware is written off, without a pause.")] = 5.0,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Latency against energy.", show_default=False)] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """What a model would give on these devices, without running it: one line for each placement the planner considers.

    A fleet file's links count with their delay and rate, not with jitter and loss; a head tells the first token to the coordinator later
    by the delay of the link between them.

    Example: glmfleet sim predict smollm2-135m --profile rk3588,raspberry-pi-5 --price-energy 0.30/kWh --price-hardware 120
    """
    if plot and plot.suffix != ".svg":
        raise typer.BadParameter(f"--plot writes SVG: name the file {plot.with_suffix('.svg')}")
    names = parse_names(profile)
    manifest = ArtifactStore(open_home(home).artifacts).load(model)
    devices, profiles, links = _devices(fleet, names, timing)
    devices, left_out = with_programs(devices, manifest, kv)
    request = PlanRequest(model, context=context, slots=max(slots, streams), kv_dtype=kv, wire_dtype=wire, decode=decode)
    if prompt + answer > (longest := context or manifest.config.max_positions):
        raise typer.BadParameter(f"--prompt {prompt} and --answer {answer} are more than the context of {longest}")
    prices = Prices(_energy(price_energy), _hardware(price_hardware, profiles), years)
    found = outlooks(manifest, devices, request, Traffic(prompt, answer, streams), prices, links)
    if plot:
        _plot(plot, model, found)
    if as_json:
        print_json([_plain(one) for one in found])
        return
    print_outlooks(found)
    for line in (*_remarks(found, profiles, streams), *_programs(manifest, found, devices), *left_out):
        note(line)


def print_outlooks(found: Sequence[Outlook]) -> None:
    columns = [
        Column("placement"),
        Column("tokens/s", "figure"),
        Column("first\ntoken s", "figure"),
        Column("J/token", "figure"),
        Column("W", "figure"),
        Column("hottest\n°C", "figure"),
    ]
    priced = any(one.cost_per_million_tokens is not None for one in found)
    columns += [Column("cost of\n1M tokens", "figure")] * priced
    print_table(columns, [_row(one, priced) for one in found])


def _row(one: Outlook, priced: bool) -> list[str]:
    temperatures = [stage.celsius for stage in one.stages if stage.celsius is not None]
    hottest = figure(max(temperatures)) if temperatures else "-"
    if any(stage.speed < 1 for stage in one.stages):
        hottest += "!"
    row = [placement(one), figure(one.tokens_per_second), figure(one.first_token_seconds), figure(one.joules_per_token), figure(one.watts)]
    return [*row, hottest, *([figure(one.cost_per_million_tokens)] * priced)]


def placement(one: Outlook) -> str:
    """ "rk3588 0-13 + head, raspberry-pi-5 14-29"; one that holds it all is its name."""
    if len(one.stages) == 1:
        return one.stages[0].plan.profile
    return ", ".join(
        f"{stage.plan.profile} {stage.plan.first_layer}-{stage.plan.stop_layer - 1}{' + head' if place == 0 else ''}"
        for place, stage in enumerate(one.stages)
    )


def _remarks(found: Sequence[Outlook], profiles: Sequence[Profile], streams: int) -> list[str]:
    best = found[0]
    lines = [f"{count_text(streams, 'stream')}; idle power of the devices in use included; figures: glmfleet sim profiles NAME"]
    for one in found:
        for stage in one.stages:
            if stage.speed < 1:
                lines.append(f"!: {placement(one)}: {stage.plan.profile} gets too hot and runs at {100 * stage.speed:.0f} % of its speed")
    if ring := next((one for one in found if len(one.stages) > 1), None):
        times = f"{figure(1e3 * ring.hops_seconds)} of {figure(1e3 * ring.token_seconds)} ms a token"
        lines.append(f"{placement(ring)}: links take {times}")
    stage = max(best.stages, key=lambda stage: stage.busy)
    spent = {name: seconds for name, seconds in stage.spent.breakdown.items() if seconds > 0}
    order = sorted(spent.items(), key=lambda pair: -pair[1])
    parts = ", ".join(f"{name} {100 * seconds / stage.spent.seconds:.0f} %" for name, seconds in order)
    lines.append(f"{placement(best)}: a step of {stage.plan.profile} is {figure(1e3 * stage.spent.seconds)} ms: {parts}")
    used = {stage.plan.profile for one in found for stage in one.stages}
    guessed = [f"{one.name} ({len(one.estimated)} of {len(one.figures)})" for one in profiles if one.name in used and one.estimated]
    if guessed:
        lines.append(f"figures that are estimates: {', '.join(dict.fromkeys(guessed))}")
    return lines


def _programs(manifest: Manifest, found: Sequence[Outlook], devices: Sequence[PlannerDevice]) -> list[str]:
    """Beside the roofline, each line once: of equal devices with equal stages."""
    by_name = {device.name: device.profile for device in devices}
    lines = (line for told in compared_lines(manifest, [one.plan for one in found], devices) for line in told)
    return list(dict.fromkeys(f"{by_name[line.partition(':')[0]]}:{line.partition(':')[2]}" for line in lines))


def _devices(fleet: str | None, names: Sequence[str], timing: str) -> tuple[list[PlannerDevice], list[Profile], LinkModels]:
    if (fleet is None) == (not names):
        raise typer.BadParameter("name the devices: either --fleet FILE or --profile A,B")
    links: LinkModels = wired
    if fleet is not None:
        described = load_fleet(fleet)
        members = [
            (one.name, load_profile(one.profile).run_as(timing or one.timing, one.dialect), one.memory_bytes, one.ambient_celsius)
            for one in described.devices
        ]
        links = _links(described.links)
    else:
        seen: Counter[str] = Counter()
        members = []
        for name in names:
            loaded = load_profile(name).run_as(timing)
            seen[loaded.name] += 1
            members.append((f"{loaded.name}-{seen[loaded.name]}", loaded, None, None))
    devices = [
        PlannerDevice(
            device_id=f"{index:06}",
            name=name,
            profile=loaded.name,
            simulated=True,
            memory_bytes=loaded.memory_bytes if memory is None else memory,
            figures=loaded.effective,
            thermal=loaded.thermal if ambient is None else replace(loaded.thermal, ambient_celsius=ambient),
            core=core_of(loaded),
            timed_by_programs=loaded.timed_by == "compiled",
            runs_programs=loaded.dialect == ISA_DIALECT,
        )
        for index, (name, loaded, memory, ambient) in enumerate(members)
    ]
    if not devices:
        raise NoSpace("there is no device in this fleet", advice="add [[device]] to the file")
    return devices, [loaded for _, loaded, _, _ in members], links


def _links(rules: Sequence[LinkRule]) -> LinkModels:
    def between(source: str, target: str) -> LinkModel:
        shape = shape_between(rules, source, target)
        bits = shape.rate_bits_per_second
        return LinkModel(shape.delay_seconds, bits / 8) if bits else LinkModel(shape.delay_seconds)

    return between


def _energy(text: str | None) -> float | None:
    if text is None:
        return None
    return _price(text.lower().removesuffix("/kwh"), "--price-energy", "0.30/kWh")


def _hardware(text: str | None, profiles: Sequence[Profile]) -> dict[str, float] | None:
    if text is None:
        return None
    names = {profile.name for profile in profiles}
    if "=" not in text:
        return dict.fromkeys(names, _price(text, "--price-hardware", "120"))
    found = {}
    for part in parse_names(text):
        name, _, price = part.partition("=")
        if name not in names:
            raise typer.BadParameter(f"--price-hardware names {name!r}, which is none of {', '.join(sorted(names))}")
        found[name] = _price(price, "--price-hardware", "rk3588=120")
    if missing := names - found.keys():
        raise typer.BadParameter(f"--price-hardware says nothing of {', '.join(sorted(missing))}")
    return found


def _price(text: str, option: str, example: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 1e12:
        raise typer.BadParameter(f"{option}: not a price: {text!r}; write for example {example}")
    return price


def _plot(path: Path, model: str, found: Sequence[Outlook]) -> None:
    dots = [Dot(1e3 * one.token_seconds, one.joules_per_token, placement(one)) for one in found if one.joules_per_token]
    if not dots:
        raise typer.BadParameter("--plot: none of these devices reports its energy")
    try:
        picture = scatter(f"{model}: predicted, lower left is better", "milliseconds per token", "joules per token", dots)
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"--plot: cannot write {path}: {error.strerror}") from error
    note(f"plot: {path}")


def _plain(one: Outlook) -> dict[str, Any]:
    """The documented object of `sim predict --json`."""
    return {
        "placement": placement(one),
        "tokens_per_second": one.tokens_per_second,
        "seconds_per_token": one.token_seconds,
        "first_token_seconds": one.first_token_seconds,
        "links_seconds_per_token": one.hops_seconds,
        "joules_per_token": one.joules_per_token,
        "watts": one.watts,
        "cost_per_million_tokens": one.cost_per_million_tokens,
        "stages": [
            {
                "device": stage.plan.device_name,
                "profile": stage.plan.profile,
                "layers": [stage.plan.first_layer, stage.plan.stop_layer],
                "busy": stage.busy,
                "watts": stage.watts,
                "celsius": stage.celsius,
                "speed": stage.speed,
                "seconds": dict(stage.spent.breakdown),
            }
            for stage in one.stages
        ],
    }
