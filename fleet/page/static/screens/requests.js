// Requests on their way and the last that have ended: where each one's time went, and what it took.

import { call } from "/page/api.js";
import { clock, count, duration, figure } from "/page/format.js";
import { html } from "/page/lib.js";
import { Action, Code, Empty, Loaded, Mark, Name, SourceMark, Table } from "/page/parts.js";
import { REQUESTS } from "/page/rates.js";
import { askNow, useData } from "/page/store.js";

const COSTS_SECONDS = 3600;
const PARTS = [
  ["waits", "until a ring has it"],
  ["prefill", "to the first token: the queue at the head, and the prompt"],
  ["decode", "the tokens behind it"],
];

export function Requests() {
  const source = useData(REQUESTS);
  return html`<div>
    <h1>Requests</h1>
    <ul class="legend">
      ${PARTS.map(([name, text]) => html`<li><span class="part part-${name}" aria-hidden="true"></span>${text}</li>`)}
    </ul>
    <${Loaded} source=${source}>${(found) => (found.length ? html`<${List} requests=${found} now=${source.at} />` : html`<${None} />`)}<//>
  </div>`;
}

const None = () =>
  html`<${Empty} title="No request was made since the coordinator started">
    <p>Ask something: <a href="#/chat">chat</a>, or <${Code}>glmfleet generate "What is the capital of France?"<//>.</p>
  <//>`;

// Seconds of [waits, prefill, decode] of a request, as far as it has come at `now`; what is not known of an older one is all decode.
export function parts(request, now) {
  const end = request.ended_at ?? now;
  const began = request.began_at ?? end;
  const first = request.first_token_at ?? end;
  return [began - request.accepted_at, first - began, end - first].map((seconds) => Math.max(0, seconds));
}

function Bar({ request, now, most }) {
  const seconds = parts(request, now);
  const text = PARTS.map(([name], index) => `${name} ${duration(seconds[index])}`).join(", ");
  return html`<div class="bar" role="img" aria-label=${text} title=${text}>
    ${PARTS.map(([name], index) => html`<span class="part part-${name}" style=${{ width: `${(100 * seconds[index]) / most}%` }}></span>`)}
  </div>`;
}

function List({ requests, now }) {
  const costs = new Map();
  for (const row of useData(`/api/v1/telemetry?by=request&since=${COSTS_SECONDS}`, 10).data ?? [])
    costs.set(row.key, [...(costs.get(row.key) ?? []), row]);
  const lengths = requests.map((request) => parts(request, now).reduce((all, one) => all + one, 0));
  const most = Math.max(0.001, ...lengths);
  const open = requests.filter((one) => one.state !== "ended").length;
  const columns = [
    { title: "request", of: (one) => html`<code title=${one.request_id}>${one.request_id.slice(0, 8)}</code>` },
    { title: "state", of: (one) => html`<${Mark} of=${one.finish_reason ?? one.state} title=${one.detail || null} />` },
    { title: "when", of: (one) => clock(one.accepted_at) },
    { title: "where", of: (one) => html`<${Name}>${one.pipeline_id || one.deployment || one.model}<//>` },
    { title: "tokens", right: true, of: (one) => `${one.prompt_tokens} + ${one.completion_tokens}` },
    { title: `its time, of ${duration(most)}`, of: (one) => html`<${Bar} request=${one} now=${now} most=${most} />` },
    { title: "took", right: true, of: (one) => duration((one.ended_at ?? now) - one.accepted_at) },
    {
      title: "J",
      right: true,
      of: (one) =>
        (costs.get(one.request_id) ?? []).map(
          (row) => html`<span>${figure(row.busy_joules)} <${SourceMark} source=${row.source} /></span>`,
        ),
    },
    {
      title: "note",
      of: (one) =>
        one.state === "ended"
          ? one.detail
          : html`<${Action} danger label="cancel ${one.request_id.slice(0, 8)}" run=${() => cancel(one)}>cancel<//>`,
    },
  ];
  return html`<div>
    <p class="quiet">${count(open, "request")} on the way, ${count(requests.length - open, "request")} ended (the last 100 are shown)</p>
    <${Table} caption="requests" columns=${columns} rows=${requests} keyOf=${(one) => one.request_id} />
  </div>`;
}

async function cancel(request) {
  await call(`/api/v1/requests/${encodeURIComponent(request.request_id)}`, { method: "DELETE" });
  askNow(REQUESTS);
}
