// Tokens a second of each pipeline and the queue, from what requests had been given at two moments.

import { useMemo } from "/page/lib.js";
import { useData } from "/page/store.js";

export const REQUESTS = "/api/v1/requests?ended=100";
const WINDOW_SECONDS = 5;
const KEPT_SECONDS = 900;
const seen = []; // {at, given: Map of request to tokens, running, waiting}
const listed = { at: 0, result: null };

// The queue since the page was opened: {at: [], running: [], waiting: []}.
export function queue() {
  return { at: seen.map((one) => one.at), running: seen.map((one) => one.running), waiting: seen.map((one) => one.waiting) };
}

export function useRates() {
  const source = useData(REQUESTS);
  return useMemo(() => rates(source.data ?? [], source.at), [source.data, source.at]);
}

function rates(requests, at) {
  if (listed.at === at && listed.result) return listed.result;
  const open = requests.filter((one) => one.state !== "ended");
  const running = open.filter((one) => one.state === "running").length;
  const given = new Map(requests.map((one) => [one.request_id, one.completion_tokens]));
  if (at) seen.push({ at, given, running, waiting: open.length - running });
  while (seen.length && seen[0].at < at - KEPT_SECONDS) seen.shift();
  const before = seen.findLast((one) => one.at <= at - WINDOW_SECONDS) ?? seen[0];
  for (const one of seen.slice(0, -10)) one.given = null; // only the last are compared
  const of = new Map();
  for (const one of requests) {
    const had = before?.given?.get(one.request_id) ?? (one.accepted_at >= (before?.at ?? at) ? 0 : one.completion_tokens);
    const rate = before && at > before.at ? (one.completion_tokens - had) / (at - before.at) : 0;
    if (rate > 0) of.set(one.pipeline_id, (of.get(one.pipeline_id) ?? 0) + rate);
  }
  const total = [...of.values()].reduce((all, rate) => all + rate, 0);
  Object.assign(listed, { at, result: { of, total, open: open.length, running } });
  return listed.result;
}
