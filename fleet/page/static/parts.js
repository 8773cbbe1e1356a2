// Small parts that several screens show.

import { kind } from "/page/format.js";
import { html, useState } from "/page/lib.js";

// A word in a frame: a state, or what is not real. The word says it, its colour only repeats it.
export const Mark = ({ of, title }) => html`<span class="mark mark-${of}" title=${title ?? null}>${of}</span>`;

export const KindMark = ({ device }) => (kind(device) === "real" ? null : html`<${Mark} of=${kind(device)} />`);

// A joule's source, where it is no meter's.
export const SourceMark = ({ source }) => (!source || source === "measured" ? null : html`<${Mark} of=${source} />`);

// A name of any length: cut by the room there is, whole for the pointer and for screen readers.
export const Name = ({ children }) => html`<span class="name" title=${children}>${children}</span>`;

export const Problem = ({ error }) =>
  error && html`<p class="problem" role="alert"><b>${error.message}</b>${error.advice && html` <span>${error.advice}</span>`}</p>`;

// What is shown of a source before its first answer, or in place of nothing: the screens below say what to do then.
export function Loaded({ source, children }) {
  if (source.data !== undefined) return html`<div>${source.error?.status && html`<${Problem} error=${source.error} />`}${children(source.data)}</div>`;
  if (source.error?.status) return html`<${Problem} error=${source.error} />`;
  return html`<p class="quiet">asking the coordinator…</p>`;
}

export const Empty = ({ title, children }) =>
  html`<div class="empty">
    <h2>${title}</h2>
    ${children}
  </div>`;

export const Code = ({ children }) => html`<code>${children}</code>`;

// A table whose columns are {title, right, of: row => cell}; it scrolls by itself where the screen is narrow.
export function Table({ caption, columns, rows, keyOf }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}>
    <table>
      <caption class="unseen">
        ${caption}
      </caption>
      <thead>
        <tr>
          ${columns.map((column) => html`<th scope="col" class=${column.right ? "right" : ""}>${column.title}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row, index) =>
            html`<tr key=${keyOf ? keyOf(row) : index}>
              ${columns.map((column) => html`<td class=${column.right ? "right" : ""}>${column.of(row)}</td>`)}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

export function Choice({ label, value, options, onChange }) {
  return html`<label class="choice"
    ><span>${label}</span>
    <select value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
    </select></label
  >`;
}

// A button for what changes something: it says that it works on it, and what went wrong.
export function Action({ children, run, danger, label }) {
  const [state, set] = useState({ busy: false, error: null });
  const click = async () => {
    set({ busy: true, error: null });
    try {
      await run();
      set({ busy: false, error: null });
    } catch (error) {
      set({ busy: false, error });
    }
  };
  return html`<span class="action"
    ><button class=${danger ? "danger" : ""} disabled=${state.busy} onClick=${click} aria-label=${label ?? null}>${children}</button
    ><${Problem} error=${state.error}
  /></span>`;
}
