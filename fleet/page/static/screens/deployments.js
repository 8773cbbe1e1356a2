// What is deployed: each pipeline's plan, and why it is so.

import { bytes, count, duration, figure, layers } from "/page/format.js";
import { html } from "/page/lib.js";
import { Code, Empty, Loaded, Mark, Name, Table } from "/page/parts.js";
import { useData } from "/page/store.js";

export function Deployments() {
  const source = useData("/api/v1/deployments", 3);
  return html`<div>
    <h1>Deployments</h1>
    <${Loaded} source=${source}
      >${(found) => (found.length ? html`<div>${found.map((one) => html`<${Deployment} key=${one.name} of=${one} />`)}</div>` : html`<${None} />`)}<//
    >
  </div>`;
}

function None() {
  const models = useData("/api/v1/models", 10).data ?? [];
  const name = models[0]?.name ?? "MODEL";
  return html`<${Empty} title="Nothing is deployed">
    ${models.length ? html`<p>Models here: ${models.map((one) => one.name).join(", ")}.</p>` : html`<p>There is no model yet: <${Code}>glmfleet model pull smollm2-135m<//>.</p>`}
    <p><${Code}>glmfleet deploy ${name}<//> spreads it over the devices.</p>
  <//>`;
}

function Deployment({ of }) {
  return html`<section class="panel">
    <h2><${Name}>${of.name}<//> <${Mark} of=${of.state} /></h2>
    ${of.detail && html`<p class="problem">${of.detail}</p>`}
    <p class="quiet">
      model ${of.model || "unknown"}, context ${of.context.toLocaleString("en")}, ${count(of.slots, "sequence")} at once, generation ${of.generation}${of.standby ? `, ${of.standby} to stand by` : ""}
    </p>
    ${of.standby_detail && html`<p class="problem">${of.standby_detail}</p>`}
    ${of.pipelines.map((pipeline) => html`<${Pipeline} key=${pipeline.pipeline_id} of=${pipeline} />`)}
  </section>`;
}

function Pipeline({ of }) {
  const columns = [
    { title: "stage", right: true, of: (stage) => of.stages.indexOf(stage) },
    {
      title: "device",
      of: (stage) =>
        html`<a href="#/device/${stage.device_id}"><${Name}>${stage.device_name}<//></a> ${stage.hollow ? html`<${Mark} of="hollow" />` : stage.simulated ? html`<${Mark} of="simulated" />` : null}`,
    },
    { title: "profile", of: (stage) => stage.profile },
    { title: "what", of: layers },
    { title: "weights", right: true, of: (stage) => bytes(stage.weight_bytes) },
    { title: "cache", right: true, of: (stage) => bytes(stage.kv_bytes) },
    { title: "memory", right: true, of: (stage) => bytes(stage.memory_bytes) },
    { title: "ms/token", right: true, of: (stage) => figure(1000 * stage.decode_seconds) },
    { title: "J/token", right: true, of: (stage) => figure(stage.decode_joules) },
  ];
  return html`<article>
    <h3>${of.pipeline_id} <${Mark} of=${of.state} /></h3>
    ${of.detail && html`<p class="problem">${of.detail}</p>`}
    <p>
      Predicted for one stream: ${figure(of.decode_tokens_per_second)} tokens/s, ${figure(of.joules_per_token)} J/token; objective ${of.objective}.
    </p>
    <${Table} caption="stages of ${of.pipeline_id}" columns=${columns} rows=${of.stages} />
    ${of.standbys.length > 0 && html`<p>Stand by: ${of.standbys.map((one) => `${one.device_name} for ${one.stages.map((stage) => `stage ${stage}`).join(", ")} (${one.state}${one.detail && `: ${one.detail}`})`).join("; ")}</p>`}
    ${of.pauses.length > 0 && html`<p>A device that is lost is predicted to be a pause of ${of.pauses.map((one) => `${duration(one.seconds)} (stage ${one.stage})`).join(", ")}.</p>`}
    ${
      of.why.length > 0 &&
      html`<details open>
        <summary>Why it is so</summary>
        <ul class="why">
          ${of.why.map((line) => html`<li>${line}</li>`)}
        </ul>
      </details>`
    }
  </article>`;
}
