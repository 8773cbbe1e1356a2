// The fleet as a picture: what it draws and how warm it is, each pipeline as a ring of stages, and every device.

import { count, figure, sum } from "/page/format.js";
import { html } from "/page/lib.js";
import { Code, Empty, Loaded, Mark } from "/page/parts.js";
import { DeviceGrid } from "/page/screens/grid.js";
import { Ring } from "/page/screens/ring.js";
import { useRates } from "/page/rates.js";
import { useData } from "/page/store.js";

const SHOWN_RINGS = 12;

export function Fleet() {
  const devices = useData("/api/v1/devices");
  const deployments = useData("/api/v1/deployments");
  const rates = useRates();
  return html`<div>
    <h1 class="unseen">Fleet</h1>
    <${Loaded} source=${devices}
      >${(found) => (found.length ? html`<${Summary} devices=${found} deployments=${deployments.data ?? []} rates=${rates} />` : html`<${Nobody} />`)}<//
    >
    ${deployments.data?.length > 0 && devices.data && html`<${Rings} deployments=${deployments.data} devices=${devices.data} rates=${rates} />`}
    ${
      devices.data?.length > 0 &&
      html`<div>
        <h2>Devices</h2>
        <${DeviceGrid} devices=${devices.data} />
      </div>`
    }
  </div>`;
}

function Summary({ devices, deployments, rates }) {
  const states = Object.groupBy(devices, (device) => device.state);
  const sources = Object.groupBy(
    devices.filter((device) => device.power_watts !== null),
    (device) => device.energy_source,
  );
  const heat = Math.max(...devices.map((device) => device.temperature_celsius ?? -Infinity));
  const throttled = devices.filter((device) => device.throttled).length;
  const ready = deployments.filter((one) => one.state === "ready").length;
  return html`<dl class="tiles">
    <div>
      <dt>devices</dt>
      <dd>${devices.length.toLocaleString("en")}</dd>
      <dd class="quiet">
        ${["online", "suspect", "offline"]
          .filter((state) => states[state])
          .map((state) => `${states[state].length.toLocaleString("en")} ${state}`)
          .join(", ")}
      </dd>
    </div>
    ${Object.entries(sources).map(
      ([source, of]) =>
        html`<div>
          <dt>watts, ${source}</dt>
          <dd>${figure(sum(of.map((one) => one.power_watts)))}</dd>
          <dd class="quiet">of ${count(of.length, "device")}</dd>
        </div>`,
    )}
    <div>
      <dt>hottest</dt>
      <dd>${Number.isFinite(heat) ? `${figure(heat)} °C` : "–"}</dd>
      <dd class="quiet">${throttled ? `${count(throttled, "device")} throttled` : "none throttled"}</dd>
    </div>
    <div>
      <dt>tokens/s</dt>
      <dd>${figure(rates.total)}</dd>
      <dd class="quiet">${count(rates.open, "request")} on the way</dd>
    </div>
    <div>
      <dt>deployments</dt>
      <dd>${ready} of ${deployments.length}</dd>
      <dd class="quiet">ready</dd>
    </div>
  </dl>`;
}

function Rings({ deployments, devices, rates }) {
  const known = new Map(devices.map((device) => [device.device_id, device]));
  const rings = deployments.flatMap((deployment) => deployment.pipelines.map((pipeline) => ({ deployment, pipeline })));
  return html`<div>
    <h2>Pipelines</h2>
    ${rings.slice(0, SHOWN_RINGS).map(({ deployment, pipeline }) => html`<${Ring} key=${pipeline.pipeline_id} deployment=${deployment} pipeline=${pipeline} known=${known} rate=${rates.of.get(pipeline.pipeline_id)} />`)}
    ${rings.length > SHOWN_RINGS && html`<p class="quiet">and ${count(rings.length - SHOWN_RINGS, "pipeline")} more: <a href="#/deployments">deployments</a></p>`}
    ${deployments.filter((one) => !one.pipelines.length).map((one) => html`<p><b>${one.name}</b> <${Mark} of=${one.state} /> ${one.detail}</p>`)}
  </div>`;
}

function Nobody() {
  const waiting = useData("/api/v1/enrolments", 5).data ?? [];
  const report = useData("/api/v1/discovery", 5).data;
  return html`<${Empty} title="No device is of this fleet yet">
    ${waiting.length > 0 && html`<p>${count(waiting.length, "board")} ${waiting.length === 1 ? "asks" : "ask"} to join: <a href="#/joining">look at the fingerprints</a>.</p>`}
    <p>Start simulated ones: <${Code}>glmfleet sim up --devices 3<//>. On a board: <${Code}>glmfleet device run<//>.</p>
    ${report && html`<p class="quiet">Looked by mDNS on ${report.interfaces.join(", ") || "no interface"}${report.seeds.length ? `, and at ${report.seeds.join(", ")}` : ""}. ${report.other_fleets ? `${report.other_fleets} seen that belong to another fleet.` : ""}</p>`}
    ${report?.problems.map((line) => html`<p class="problem">${line}</p>`)}
  <//>`;
}
