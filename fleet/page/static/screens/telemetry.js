// What it cost, by device, model, deployment or request; and how one device or all went in that time.

import { byName, figure } from "/page/format.js";
import { html, useState } from "/page/lib.js";
import { Choice, Empty, Loaded, Mark, Name, Table } from "/page/parts.js";
import { History, PERIODS } from "/page/screens/history.js";
import { useData } from "/page/store.js";

const BY = ["device", "model", "deployment", "request"];
const MOST_ROWS = 200;
const FIGURES = ["watts", "tokens_per_second", "joules_per_token", "busy_share", "temperature_celsius", "memory_bytes"];

export function Telemetry() {
  const [by, setBy] = useState("device");
  const [since, setSince] = useState("600");
  const [device, setDevice] = useState("");
  const source = useData(`/api/v1/telemetry?since=${since}&by=${by}`, 10);
  const devices = useData("/api/v1/devices", 10).data ?? [];
  const names = [...devices].sort((one, other) => byName(one.name, other.name)).map((one) => [one.device_id, one.name]);
  return html`<div>
    <h1>Telemetry</h1>
    <div class="controls">
      <${Choice} label="by" value=${by} onChange=${setBy} options=${BY.map((one) => [one, one])} />
      <${Choice} label="of the last" value=${since} onChange=${setSince} options=${PERIODS} />
    </div>
    <${Loaded} source=${source}
      >${(rows) => (rows.length ? html`<${Costs} by=${by} rows=${rows} />` : html`<${Empty} title="Nothing in that time" />`)}<//
    >
    <h2>Over the time</h2>
    <div class="controls"><${Choice} label="of" value=${device} onChange=${setDevice} options=${[["", "the fleet"], ...names]} /></div>
    <${History} since=${Number(since)} device=${device} names=${FIGURES} />
  </div>`;
}

function Costs({ by, rows }) {
  const shown = rows.length > MOST_ROWS && by === "device" ? rows.filter((row) => !row.hollow) : rows;
  const columns = [
    { title: by, of: (row) => html`<${Name}>${row.key}<//>` },
    { title: "requests", right: true, of: (row) => row.requests.toLocaleString("en") },
    { title: "prompt tokens", right: true, of: (row) => row.prompt_tokens?.toLocaleString("en") ?? figure(null) },
    { title: "answer tokens", right: true, of: (row) => row.completion_tokens?.toLocaleString("en") ?? figure(null) },
    { title: "busy s", right: true, of: (row) => figure(row.busy_seconds) },
    { title: "modelled s", right: true, of: (row) => figure(row.modelled_busy_seconds) },
    { title: "busy J", right: true, of: (row) => figure(row.busy_joules) },
    { title: "idle J", right: true, of: (row) => figure(row.idle_joules) },
    { title: "J/token", right: true, of: (row) => figure(row.joules_per_token) },
    {
      title: "source",
      of: (row) =>
        html`<${Mark}
            of=${row.source}
          />${row.hollow && html` <${Mark} of="hollow" />`}${row.partial && html` <${Mark} of="partial" title=${lost(row)} />`}`,
    },
  ];
  return html`<div>
    ${shown.length > 0 && html`<${Table} caption="costs by ${by}" columns=${columns} rows=${shown.slice(0, MOST_ROWS)} keyOf=${(row) => `${row.device_id}${row.key}${row.source}`} />`}
    ${rows.length > Math.min(shown.length, MOST_ROWS) && html`<p class="quiet">${(rows.length - Math.min(shown.length, MOST_ROWS)).toLocaleString("en")} rows${shown.length > 0 ? " more" : ", of hollow devices"}: <code>glmfleet telemetry --by ${by} --format csv</code></p>`}
  </div>`;
}

const lost = (row) =>
  row.lost_seconds ? `nothing is known of ${figure(row.lost_seconds)} s` : "not all that was done is known to be in the figures";
