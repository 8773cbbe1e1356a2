// One device: what it is and holds, what was believed of it and why, and how it went.

import { bytes, day, figure, kind } from "/page/format.js";
import { html } from "/page/lib.js";
import { KindMark, Loaded, Mark, Name, SourceMark, Table } from "/page/parts.js";
import { History } from "/page/screens/history.js";
import { useData } from "/page/store.js";

export function Device({ of }) {
  const source = useData(`/api/v1/devices/${encodeURIComponent(of)}`);
  return html`<div>
    <p><a href="#/fleet">all devices</a></p>
    <${Loaded} source=${source}>${(device) => html`<${Shown} device=${device} />`}<//>
  </div>`;
}

function Shown({ device }) {
  const facts = [
    ["state", html`<${Mark} of=${device.state} /> ${device.detail}`],
    ["kind", html`${kind(device)} ${kind(device) !== "real" && html`<${KindMark} device=${device} />`}`],
    ["profile", device.profile],
    ["hardware", device.hardware || "not told"],
    ["id", html`<code>${device.device_id}</code>`],
    ["address", `${device.address}, found by ${device.found_by}`],
    ["power", html`${figure(device.power_watts)} W <${SourceMark} source=${device.energy_source} />`],
    ["temperature", html`${figure(device.temperature_celsius)} °C ${device.throttled && html`<${Mark} of="throttled" />`}`],
    ["battery", device.battery_fraction === null ? "none" : `${figure(100 * device.battery_fraction)} %`],
    ["memory", `${bytes(device.memory_used_bytes)} promised of ${bytes(device.memory_bytes)}; ${bytes(device.memory_held_bytes)} held`],
    ["version", `${device.agent_version}, protocol ${device.protocol_version}`],
    [
      "labels",
      Object.entries(device.labels)
        .map(([key, value]) => `${key}=${value}`)
        .join(", ") || "none",
    ],
    ...(device.drain ? [["drained", `${device.drain}${device.drain_detail && `: ${device.drain_detail}`}`]] : []),
    ...(device.storage_problem ? [["storage", device.storage_problem]] : []),
  ];
  return html`<div>
    <h1><${Name}>${device.name}<//></h1>
    <dl class="facts">
      ${facts.map(
        ([name, value]) =>
          html`<div>
            <dt>${name}</dt>
            <dd>${value}</dd>
          </div>`,
      )}
    </dl>
    <h2>Stages</h2>
    ${
      device.stages.length
        ? html`<ul>
            ${device.stages.map((stage) => html`<li>${stage}</li>`)}
          </ul>`
        : html`<p class="quiet">It holds none.</p>`
    }
    <h2>The last hour</h2>
    <${History}
      since=${3600}
      device=${device.device_id}
      names=${["watts", "temperature_celsius", "busy_share", "tokens_per_second", "joules_per_token", "memory_bytes"]}
    />
    <h2>What was believed of it</h2>
    ${
      device.history.length
        ? html`<${Table}
            caption="changes of its state"
            rows=${[...device.history].reverse()}
            columns=${[
              { title: "when", of: (one) => day(one.at) },
              { title: "from", of: (one) => one.before },
              { title: "to", of: (one) => html`<${Mark} of=${one.state} />` },
              { title: "why", of: (one) => one.why },
            ]}
          />`
        : html`<p class="quiet">Nothing has changed since the coordinator started.</p>`
    }
  </div>`;
}
