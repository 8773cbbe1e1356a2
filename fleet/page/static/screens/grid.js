// Every device as a card. Of thousands only those in sight are drawn.

import { byName, bytes, count, figure, kind } from "/page/format.js";
import { html, useEffect, useMemo, useRef, useState } from "/page/lib.js";
import { Choice, KindMark, Mark, Name, SourceMark } from "/page/parts.js";

const CARD = { width: 230, height: 150, gap: 10 };
const MOST_HEIGHT = 0.75; // of the window
const SPARE_ROWS = 2;
const ORDERS = {
  name: (one, other) => byName(one.name, other.name),
  watts: (one, other) => (other.power_watts ?? -1) - (one.power_watts ?? -1),
  heat: (one, other) => (other.temperature_celsius ?? -274) - (one.temperature_celsius ?? -274),
  memory: (one, other) => other.memory_used_bytes - one.memory_used_bytes,
};

const matches = (device, text) =>
  !text ||
  `${device.name} ${device.device_id} ${device.profile} ${Object.entries(device.labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(" ")}`
    .toLowerCase()
    .includes(text);

export function DeviceGrid({ devices }) {
  const [text, setText] = useState("");
  const [state, setState] = useState("all");
  const [order, setOrder] = useState("name");
  const found = useMemo(() => {
    const wanted = devices.filter(
      (one) =>
        (state === "all" || one.state === state || kind(one) === state || (state === "throttled" && one.throttled)) &&
        matches(one, text.toLowerCase()),
    );
    return wanted.sort(ORDERS[order]);
  }, [devices, text, state, order]);
  return html`<div>
    <div class="controls">
      <label class="choice"
        ><span>find</span
        ><input type="search" value=${text} onInput=${(event) => setText(event.target.value)} placeholder="name, profile, label"
      /></label>
      <${Choice}
        label="show"
        value=${state}
        onChange=${setState}
        options=${["all", "online", "suspect", "offline", "throttled", "real", "simulated", "hollow"].map((one) => [one, one])}
      />
      <${Choice} label="by" value=${order} onChange=${setOrder} options=${Object.keys(ORDERS).map((one) => [one, one])} />
      <span class="quiet" role="status">${count(found.length, "device")}</span>
    </div>
    <${Window} rows=${found} />
  </div>`;
}

function Window({ rows }) {
  const place = useRef(null);
  const [view, setView] = useState({ top: 0, width: 800, height: 600 });
  useEffect(() => {
    const box = place.current;
    const look = () => {
      const next = { top: box.scrollTop, width: box.clientWidth, height: Math.round(window.innerHeight * MOST_HEIGHT) };
      setView((now) => (now.top === next.top && now.width === next.width && now.height === next.height ? now : next));
    };
    const watch = new ResizeObserver(look);
    watch.observe(box);
    box.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look);
    look();
    return () => {
      watch.disconnect();
      window.removeEventListener("resize", look);
    };
  }, []);
  const columns = Math.max(1, Math.floor((view.width + CARD.gap) / (CARD.width + CARD.gap)));
  const width = (view.width - (columns - 1) * CARD.gap) / columns;
  const line = CARD.height + CARD.gap;
  const whole = Math.ceil(rows.length / columns) * line;
  const first = Math.max(0, Math.floor(view.top / line) - SPARE_ROWS);
  const last = Math.ceil((view.top + view.height) / line) + SPARE_ROWS;
  const shown = rows.slice(first * columns, last * columns);
  return html`<div
    class="window"
    ref=${place}
    tabindex="0"
    role="region"
    aria-label="devices"
    style=${{ height: `${Math.min(whole, view.height)}px` }}
  >
    <ul style=${{ height: `${whole - CARD.gap}px` }}>
      ${shown.map((device, index) => {
        const at = first * columns + index;
        const left = (at % columns) * (width + CARD.gap);
        return html`<${Card}
          key=${device.device_id}
          device=${device}
          at=${{ width: `${width}px`, height: `${CARD.height}px`, transform: `translate(${left}px, ${Math.floor(at / columns) * line}px)` }}
        />`;
      })}
    </ul>
  </div>`;
}

function Card({ device, at }) {
  const used = device.memory_bytes ? device.memory_used_bytes / device.memory_bytes : 0;
  return html`<li style=${at}>
    <a class="card state-${device.state}" href="#/device/${device.device_id}">
      <span class="line"><span class="dot" aria-hidden="true"></span><${Name}>${device.name}<//></span>
      <span class="line quiet">${device.state}${device.drain && `, ${device.drain}`}, ${device.profile}</span>
      <span class="line">${figure(device.power_watts)} W, ${figure(device.temperature_celsius)} °C ${device.throttled && html`<${Mark} of="throttled" />`}</span>
      <span class="line quiet">${bytes(device.memory_used_bytes)} of ${bytes(device.memory_bytes)}</span>
      <meter min="0" max="1" high="0.9" value=${used} aria-label="memory promised"></meter>
      <span class="line marks"
        ><${KindMark}
          device=${device}
        />${device.energy_source !== "measured" && kind(device) === "real" && html`<${SourceMark} source=${device.energy_source} />`}${device.stages.length > 0 && html` <span class="quiet">${count(device.stages.length, "stage")}</span>`}</span
      >
    </a>
  </li>`;
}
