// The page of a server: what is served, a form that asks it, and how the server is.

import { compare, isBare, isLabel, isScored, panel, showAnswer, showFailure, showText } from "./answers.js";
import { $, el, note, said } from "./elements.js";
import { asCurl, asPython } from "./programs.js";
import { askChat, keepKey, keyHeld, send, sendForJson, whenRefused } from "./server.js";
import { mebibytes, plural } from "./words.js";

const BASE = `${location.origin}/v1`;
const TICK_MS = 4000;
const TICKS_A_LIST = 5;
const MOST_OPTIONS = 20;
const EXAMPLE = "your text here";

const state = { systems: [], cards: new Map(), running: null, gone: false };

// ---- The form

const named = (name) => state.systems.find((system) => system.name === name);
const chosen = () => [named($("first").value), named($("second").value)].filter(Boolean);

// A label comes whole, with its probability where it has one; whatever is written comes as it is written.
function requestFor(system) {
  const context = $("context").value.trim() ? [{ role: "system", content: $("context").value }] : [];
  const body = { model: system.name, messages: [...context, { role: "user", content: $("text").value || EXAMPLE }] };
  if (isScored(system)) {
    return { ...body, logprobs: true, top_logprobs: Math.min(MOST_OPTIONS, system.labels.length) };
  }
  if (isLabel(system)) return body;
  // A System ends as it was made to; a base model goes on until its context is full.
  const most = isBare(system) && Number($("limit").value) > 0 ? { max_tokens: Number($("limit").value) } : {};
  return { ...body, ...most, stream: true, stream_options: { include_usage: true } };
}

async function answer() {
  const panels = chosen().map(panel);
  const requests = chosen().map(requestFor);
  const breaking = new AbortController();
  const answers = [];
  busy(breaking);
  $("difference").hidden = true;
  $("answers").replaceChildren(...panels.map((view) => view.node));
  // One after the other: together they would slow each other down, and their times would say nothing.
  for (const [at, view] of panels.entries()) {
    try {
      const found = await askChat(requests[at], breaking.signal, (text) => showText(view, text));
      showAnswer(view, found);
      answers.push(found);
    } catch (error) {
      tell(`${view.system.name}: ${showFailure(view, error)}`);
    }
  }
  busy(null);
  if (answers.length === panels.length) conclude(panels, answers);
  if (answers.length < panels.length || panels.some(({ system }) => !system.loaded)) refresh(true);
}

function conclude(panels, answers) {
  const told = answers.map((found, at) => `${panels[at].system.name}: ${found.text.slice(0, 300)}`);
  if (panels.length === 2) {
    $("difference").textContent = compare(panels, answers);
    $("difference").hidden = false;
    told.unshift($("difference").textContent);
  }
  tell(told.join(" "));
}

function busy(breaking) {
  if (!breaking && document.activeElement === $("stop")) $("ask").focus();
  state.running = breaking;
  $("ask").setAttribute("aria-disabled", String(breaking !== null));
  $("stop").hidden = breaking === null;
}

const tell = (text) => ($("said").textContent = text);

// Keep what depends on the form's choices in step with them.
function follow() {
  for (const option of $("second").options) option.disabled = option.value !== "" && option.value === $("first").value;
  if ($("second").value === $("first").value) $("second").value = "";
  $("limit").disabled = !chosen().some(isBare); // a disabled field can't hold the form back
  $("limit-field").hidden = $("limit").disabled;
  const names = new Set(chosen().map((system) => system.name));
  for (const node of $("systems").children) node.classList.toggle("used", names.has(node.dataset.name));
  showPrograms();
}

function showPrograms() {
  const write = document.querySelector("[name=language]:checked").value === "python" ? asPython : asCurl;
  $("code").textContent = write(chosen().map(requestFor), BASE, keyHeld());
  $("copied").textContent = "";
}

async function copyPrograms() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copied").textContent = "copied";
  } catch {
    // Browsers give the clipboard to pages of this machine and of https alone.
    getSelection().selectAllChildren($("code"));
    $("copied").textContent = "selected: Ctrl + C copies it";
  }
}

// ---- What is served

function card(system) {
  const facts = {
    rung: isBare(system) ? "none: the model as it is" : system.rung,
    task: isBare(system) ? null : system.task,
    kind: system.kind,
    base: system.base?.name,
    licence: system.base?.licence,
    engine: system.weight_type ? `${system.engine} in ${system.weight_type}` : system.engine,
    tag: system.tag,
    digest: system.digest,
  };
  const rows = Object.entries(facts).filter(([, value]) => value);
  const button = el("button", { type: "button", "aria-label": `Try ${system.name}` }, "Try");
  button.addEventListener("click", () => {
    $("first").value = system.name;
    follow();
    $("text").focus();
  });
  return el(
    "li",
    { "data-name": system.name },
    el("div", { class: "named" }, el("h3", {}, said(system.name)), el("span", { class: system.loaded ? "note good" : "note" }, system.loaded ? "loaded" : "not loaded"), button),
    el("dl", {}, ...rows.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, said(value))])),
    system.labels.length ? folded(plural(system.labels.length, "label"), said(system.labels.join(", "))) : null,
    system.schema ? folded("JSON Schema", el("pre", {}, JSON.stringify(system.schema, null, 2))) : null,
  );
}

const folded = (summary, content) => el("details", {}, el("summary", {}, summary), content);

const vectorsCard = (name) =>
  el("li", {}, el("h3", {}, said(name)), note("sentence vectors, at ", el("code", {}, "/v1/embeddings")));

