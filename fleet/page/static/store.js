// What the coordinator last said at each path that somebody looks at, asked again and again; and whether it answers.

import { Away, call } from "/page/api.js";
import { useEffect, useReducer } from "/page/lib.js";

const AGAIN_SECONDS = 2; // while it does not answer
const SHARE = 40; // an answer that took long is asked for less often: at most this part of the coordinator's time
const sources = new Map(); // by path

export const link = { away: false, since: 0, watchers: new Set() };

function setAway(away) {
  if (link.away === away) return;
  Object.assign(link, { away, since: Date.now() / 1000 });
  for (const tell of link.watchers) tell();
}

class Source {
  constructor(path) {
    Object.assign(this, { path, data: undefined, error: null, at: 0, users: new Map(), timer: 0, asking: false });
  }

  async ask() {
    if (this.asking || document.hidden || !this.users.size) return;
    this.asking = true;
    clearTimeout(this.timer);
    const began = performance.now();
    let pause = Math.min(...[...this.users.values()].map((seconds) => seconds));
    try {
      this.data = await call(this.path);
      Object.assign(this, { error: null, at: Date.now() / 1000 });
      setAway(false);
      pause = Math.max(pause, (SHARE * (performance.now() - began)) / 1000);
    } catch (error) {
      this.error = error;
      if (error instanceof Away) setAway(true);
      else if (error.status) setAway(false);
      pause = error instanceof Away ? AGAIN_SECONDS : Math.max(pause, 5);
    }
    this.asking = false;
    for (const tell of this.users.keys()) tell();
    this.timer = setTimeout(() => this.ask(), pause * 1000);
  }

  add(tell, seconds) {
    this.users.set(tell, seconds);
    if (Date.now() / 1000 - this.at > seconds) this.ask();
  }

  remove(tell) {
    this.users.delete(tell);
    if (!this.users.size) clearTimeout(this.timer);
  }
}

function sourceOf(path) {
  if (!sources.has(path)) sources.set(path, new Source(path));
  return sources.get(path);
}

document.addEventListener("visibilitychange", () => askAll());

export function askAll() {
  for (const source of sources.values()) source.ask();
}

// After something was changed by the page itself.
export const askNow = (path) => sourceOf(path).ask();

// {data, error, at} of a path; `data` is undefined before its first answer, and what it last was while it does not come.
export function useData(path, seconds = 2) {
  const [, tell] = useReducer((number) => number + 1, 0);
  useEffect(() => {
    if (!path) return undefined;
    const source = sourceOf(path);
    source.add(tell, seconds);
    return () => source.remove(tell);
  }, [path, seconds]);
  return path ? sourceOf(path) : { data: undefined, error: null, at: 0 };
}

export function useLink() {
  const [, tell] = useReducer((number) => number + 1, 0);
  useEffect(() => {
    link.watchers.add(tell);
    return () => link.watchers.delete(tell);
  }, []);
  return link;
}
