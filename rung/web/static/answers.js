// The panels of answers, and what sets two of them apart.

import { el, note, said } from "./elements.js";
import { chance, duration, indented, isWholeJson, lacking, parts, plural } from "./words.js";

const BARS = 8;
const EARLIER_MS = 30;
const FAILURES = {
  0: "No answer.",
  400: "The request can't be answered as it is.",
  401: "The server asks for an API key.",
  403: "The server doesn't allow that.",
  404: "It is served no more.",
  413: "The text is too long for this server.",
  429: "Too many requests wait already.",
  500: "The server failed.",
  503: "The engine isn't there just now.",
  504: "It took too long.",
};

// Whether a System answers with one of its labels, rather than by writing.
export const isLabel = (system) => system.kind === "label";

// Whether it weighs that label against the others, too: votes and repaired drafts don't, nor do hosted models.
export const isScored = (system) => system.probabilities;

// An answer that was written freely may say more than a label, or name none.
const isNamed = (system, found) => system.labels.includes(found.text);

export const isBare = (system) => system.rung === "model";

const isJson = (system) => ["json", "tool_call"].includes(system.kind);

// A panel that waits for a System's answer.
export function panel(system) {
  const made = isBare(system) ? "the model as it is" : [system.rung, system.base?.name].filter(Boolean).join(" on ");
  const body = el("div", { "aria-busy": "true" }, note("waiting …"));
  const heading = el("h3", {}, said(system.name), " ", el("span", { class: "note" }, made));
  return { system, body, node: el("article", { class: "answer" }, heading, body) };
}

// What there is of an answer that is being written.
export function showText({ system, body }, text) {
  if (isLabel(system)) return;
  const made = written(system, text);
  const shown = body.querySelector("pre");
  if (!shown) return body.replaceChildren(made);
  const atEnd = shown.scrollTop + shown.clientHeight >= shown.scrollHeight - 1;
  shown.textContent = made.textContent;
  if (atEnd) shown.scrollTop = shown.scrollHeight;
}

function written(system, text) {
  if (isJson(system)) return el("pre", { tabindex: "0", "aria-label": "answer" }, indented(text));
  return el("pre", { class: "words", dir: "auto", tabindex: "0", "aria-label": "answer" }, text);
}

// A whole answer. `names` are the labels that have a bar, in order; by default its own likeliest.
export function showAnswer({ system, body }, found, names = [...options(found).keys()].slice(0, BARS)) {
  const shown = isNamed(system, found) ? label(system, found, names) : [written(system, found.text)];
  if (!found.text) shown.push(note("an empty answer"));
  if (isJson(system) && found.text && !isWholeJson(found.text)) shown.push(el("p", { class: "warn" }, "This isn't whole JSON."));
  if (found.finish === "length") shown.push(el("p", { class: "warn" }, "Cut off: it had used up its tokens."));
  body.replaceChildren(...shown, note(spent(found)));
  body.setAttribute("aria-busy", "false");
}

// Labels with their probabilities, the likeliest first. A server tells those of the first few.
const options = (found) =>
  new Map((found.chances[0]?.top_logprobs ?? []).map(({ token, logprob }) => [token, Math.exp(logprob)]));

function label(system, found, names) {
  const [told] = found.chances;
  if (!told) return [el("p", { class: "label" }, said(found.text))];
  const chances = options(found);
  const left = system.labels.length - names.length;
  const p = chance(Math.exp(told.logprob));
  return [
    el("p", { class: "label" }, said(found.text), el("span", { class: "chance", title: "probability" }, p)),
    el("ul", { class: "bars", "aria-label": "probabilities" }, ...names.map((name) => bar(name, chances.get(name), name === found.text))),
    ...(left > 0 ? [note(`and ${plural(left, "label")} less likely`)] : []),
  ];
}

function bar(name, part, isAnswer) {
  const fill = el("div", { class: "fill" });
  fill.style.width = `${100 * (part ?? 0)}%`;
  const track = el("div", { class: "track", "aria-hidden": "true" }, fill);
  return el("li", isAnswer ? { class: "chosen" } : {}, said(name), track, el("span", {}, part === undefined ? "–" : chance(part)));
}

function spent({ usage, ms, first_ms }) {
  const { prompt_tokens: read = 0, completion_tokens: made = 0 } = usage;
  const tokens = read ? `${plural(read, "token")} read, ${made.toLocaleString("en")} written · ` : "";
  const first = first_ms !== null && ms - first_ms > EARLIER_MS ? `, the first word after ${duration(first_ms)}` : "";
  return `${tokens}${duration(ms)}${first}`;
}

// A request that failed, or was stopped, in words, which are returned; what came before that stays.
export function showFailure({ body, node }, error) {
  const stopped = error.name === "AbortError";
  const words = stopped ? "Stopped." : (FAILURES[error.status] ?? `The server refused it (${error.status}).`);
  const came = [...body.querySelectorAll("pre")];
  body.replaceChildren(...came, el("p", { class: stopped ? "note" : "bad" }, el("b", {}, words)));
  if (!stopped) body.append(note(said(error.message)));
  if (error.retryAfter) body.append(el("p", {}, `Ask again in ${error.retryAfter} s.`));
  body.setAttribute("aria-busy", "false");
  node.classList.toggle("failed", !stopped);
  return words;
}

// Two answers to the same input: what sets them apart is marked in their panels, and returned in words.
export function compare(panels, answers) {
  const [one, other] = answers.map((found) => found.text.trim());
  if (panels.every(({ system }, side) => isNamed(system, answers[side]))) {
    alignBars(panels, answers);
    return one === other ? `Both answer ${one}.` : `They differ: ${one} and ${other}.`;
  }
  if (one === other) return "Both answer the same.";
  const texts = panels.map(({ body }) => body.querySelector("pre"));
  if (!texts.every(Boolean)) return "They differ.";
  const pieces = texts.map((text) => parts(text.textContent));
  const own = lacking(...pieces);
  if (own === null) return "They differ, and are too long to mark where.";
  texts.forEach((text, side) =>
    text.replaceChildren(...pieces[side].map((piece, at) => (own[side].has(at) && piece.trim() ? el("mark", {}, piece) : piece))),
  );
  return "They differ where they are marked.";
}

// The same labels in the same order on both sides, so that a label's two bars stand in one row.
function alignBars(panels, answers) {
  const most = new Map();
  for (const [name, part] of answers.flatMap((found) => [...options(found)])) most.set(name, Math.max(part, most.get(name) ?? 0));
  const names = [...most.keys()].sort((a, b) => most.get(b) - most.get(a) || (a < b ? -1 : 1));
  panels.forEach((view, side) => showAnswer(view, answers[side], names.slice(0, BARS)));
}
