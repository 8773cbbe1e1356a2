// The charts of a history, which several screens show.

import { Chart } from "/page/chart.js";
import { html } from "/page/lib.js";
import { useData } from "/page/store.js";

export const PERIODS = [
  ["600", "10 minutes"],
  ["3600", "1 hour"],
  ["86400", "24 hours"],
  ["2592000", "30 days"],
];
const FIGURES = [
  ["tokens_per_second", "Tokens", "tokens/s", 1],
  ["watts", "Power", "W", 1],
  ["joules_per_token", "Energy of a token", "J/token", 1],
  ["busy_share", "Busy", "%", 100],
  ["temperature_celsius", "Temperature", "°C", 1],
  ["memory_bytes", "Memory promised", "MiB", 1 / 2 ** 20],
];

const label = (series) => `${series.key}, ${series.source}${series.hollow ? ", hollow" : ""}`;

// `names`: of the figures to show; `device`: of one alone.
export function History({ since, device, names, children }) {
  const query = `/api/v1/telemetry/history?since=${since}${device ? `&device=${encodeURIComponent(device)}` : ""}`;
  const { data, error } = useData(query, Math.min(60, Math.max(5, since / 120)));
  if (!data) return html`<p class="quiet">${error ? error.message : "asking the coordinator…"}</p>`;
  if (!data.series.length) return html`<p class="quiet">No device was heard of in that time.</p>`;
  const shown = FIGURES.filter(([name]) => names.includes(name));
  return html`<div class="charts">
    ${shown.map(([name, title, unit, factor]) => {
      const series = data.series
        .filter((one) => one[name].some((value) => value !== null))
        .map((one) => ({ label: label(one), values: one[name].map((value) => (value === null ? null : value * factor)) }));
      return series.length
        ? html`<${Chart} key=${name} title=${title} unit=${unit} at=${data.times} series=${series} />`
        : html`<figure class="chart">
            <figcaption>${title}</figcaption>
            <p class="quiet">nobody measures it, or there was nothing to measure</p>
          </figure>`;
    })}
    ${children}
  </div>`;
}
