// Boards that ask to be of the fleet, each with the words that its own screen shows.

import { call } from "/page/api.js";
import { html } from "/page/lib.js";
import { Action, Code, Empty, Loaded, Name } from "/page/parts.js";
import { askNow, useData } from "/page/store.js";

const PATH = "/api/v1/enrolments";

async function settle(board, method) {
  await call(`${PATH}/${encodeURIComponent(board.device_id)}`, { method });
  askNow(PATH);
}

export function Joining() {
  const source = useData(PATH);
  return html`<div>
    <h1>Joining</h1>
    <p>Compare the five words with those on the board's own screen. Whoever does not, takes in whoever answers.</p>
    <${Loaded} source=${source}
      >${(boards) => (boards.length ? html`<div>${boards.map((board) => html`<${Board} key=${board.device_id} board=${board} />`)}</div>` : html`<${Nobody} />`)}<//
    >
  </div>`;
}

const Nobody = () =>
  html`<${Empty} title="No board asks to join">
    <p>On a board: <${Code}>glmfleet device run<//>. It shows five words and waits; they are shown here, too.</p>
  <//>`;

function Board({ board }) {
  return html`<section class="panel board">
    <h2><${Name}>${board.name}<//></h2>
    <p class="fingerprint">${board.fingerprint}</p>
    <p class="quiet">
      ${board.profile}, at ${board.address}, found by ${board.found_by}, version ${board.agent_version}, id <code>${board.device_id}</code>
    </p>
    ${board.detail && html`<p class="problem">${board.detail}</p>`}
    <p>
      <${Action} run=${() => settle(board, "POST")} label="The words agree: accept ${board.name}">The words agree: accept<//>
      <${Action} danger run=${() => settle(board, "DELETE")} label="Reject ${board.name}">Reject<//>
    </p>
  </section>`;
}
