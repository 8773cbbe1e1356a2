// The frame of the page: which screen is shown, the way to the others, whether the coordinator answers, and the key where one is asked for.

import { askAll, useData, useLink } from "/page/store.js";
import { key, onKeyNeeded, setKey } from "/page/api.js";
import { clock } from "/page/format.js";
import { html, render, useEffect, useRef, useState } from "/page/lib.js";
import { Chat } from "/page/screens/chat.js";
import { Charts } from "/page/screens/charts.js";
import { Deployments } from "/page/screens/deployments.js";
import { Device } from "/page/screens/device.js";
import { Fleet } from "/page/screens/fleet.js";
import { Joining } from "/page/screens/joining.js";
import { Requests } from "/page/screens/requests.js";
import { Telemetry } from "/page/screens/telemetry.js";

const SCREENS = [
  ["fleet", "Fleet", Fleet],
  ["charts", "Charts", Charts],
  ["deployments", "Deployments", Deployments],
  ["requests", "Requests", Requests],
  ["telemetry", "Telemetry", Telemetry],
  ["chat", "Chat", Chat],
  ["joining", "Joining", Joining],
];

// "#/device/ab12" is the screen "device" of "ab12".
function place() {
  const [, name, ...rest] = location.hash.split("/");
  return { name: name || "fleet", of: decodeURIComponent(rest.join("/")) };
}

function usePlace() {
  const [at, set] = useState(place);
  useEffect(() => {
    const turn = () => set(place());
    window.addEventListener("hashchange", turn);
    return () => window.removeEventListener("hashchange", turn);
  }, []);
  return at;
}

function Navigation({ at }) {
  const waiting = useData("/api/v1/enrolments", 5).data ?? [];
  return html`<nav aria-label="screens">
    <ul>
      ${SCREENS.map(
        ([name, title]) =>
          html`<li>
            <a href="#/${name}" aria-current=${name === at ? "page" : null}
              >${title}${name === "joining" && waiting.length > 0 && html` <b class="number">${waiting.length}</b>`}</a
            >
          </li>`,
      )}
    </ul>
  </nav>`;
}

function Away() {
  const link = useLink();
  return html`<div role="status" aria-live="polite">
    ${link.away && html`<p class="away">The coordinator has not answered since ${clock(link.since)}. It is asked again every 2 s; what is shown is from before.</p>`}
  </div>`;
}

function KeyForm({ why, done }) {
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const send = (event) => {
    event.preventDefault();
    setKey(field.current.value.trim());
    done();
    askAll();
  };
  return html`<main class="key">
    <h1>glmfleet</h1>
    <form onSubmit=${send}>
      <label>This coordinator asks for a key.<input ref=${field} type="password" autocomplete="off" required spellcheck=${false} /></label>
      <button>Open</button>
      ${key() && html`<p class="problem" role="alert">${why}</p>`}
      <p class="quiet">One of <code>glmfleet keys create NAME --role viewer</code>. It is kept in this tab until the tab is closed.</p>
    </form>
  </main>`;
}

function Page() {
  const at = usePlace();
  const [why, setWhy] = useState("");
  const main = useRef(null);
  useEffect(() => onKeyNeeded(setWhy), []);
  const title = SCREENS.find(([name]) => name === at.name)?.[1] ?? "Device";
  useEffect(() => {
    document.title = `${title} – glmfleet`;
    window.scrollTo(0, 0);
  }, [at.name, at.of]);
  if (why) return html`<${KeyForm} why=${why} done=${() => setWhy("")} />`;
  const Screen = SCREENS.find(([name]) => name === at.name)?.[2] ?? Device;
  return html`<div>
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>to the content</a>
    <header>
      <a class="home" href="#/fleet"><img src="/page/icon.svg" alt="" width="24" height="24" /> glmfleet</a>
      <${Navigation} at=${at.name} />
    </header>
    <${Away} />
    <main id="main" ref=${main} tabindex="-1"><${Screen} key=${at.name + at.of} of=${at.of} /></main>
  </div>`;
}

document.getElementById("page").textContent = "";
render(html`<${Page} />`, document.getElementById("page"));
