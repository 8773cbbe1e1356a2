// One pipeline as a ring: its stages in order, each with its device, and the links that tokens go along.

import { bytes, figure, layers } from "/page/format.js";
import { html } from "/page/lib.js";
import { KindMark, Mark, Name, SourceMark } from "/page/parts.js";

const HOT = 85; // °C, at which a bar is full: boards throttle about there

export function Ring({ deployment, pipeline, known, rate }) {
  const flows = pipeline.state === "ready" && rate > 0;
  const standbys = new Map(pipeline.standbys.flatMap((one) => one.stages.map((stage) => [stage, one])));
  return html`<section class="ring ${flows ? "flows" : ""}" aria-label="pipeline ${pipeline.pipeline_id}">
    <h3>
      <${Name}>${deployment.name}<//> <span class="quiet">${pipeline.pipeline_id === deployment.name ? "" : pipeline.pipeline_id}</span>
      <${Mark} of=${pipeline.state} />
      <span class="rate">${rate ? `${figure(rate)} tokens/s` : "no tokens now"}</span>
    </h3>
    ${pipeline.detail && html`<p class="problem">${pipeline.detail}</p>`}
    <div class="loop">
      <ol>
        ${pipeline.stages.map((stage, number) => html`<${Stage} stage=${stage} number=${number} device=${known.get(stage.device_id)} standby=${standbys.get(number)} last=${number === pipeline.stages.length - 1} />`)}
      </ol>
      ${pipeline.stages.length > 1 && html`<div class="back" aria-hidden="true"><span>tokens back to the head</span></div>`}
    </div>
  </section>`;
}

function Stage({ stage, number, device, standby, last }) {
  const heat = device?.temperature_celsius;
  return html`<li>
    <a class="stage state-${device?.state ?? "offline"}" href="#/device/${stage.device_id}">
      <span class="line"><span class="dot" aria-hidden="true"></span><${Name}>${stage.device_name}<//></span>
      <span class="line quiet">${device ? device.state : "not of the fleet"}, ${stage.profile}</span>
      <span class="line"
        ><b>${layers(stage)}</b>${number === 0 && html` <${Mark} of="head" title="it queues requests and samples tokens" />`}</span
      >
      <span class="line">${figure(device?.power_watts)} W <${SourceMark} source=${device?.power_watts === null ? "measured" : device?.energy_source} /></span>
      <span class="line"
        >${heat === null || heat === undefined ? "heat unknown" : `${figure(heat)} °C`}${device?.throttled && html` <${Mark} of="throttled" />`}</span
      >
      ${heat !== null && heat !== undefined && html`<meter min="20" max=${HOT} high="70" value=${heat} aria-label="heat"></meter>`}
      <span class="line quiet">${bytes(stage.weight_bytes)} weights</span>
      <span class="line">${device && html`<${KindMark} device=${device} />`}</span>
      ${standby && html`<span class="line quiet" title=${standby.device_name}>${standby.state} to stand by: ${standby.device_name}</span>`}
    </a>
    ${
      !last &&
      html`<svg class="link" viewBox="0 0 40 12" aria-hidden="true">
        <path d="M0 6H34" />
        <path class="tip" d="M33 1l6 5-6 5z" />
      </svg>`
    }
  </li>`;
}
