// How the fleet goes: tokens, watts, joules a token, and the queue.

import { Chart } from "/page/chart.js";
import { html, useState } from "/page/lib.js";
import { Choice } from "/page/parts.js";
import { queue, useRates } from "/page/rates.js";
import { History, PERIODS } from "/page/screens/history.js";

export function Charts() {
  const [since, setSince] = useState("600");
  return html`<div>
    <h1>Charts</h1>
    <div class="controls"><${Choice} label="of the last" value=${since} onChange=${setSince} options=${PERIODS} /></div>
    <${History} since=${Number(since)} names=${["tokens_per_second", "watts", "joules_per_token", "temperature_celsius", "busy_share"]}
      ><${Queue}
    /><//>
  </div>`;
}

function Queue() {
  useRates();
  const { at, running, waiting } = queue();
  if (at.length < 2) return null;
  const series = [
    { label: "running", values: running },
    { label: "waiting", values: waiting },
  ];
  return html`<${Chart} title="Requests, since this page was opened" unit="requests" at=${at} series=${series} />`;
}
