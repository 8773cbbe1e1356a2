// The coordinator's own routes, and nobody else's: a key where one is asked for, errors as it says them.

const KEY = "glmfleet-key";
const asked = new Set(); // who wants to know that a key is needed

export class ApiError extends Error {
  constructor(status, code, detail, advice) {
    super(detail);
    Object.assign(this, { status, code, advice });
  }
}

export class Away extends Error {}

export const key = () => sessionStorage.getItem(KEY) ?? "";

export function setKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

export function onKeyNeeded(hear) {
  asked.add(hear);
  return () => asked.delete(hear);
}

// The JSON of an answer; null where there is none. Throws ApiError, and Away while the coordinator does not answer.
export async function call(path, { method = "GET", body, signal } = {}) {
  const response = await send(path, { method, body, signal });
  return response.status === 204 ? null : response.json();
}

export async function send(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (key()) headers.authorization = `Bearer ${key()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("the coordinator does not answer");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const told = await response.json().catch(() => ({}));
  const error = told.error ?? {};
  if (response.status === 401) for (const hear of asked) hear(error.detail ?? error.message ?? "a key is needed");
  return new ApiError(response.status, error.code, error.detail ?? error.message ?? `it answered ${response.status}`, error.advice ?? "");
}

// The data of each server-sent event of a response, parsed; ends at [DONE] or with the stream.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart())
          .join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
