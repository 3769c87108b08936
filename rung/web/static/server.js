// Asking the server, with the API key that this tab holds.

const KEY = "rung-key";
let key = stored();
let refused = () => {};

export const keyHeld = () => key !== "";

// `told(message, sent)` is called when the server asks for a key, or doesn't take the one that was sent.
export const whenRefused = (told) => (refused = told);

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // a browser that keeps nothing for pages: the key lasts as long as the page
  }
}

export function keepKey(given) {
  key = given;
  try {
    key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY);
  } catch {
    // as above
  }
}

// A request that wasn't answered. `status` 0: there was no response, or not a whole one.
export class Failed extends Error {
  constructor(status, message, retryAfter = "") {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

// The response to a request; throws Failed, or an AbortError where it was broken off.
export async function send(path, options = {}) {
  const sent = key;
  const headers = { ...options.headers, ...(sent && { Authorization: `Bearer ${sent}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, `${location.host} doesn't answer; it may have been stopped`);
  }
  if (response.ok || (response.status === 503 && path === "/readyz")) return response;
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? response.statusText;
  // Another key may have been given meanwhile.
  if (response.status === 401 && sent === key) refused(message, sent !== "");
  throw new Failed(response.status, message, response.headers.get("Retry-After") ?? "");
}

export const sendForJson = (path) => send(path).then((response) => response.json());

// The answer to a chat request. `show(text)` is called with what there is so far.
export async function askChat(request, signal, show) {
  const found = { text: "", chances: [], usage: {}, finish: null, first_ms: null, ms: null };
  const start = performance.now();
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  for await (const chunk of request.stream ? events(response) : [await response.json()]) {
    if (chunk.error) throw new Failed(chunk.error.code === "timeout" ? 504 : 503, chunk.error.message);
    const [choice] = chunk.choices;
    const content = (choice?.delta ?? choice?.message)?.content;
    if (content) {
      found.first_ms ??= performance.now() - start;
      found.text += content;
      show(found.text);
    }
    found.chances.push(...(choice?.logprobs?.content ?? []));
    found.finish = choice?.finish_reason ?? found.finish;
    found.usage = chunk.usage ?? found.usage;
  }
  found.ms = performance.now() - start;
  return found;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) throw new Failed(0, "the connection broke before the answer was whole");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}
