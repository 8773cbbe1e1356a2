// A conversation with a deployed model; each answer says what it took in seconds and joules.

import { events, send } from "/page/api.js";
import { count, figure } from "/page/format.js";
import { html, useEffect, useRef, useState } from "/page/lib.js";
import { Choice, Code, Empty, Loaded, Problem, SourceMark } from "/page/parts.js";
import { useData } from "/page/store.js";

const PLAIN = { temperature: 0 }; // of a model whose maker has said nothing, as `glmfleet chat` has it
const kept = { messages: [], model: "" }; // while the page is open, also while another screen is shown

export function Chat() {
  const source = useData("/api/v1/deployments", 3);
  return html`<div>
    <h1>Chat</h1>
    <${Loaded} source=${source}
      >${(found) => (found.length || kept.messages.length ? html`<${Conversation} deployments=${found} />` : html`<${None} />`)}<//
    >
  </div>`;
}

const None = () =>
  html`<${Empty} title="Nothing is deployed to talk with"
    ><p><${Code}>glmfleet deploy MODEL<//>, then ask here.</p><//
  >`;

function Conversation({ deployments }) {
  const [, draw] = useState(0);
  const [running, setRunning] = useState(null);
  const [error, setError] = useState(null);
  const end = useRef(null);
  const field = useRef(null);
  const models = useData("/api/v1/models", 30).data ?? [];
  const names = deployments.map((one) => one.name);
  const model = names.includes(kept.model) ? kept.model : names[0];
  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }));
  const say = async (event) => {
    event.preventDefault();
    const text = field.current.value.trim();
    if (!text || running || !model) return;
    field.current.value = "";
    const answer = { role: "assistant", content: "", thought: "" };
    kept.messages.push({ role: "user", content: text }, answer);
    const abort = new AbortController();
    setRunning(abort);
    setError(null);
    try {
      const maker = models.find((one) => one.name === deployments.find((each) => each.name === model)?.model)?.sampling ?? {};
      await ask({ model, ...(Object.keys(maker).length ? {} : PLAIN) }, kept.messages.slice(0, -1), answer, abort.signal, () =>
        draw((number) => number + 1),
      );
    } catch (failed) {
      if (failed.name === "AbortError") answer.stopped = true;
      else setError(failed);
      if (!answer.content && !answer.thought) kept.messages.splice(-2);
      if (!answer.content && failed.name !== "AbortError") field.current.value = text;
    }
    setRunning(null);
    field.current?.focus();
  };
  const clear = () => {
    kept.messages = [];
    draw((number) => number + 1);
  };
  return html`<div class="chat">
    <div class="controls">
      <${Choice}
        label="with"
        value=${model}
        onChange=${(name) => ((kept.model = name), draw((number) => number + 1))}
        options=${names.map((name) => [name, name])}
      />
      <button onClick=${clear} disabled=${running || !kept.messages.length}>begin anew</button>
    </div>
    <ol class="messages" aria-live="polite" aria-busy=${running ? "true" : "false"}>
      ${kept.messages.map((message) => html`<${Message} of=${message} running=${running && message === kept.messages.at(-1)} />`)}
    </ol>
    <${Problem} error=${error} />
    <div ref=${end}></div>
    <form onSubmit=${say}>
      <label class="unseen" for="say">what to say</label>
      <textarea
        id="say"
        ref=${field}
        rows="2"
        placeholder="Ask something; Enter sends, Shift+Enter begins a line"
        onKeyDown=${(event) => event.key === "Enter" && !event.shiftKey && say(event)}
      ></textarea>
      ${running ? html`<button type="button" class="danger" onClick=${() => running.abort()}>stop</button>` : html`<button disabled=${!model}>send</button>`}
    </form>
  </div>`;
}

function Message({ of, running }) {
  return html`<li class="message ${of.role}">
    <b class="who">${of.role === "user" ? "you" : "answer"}</b>
    ${of.thought && html`<p class="thought">${of.thought}</p>`}
    <p class="said">${of.content}${running && html`<span class="cursor" aria-hidden="true"></span>`}</p>
    ${of.usage && html`<${Cost} usage=${of.usage} first=${of.first} />`}
    ${of.stopped && html`<p class="cost">stopped; what it cost is among the <a href="#/requests">requests</a></p>`}
  </li>`;
}

function Cost({ usage, first }) {
  const rate = usage.completion_tokens > 1 && usage.seconds > first ? (usage.completion_tokens - 1) / (usage.seconds - first) : null;
  return html`<p class="cost">
    ${figure(usage.seconds)} s, ${count(usage.completion_tokens, "token")}${rate && `, ${figure(rate)} tokens/s`}${first && `, the first after ${figure(first)} s`};${" "}
    ${usage.energy.length ? usage.energy.map(({ joules, source }) => html`<span>${joules === null ? "joules not metered" : `${figure(joules)} J`} <${SourceMark} source=${source} /> </span>`) : "no energy told"}
  </p>`;
}

// Streams the answer into `answer`, and calls `told` as it grows.
async function ask(wish, messages, answer, signal, told) {
  const body = {
    ...wish,
    stream: true,
    stream_options: { include_usage: true },
    messages: messages.map(({ role, content }) => ({ role, content })),
  };
  const began = performance.now();
  const response = await send("/v1/chat/completions", { method: "POST", body, signal });
  for await (const chunk of events(response)) {
    if (chunk.error) throw Object.assign(new Error(chunk.error.message), { status: 500 });
    const delta = chunk.choices?.[0]?.delta ?? {};
    if ((delta.content || delta.reasoning_content) && !answer.first) answer.first = (performance.now() - began) / 1000;
    answer.content += delta.content ?? "";
    answer.thought += delta.reasoning_content ?? "";
    if (chunk.usage) answer.usage = chunk.usage;
    told();
  }
}