function showSystems(systems, vectors) {
  state.systems = systems;
  showCards([...systems, ...vectors]);
  const bare = systems.filter(isBare).length;
  const counts = [[systems.length - bare, "System"], [bare, "base model"]].filter(([count]) => count);
  const all = counts.map(([count, what]) => plural(count, what)).join(" and ");
  $("title").textContent = all ? `${all} ${systems.length === 1 ? "is" : "are"} served.` : "No System is served.";
  offer($("first"), systems);
  offer($("second"), systems, el("option", { value: "" }, "nothing"));
  $("second").disabled = systems.length < 2;
  $("nothing").hidden = systems.length > 0;
  $("try").hidden = systems.length === 0;
  $("served").hidden = systems.length + vectors.length === 0;
  document.querySelector("main").classList.toggle("two", systems.length > 0);
  follow();
}

// A card that says the same stays: what was opened in it stays open, and the focus where it was.
function showCards(items) {
  const cards = new Map();
  for (const item of items) {
    const text = JSON.stringify(item);
    cards.set(text, state.cards.get(text) ?? (typeof item === "string" ? vectorsCard(item) : card(item)));
  }
  const made = [...cards.values()];
  const old = [...$("systems").children];
  if (made.length !== old.length || made.some((node, at) => node !== old[at])) $("systems").replaceChildren(...made);
  state.cards = cards;
}

function offer(select, systems, ...before) {
  const names = systems.map((system) => system.name);
  const offered = [...select.options].map((option) => option.value).filter(Boolean);
  if (JSON.stringify(offered) === JSON.stringify(names)) return;
  const value = select.value;
  select.replaceChildren(...before, ...names.map((name) => el("option", { value: name }, name)));
  if (names.includes(value)) select.value = value;
}

// ---- How the server is

async function refresh(list) {
  try {
    const [metrics, ready] = await Promise.all([send("/metrics").then((response) => response.text()), sendForJson("/readyz")]);
    if (list || state.gone) {
      const [systems, models] = await Promise.all(["/v1/systems", "/v1/models"].map(sendForJson));
      const names = new Set(systems.data.map((system) => system.name));
      showSystems(systems.data, models.data.map((model) => model.id).filter((name) => !names.has(name)));
    }
    showFigures(metrics, ready);
    $("access").hidden = true;
    $("forget-field").hidden = !keyHeld();
    $("gone").hidden = true;
    state.gone = false;
  } catch (error) {
    if (error.status !== 401) showGone(error.message);
  }
}

function showFigures(metrics, ready) {
  const waits = ready.waiting_for.length ? `, waits for ${ready.waiting_for.join(", ")}` : "";
  $("state").textContent = ready.status + waits;
  $("state").className = ready.status === "ready" ? "good" : "warn";
  $("requests").textContent = `${gauge(metrics, "rung_running")} running, ${gauge(metrics, "rung_waiting")} waiting`;
  $("memory").textContent = mebibytes(gauge(metrics, "rung_memory_bytes"));
}

// The sum of a gauge over its labels, in Prometheus' text format.
function gauge(metrics, name) {
  const lines = metrics.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, "gm"));
  return [...lines].reduce((sum, [, value]) => sum + Number(value), 0);
}

function showGone(message) {
  const words = `${message}. This page goes on looking for it.`;
  if (!state.gone) $("gone").textContent = words;
  state.gone = true;
  $("gone").hidden = false;
  $("state").textContent = "no answer";
  $("state").className = "bad";
}

// ---- The API key

function askForKey(message, sent) {
  const asking = !$("access").hidden;
  $("key-said").textContent = sent ? `${message}.` : "";
  keepKey("");
  for (const id of ["try", "served", "nothing", "forget-field", "gone"]) $(id).hidden = true;
  document.querySelector("main").classList.remove("two");
  $("title").textContent = "This server asks for an API key.";
  $("state").textContent = "asks for a key";
  $("state").className = "warn";
  $("access").hidden = false;
  if (!asking || sent) $("key").focus();
}

function giveKey(event) {
  event.preventDefault();
  keepKey($("key").value.trim());
  $("key").value = "";
  refresh(true);
}

function forgetKey() {
  keepKey("");
  refresh(true);
}

// A link sends no key, so the file is asked for here where there is one.
async function openDescription(event) {
  if (!keyHeld()) return;
  event.preventDefault();
  try {
    const url = URL.createObjectURL(await send("/openapi.json").then((response) => response.blob()));
    el("a", { href: url, download: "rung-openapi.json" }).click();
    URL.revokeObjectURL(url);
  } catch {
    refresh(true); // says what is the matter
  }
}

function begin() {
  let ticks = 0;
  const idle = () => document.hidden || !$("access").hidden;
  $("base").textContent = BASE;
  $("nothing-call").textContent = `curl ${BASE}/systems \\\n  -H 'Content-Type: application/json' \\\n  -d '{"system": "runs/demo/winner"}'`;
  $("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!state.running) answer();
  });
  $("ask-form").addEventListener("input", follow);
  $("ask-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask-form").requestSubmit();
  });
  $("stop").addEventListener("click", () => state.running?.abort());
  for (const radio of document.querySelectorAll("[name=language]")) radio.addEventListener("change", showPrograms);
  $("copy").addEventListener("click", copyPrograms);
  $("openapi").addEventListener("click", openDescription);
  $("access-form").addEventListener("submit", giveKey);
  $("forget").addEventListener("click", forgetKey);
  whenRefused(askForKey);
  document.addEventListener("visibilitychange", () => idle() || refresh(true));
  setInterval(() => idle() || refresh(++ticks % TICKS_A_LIST === 0), TICK_MS);
  refresh(true);
}

begin();
