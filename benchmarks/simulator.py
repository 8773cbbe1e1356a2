"""Does a simulated fleet take the time that was predicted for it: wall clock, real processes, pace "realtime".

python -m benchmarks.simulator --model smollm2-135m       (of the home that GLMFLEET_HOME names)

The boards are Raspberry Pi 5 made slower by a factor, so that this machine is quicker than they are. A run for which it was not is an
overrun; with overruns the comparison says nothing.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.boards import throwaway_boards
from benchmarks.product import serve
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import CoordinatorClient
from fleet.home import Home
from fleet.planning.costs import LINK_BYTES_PER_SECOND
from fleet.planning.plan import Plan, PlanRequest
from fleet.planning.planner import PlannerDevice
from fleet.planning.prediction import LinkModel, Prices, Traffic, outlook
from quantize.artifact.store import ArtifactStore
from sim_devices.local_fleet import DeviceSpec
from sim_devices.profiles import Profile, load_profile

ANSWER_TOKENS, PROMPT_TOKENS, ASKS = 48, 64, 3
_SLOWED = ("memory_bandwidth", "compute", "chip_bandwidth")


def slower(base: str, factor: float) -> str:
    """The text of a profile whose memory and arithmetic are so many times slower."""
    text = (Path(__file__).parent.parent / "sim_devices" / "profiles" / f"{base}.toml").read_text()
    for name in _SLOWED:
        text = re.sub(rf"(\[{name}\]\nvalue = )(\S+)", lambda found: f"{found[1]}{float(found[2]) / factor!r}", text)
    return text


def predicted(home: Home, plan: Plan, profile: Profile, link: LinkModel) -> tuple[float, float]:
    """Seconds to the first token, and a token."""
    devices = {
        stage.device_id: PlannerDevice(
            stage.device_id, stage.device_name, profile.name, True, profile.memory_bytes, profile.effective, profile.thermal
        )
        for stage in plan.stages
    }
    manifest = ArtifactStore(home.artifacts).load(plan.model)
    one = outlook(manifest, plan, devices, Traffic(PROMPT_TOKENS, ANSWER_TOKENS), Prices(), lambda *_: link)
    return one.first_token_seconds, one.token_seconds


def ask(client: CoordinatorClient, deployment: str, seed: int) -> GenerateResult:
    """One answer to a prompt that no other begins like."""
    prompt = tuple((seed * 997 + 31 * index) % 1000 + 100 for index in range(PROMPT_TOKENS))
    *_, result = client.generate(GenerateRequest(model=deployment, prompt_ids=prompt, max_tokens=ANSWER_TOKENS))
    assert isinstance(result, GenerateResult)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--slower", type=float, default=8.0, metavar="FACTOR")
    parser.add_argument("--stages", type=int, default=2, help="devices, and the most stages")
    parser.add_argument("--delay", type=int, default=0, metavar="MS", help="of the links between devices")
    parser.add_argument("--rate", type=int, default=0, metavar="KBIT", help="of the links between devices, per second")
    options = parser.parse_args(arguments)
    with throwaway_boards() as (home, boards), ExitStack() as stack:
        path = home.path / "slow-board.toml"
        path.write_text(slower("raspberry-pi-5", options.slower))
        profile = load_profile(str(path))
        linked = bool(options.delay or options.rate)
        rate = f'rate = "{options.rate}kbit"' if options.rate else ""
        links = f'[[links]]\nbetween = ["dev-*", "dev-*"]\ndelay = "{options.delay}ms"\n{rate}\n'
        link = LinkModel(options.delay / 1e3, options.rate * 125.0 or LINK_BYTES_PER_SECOND)
        specs = [DeviceSpec(str(path), pace="realtime", linked=linked)] * options.stages
        made = boards.up(
            specs,
            world=[["links", "links", str(home.path), f'[[devices]]\nname = "dev"\ncount = {options.stages}\nprofile = "rk3588"\n{links}']]
            if linked
            else [],
        )
        client = stack.enter_context(serve(home, len(made)))
        print("| stages | | predicted | measured (wall) | ratio |\n|---|---|---|---|---|")
        for stages in range(1, options.stages + 1):
            with closing(client.deploy(PlanRequest(options.model, stages=stages, context=512, slots=2), f"s{stages}")) as events:
                plan = next(event.plan for event in events if event.plan)
                for _ in events:
                    pass
            first, token = predicted(home, plan, profile, link)
            ask(client, f"s{stages}", 1)
            answers = [ask(client, f"s{stages}", seed) for seed in range(2, 2 + ASKS)]
            for name, expected, found in (
                ("s to the first token", first, [answer.ttft_seconds for answer in answers]),
                ("s a token", token, [answer.tpot_seconds or 0.0 for answer in answers]),
            ):
                measured = statistics.median(found)
                print(f"| {stages} | {name} | {expected:.4f} | {measured:.4f} | {measured / expected:.3f} |", flush=True)
            client.undeploy(f"s{stages}")
        boards.down()
        logs = [(home.path / "sim" / device.name / "log.txt").read_text() for device in made]
        overruns = re.findall(r"\d+ of \d+ runs took longer", "\n".join(logs))
        print(f"\noverruns: {'; '.join(overruns) or 'none'}")


if __name__ == "__main__":
    main()
