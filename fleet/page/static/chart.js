// A chart of series over time, by uPlot; its figures are told in words beneath it.

import { figure, NONE } from "/page/format.js";
import { html, useEffect, useRef, useState } from "/page/lib.js";
import uPlot from "/page/vendor/uPlot.esm.js";

const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4"];
const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const HEIGHT = 180;
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function options(width, unit, series) {
  const axis = { stroke: style("--quiet"), grid: { stroke: style("--grid"), width: 1 }, ticks: { stroke: style("--grid"), width: 1 } };
  return {
    width,
    height: HEIGHT,
    scales: { y: { range: (_, least, most) => [Math.min(0, least ?? 0), (most || 1) * 1.08] } },
    axes: [
      { ...axis, space: 60, incrs: [5, 15, 60, 300, 900, 3600, 10800, 21600, 43200, 86400, 604800], values: times },
      { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? "0" : figure(tick))) },
    ],
    cursor: { points: { size: 6 } },
    legend: { live: true },
    series: [
      { label: "time", value: (_, at) => (at ? new Date(at * 1000).toLocaleTimeString("en-GB") : NONE) },
      ...series.map((one, index) => ({
        label: one.label,
        stroke: style(COLOURS[index % COLOURS.length]),
        width: 2,
        spanGaps: false,
        points: { show: false, size: 6, filter: (plot, number) => alone(plot.data[number]) },
        value: (_, value) => (value === null || value === undefined ? NONE : `${figure(value)} ${unit}`),
      })),
    ],
  };
}

// Where a value stands between gaps, a line would not show it.
function alone(values) {
  const known = (value) => value !== null && value !== undefined;
  return values.flatMap((value, index) => (known(value) && !known(values[index - 1]) && !known(values[index + 1]) ? [index] : []));
}

function times(_, ticks, __, ___, increment) {
  return ticks.map((tick) => {
    const at = new Date(tick * 1000);
    if (increment >= 86400) return at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
    return at.toLocaleTimeString("en-GB", increment < 60 ? {} : { hour: "2-digit", minute: "2-digit" });
  });
}

function inWords(series, unit) {
  return series
    .map(({ label, values }) => {
      const known = values.filter((value) => value !== null && value !== undefined);
      if (!known.length) return `${label}: nothing is known`;
      const mean = known.reduce((total, value) => total + value, 0) / known.length;
      return `${label}: mean ${figure(mean)}, most ${figure(Math.max(...known))}, last ${figure(known.at(-1))} ${unit}`;
    })
    .join("; ");
}

// `at`: unix seconds; `series`: [{label, values}], null where nothing is known.
export function Chart({ title, unit, at, series }) {
  const place = useRef(null);
  const plot = useRef(null);
  const [dark, setDark] = useState(DARK.matches);
  const shape = `${dark} ${unit} ${series.map((one) => one.label).join("|")}`;
  useEffect(() => {
    const turn = () => setDark(DARK.matches);
    DARK.addEventListener("change", turn);
    return () => DARK.removeEventListener("change", turn);
  }, []);
  useEffect(() => {
    const box = place.current;
    const width = () => Math.max(200, box.clientWidth);
    plot.current = new uPlot(options(width(), unit, series), [at, ...series.map((one) => one.values)], box);
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: width(), height: HEIGHT }));
    watch.observe(box);
    return () => {
      watch.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData([at, ...series.map((one) => one.values)]), [at, series]);
  return html`<figure class="chart">
    <figcaption>${title} <span class="quiet">${unit}</span></figcaption>
    <div ref=${place} aria-hidden="true"></div>
    <p class="words">${inWords(series, unit)}</p>
  </figure>`;
}
