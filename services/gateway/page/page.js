// page.js - the page's behaviour: pictures in, questions out, answers streamed, conversations resumed.
// Everything it knows comes over the public API (docs/protocol.md); it needs nothing but the gateway.

const $ = (id) => document.getElementById(id);
const SETTINGS = ["sample", "temperature", "top_k", "top_p", "num_beams", "length_penalty", "no_repeat_ngram_size", "max_tokens", "upright"];

const state = {
  turns: [],          // {role, text, pictures, kept?, timings?, error?, finish?, stopped?}; kept: the server has it
  pictures: [],       // of the question being written: {url, file?}; file: the id by which the server has it
  conversation: null, // id, when the server keeps conversations
  keeps: true,        // does it?
  abort: null,        // AbortController of the answer being streamed
};

// ---- the API ----

class ApiError extends Error {
  constructor(message, code, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

function key() {
  return localStorage.getItem("tyto-key") || "";
}

async function call(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (key()) headers.Authorization = "Bearer " + key();
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new ApiError("The gateway does not answer. Is `tyto up` running?", "unreachable", 0);
  }
  if (reply.ok) return reply;
  let error = {};
  try {
    error = (await reply.json()).error || {};
  } catch { /* not JSON: the status says enough */ }
  if (reply.status === 401) {
    const given = prompt("This server wants an API key:");
    if (given) {
      localStorage.setItem("tyto-key", given);
      return call(path, options);
    }
  }
  throw new ApiError(error.message || `The gateway answered ${reply.status}.`, error.code, reply.status);
}

// Yields the JSON objects of a server-sent event stream.
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const data = rest.slice(0, end).split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

// ---- pictures ----

function readDataUrl(file) {
  return new Promise((resolve, reject) => {
    const r = new FileReader();
    r.onload = () => resolve(r.result);
    r.onerror = () => reject(r.error);
    r.readAsDataURL(file);
  });
}

async function addPictures(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) continue;
    try {
      state.pictures.push({ url: await readDataUrl(file) });
    } catch {
      showNotice(`${file.name || "The picture"} cannot be read. Save it as JPEG or PNG and try again.`);
    }
  }
  drawPictures();
  $("question").focus();
}

function drawPictures() {
  $("pictures").replaceChildren(...state.pictures.map(({ url }, i) => {
    const li = document.createElement("li");
    const img = document.createElement("img");
    img.src = url;
    img.alt = `Picture ${i + 1}`;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove picture ${i + 1}`);
    remove.onclick = () => { state.pictures.splice(i, 1); drawPictures(); };
    li.append(img, remove);
    return li;
  }));
}

// ---- drawing the conversation ----

function ms(x) {
  return x >= 1000 ? (x / 1000).toFixed(2) + " s" : x >= 10 ? x.toFixed(0) + " ms" : x.toFixed(2) + " ms";
}

// A hop's measured pieces, in the order in which they pass.
function pieces(s) {
  const out = [["queue", s.broker_queue_ms], ["wire", s.wire_ms], ["queue", s.worker_queue_ms]];
  if (s.prefill_ms !== undefined) out.push(["prefill", s.prefill_ms], ["decode", s.decode_ms]);
  else out.push(["compute", s.compute_ms]);
  out.push(["wire", s.return_ms]);
  return out.map(([kind, t]) => [kind, t || 0]);
}

function waterfall(t) {
  const details = document.createElement("details");
  details.className = "fall";
  const summary = document.createElement("summary");
  summary.textContent = `${ms(t.wall_ms)}` + (t.ttft_ms !== undefined ? `, first word after ${ms(t.ttft_ms)}` : "");
  const table = document.createElement("table");
  const parsed = t.gateway?.parse_ms || 0;
  const starts = {}; // where the next hop of a picture begins
  for (const s of t.stages || []) {
    const who = s.picture ?? "decode";
    let x = starts[who] ?? parsed + (s.picture === undefined ? t.gateway?.pictures_ms || 0 : 0);
    const row = table.insertRow();
    const name = s.stage + (s.picture !== undefined ? ` ${s.picture + 1}` : "");
    row.insertCell().textContent = name;
    const bar = document.createElement("div");
    bar.className = "bar";
    let sum = 0;
    for (const [kind, d] of pieces(s)) {
      const i = document.createElement("i");
      i.className = kind;
      i.style.left = `${(100 * x) / t.wall_ms}%`;
      i.style.width = `${(100 * d) / t.wall_ms}%`;
      i.title = `${name}: ${kind} ${ms(d)}`;
      bar.append(i);
      x += d;
      sum += d;
    }
    starts[who] = x;
    row.insertCell().append(bar);
    row.insertCell().textContent = ms(sum);
    row.insertCell().textContent = (s.worker || "") + (s.batch > 1 ? ` ×${s.batch}` : "") + (s.attempt > 1 ? ` try ${s.attempt}` : "")
      + (s.cache === "hit" ? " from the cache" : "");
  }
  const legend = document.createElement("div");
  legend.className = "key";
  legend.innerHTML = '<i class="queue"></i>waiting<i class="wire"></i>on the wire<i class="compute"></i>computing<i class="prefill"></i>reading the prompt<i class="decode"></i>writing';
  details.append(summary, table, legend);
  return details;
}

function errorBox(e) {
  const box = document.createElement("div");
  box.className = "error";
  box.setAttribute("role", "alert");
  box.textContent = e.message;
  return box;
}

// A video of an API's client is named, not played: browsers know few of the kinds that the models take.
function shownPicture({ url, video }, i) {
  if (video) return Object.assign(document.createElement("span"), { className: "note", textContent: `Video ${i + 1}` });
  return Object.assign(document.createElement("img"), { src: url, alt: `Picture ${i + 1}` });
}

function drawTurn(turn, li) {
  li.className = `turn ${turn.role}${turn.busy ? " busy" : ""}`;
  const [shown, text, foot] = li.children;
  if (shown.childElementCount !== turn.pictures.length)
    shown.replaceChildren(...turn.pictures.map(shownPicture));
  text.textContent = turn.text;
  foot.replaceChildren();
  if (turn.error) foot.append(errorBox(turn.error));
  if (turn.busy || turn.role !== "assistant") return;
  if (state.turns.at(-1) === turn) {
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = turn.error ? "Try again" : "Another answer";
    again.onclick = regenerate;
    foot.append(again);
  }
  if (turn.finish === "length") foot.append("cut at the longest answer allowed ");
  if (turn.stopped) foot.append("stopped ");
  if (turn.timings) foot.append(waterfall(turn.timings));
}

function drawTurns() {
  const list = $("turns");
  list.replaceChildren(...state.turns.map((t) => {
    const li = $("turn").content.firstElementChild.cloneNode(true);
    drawTurn(t, li);
    t.li = li;
    return li;
  }));
  list.scrollTop = list.scrollHeight;
}

function redraw(turn) {
  const list = $("turns");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  drawTurn(turn, turn.li);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function showNotice(text) {
  state.turns.push({ role: "assistant", text: "", pictures: [], error: new Error(text), notice: true });
  drawTurns();
}

// ---- asking ----

function sampling() {
  const n = (id) => Number($(id).value);
  const out = { max_tokens: n("max_tokens"), no_repeat_ngram_size: n("no_repeat_ngram_size"), temperature: 0, upright: $("upright").checked };
  if ($("sample").checked) Object.assign(out, { temperature: n("temperature"), top_k: n("top_k"), top_p: n("top_p") });
  if (n("num_beams") > 1) Object.assign(out, { num_beams: n("num_beams"), length_penalty: n("length_penalty") });
  return out;
}

function message(turn) {
  if (turn.role === "assistant") return { role: "assistant", content: turn.text };
  const parts = turn.pictures.map(({ url, file, video }) => {
    if (file) return video ? { type: "video_file", video_file: { file_id: file } } : { type: "image_file", image_file: { file_id: file } };
    return { type: "image_url", image_url: { url } };
  });
  if (turn.text) parts.push({ type: "text", text: turn.text });
  return { role: "user", content: parts };
}

// What was really said: notices are not, nor is a question that got no word of an answer, but for the one that waits for it.
function said(turns) {
  const unanswered = (t) => t.role === "assistant" && !t.text && !t.busy && !t.kept;
  return turns.filter((t, i) => !t.notice && !unanswered(t) && !(turns[i + 1] && unanswered(turns[i + 1])));
}

// What goes out: what the server does not have yet.  It has all turns up to the last kept one; a stopped answer and what was asked
// before it go along with the next question.
function body(turns) {
  const out = { model: $("model").value, stream: true, ...sampling() };
  const real = said(turns);
  if (state.keeps) out.conversation = state.conversation || "new";
  out.messages = (state.keeps ? real.filter((t) => !t.kept) : real).map(message);
  return out;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// A stop frees the conversation a moment after the browser has hung up.
async function post(request, signal) {
  for (let tries = 0; ; tries++) {
    try {
      return await call("/v1/chat/completions", {
        method: "POST", body: JSON.stringify(request), signal, headers: { "Content-Type": "application/json" },
      });
    } catch (e) {
      if (e.code !== "conversation_busy" || tries === 5) throw e;
      await pause(200);
    }
  }
}

async function answer() {
  const turn = { role: "assistant", text: "", pictures: [], busy: true };
  const request = body(state.turns);
  state.turns.push(turn);
  drawTurns();
  state.abort = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  try {
    const reply = await post(request, state.abort.signal);
    for await (const event of events(reply)) {
      if (event.error) throw new ApiError(event.error.message, event.error.code, 200);
      const choice = event.choices?.[0];
      if (choice?.delta?.content) turn.text += choice.delta.content;
      if (choice?.finish_reason) turn.finish = choice.finish_reason;
      if (event.timings) turn.timings = event.timings;
      if (event.conversation) { // the last chunk: all of it is stored
        state.conversation = event.conversation;
        for (const t of said(state.turns)) t.kept = true;
      }
      redraw(turn);
    }
    if (!turn.text && !turn.finish) throw new ApiError("The answer broke off. Try again.", "broken", 0);
  } catch (e) {
    if (e.name === "AbortError") turn.stopped = true;
    else turn.error = e;
  }
  turn.busy = false;
  state.abort = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  redraw(turn);
  if (state.conversation) history.replaceState(null, "", "#" + state.conversation);
  loadList();
  $("question").focus();
}

function ask(event) {
  event?.preventDefault();
  if (state.abort || state.turns.at(-1)?.busy) return;
  const text = $("question").value.trim();
  if (!text && state.pictures.length === 0) return;
  state.turns = state.turns.filter((t) => !t.notice);
  state.turns.push({ role: "user", text, pictures: state.pictures });
  state.pictures = [];
  $("question").value = "";
  grow();
  drawPictures();
  answer();
}

// Another answer to the last question.  A kept conversation is forked before it, so nothing is lost.
async function regenerate() {
  const turns = state.turns, last = turns.at(-1);
  if (state.abort || last.busy) return;
  last.busy = true;
  redraw(last);
  if (last.kept) {
    const kept = turns.filter((t) => t.kept && t !== last);
    try {
      const reply = await call(`/v1/conversations/${state.conversation}/fork`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ turns: kept.length - 1 }),
      });
      const { id } = await reply.json();
      if (state.turns !== turns) return; // another conversation was opened meanwhile
      state.conversation = id;
      kept.at(-1).kept = false;
    } catch (e) {
      Object.assign(last, { busy: false, error: e });
      redraw(last);
      return;
    }
  }
  turns.pop();
  answer();
}

// ---- kept conversations ----

async function loadList() {
  try {
    const { data } = await (await call("/v1/conversations?limit=50")).json();
    state.keeps = true;
    $("list-note").textContent = data.length ? "" : "Conversations that you start appear here.";
    $("list").replaceChildren(...data.map((c) => {
      const li = document.createElement("li");
      const open = document.createElement("button");
      open.className = "open";
      open.textContent = c.title || "Conversation";
      if (c.id === state.conversation) open.setAttribute("aria-current", "true");
      open.onclick = () => resume(c.id);
      const gone = document.createElement("button");
      gone.className = "gone";
      gone.textContent = "×";
      gone.setAttribute("aria-label", `Delete ${c.title || "conversation"}`);
      gone.onclick = () => remove(c.id);
      li.append(open, gone);
      return li;
    }));
  } catch (e) {
    state.keeps = e.status !== 404 && e.status !== 501;
    $("list").replaceChildren();
    $("list-note").textContent = state.keeps ? e.message : "This server keeps no conversations: a reload forgets.";
  }
}

// An <img> cannot show a key: with one, the bytes are fetched here.
async function fileUrl(id) {
  const path = `/v1/files/${id}/content`;
  return key() ? URL.createObjectURL(await (await call(path)).blob()) : path;
}

async function keptTurn(t) {
  const parts = typeof t.content === "string" ? [{ type: "text", text: t.content }] : t.content;
  const files = parts.filter((p) => p.type !== "text");
  return {
    role: t.role, kept: true, timings: t.timings, finish: t.finish_reason,
    text: parts.filter((p) => p.type === "text").map((p) => p.text).join(""),
    pictures: await Promise.all(files.map(async (p) => {
      const video = p.type === "video_file", file = p[p.type].file_id;
      return { file, video, url: video ? "" : await fileUrl(file) };
    })),
  };
}

async function resume(id) {
  state.abort?.abort();
  try {
    const c = await (await call(`/v1/conversations/${id}`)).json();
    state.conversation = id;
    state.turns = await Promise.all(c.turns.map(keptTurn));
    if ([...$("model").options].some((o) => o.value === c.model)) $("model").value = c.model;
    history.replaceState(null, "", "#" + id);
    drawTurns();
  } catch (e) {
    fresh();
    if (e.status !== 404) showNotice(e.message);
  }
  $("side").classList.remove("open");
  loadList();
}

async function remove(id) {
  try {
    await call(`/v1/conversations/${id}`, { method: "DELETE" });
    if (id === state.conversation) fresh();
  } catch (e) {
    showNotice(e.message);
  }
  loadList();
}

function fresh() {
  state.abort?.abort();
  state.turns = [];
  state.conversation = null;
  history.replaceState(null, "", location.pathname);
  drawTurns();
  $("side").classList.remove("open");
  $("question").focus();
}

// ---- models, health, settings ----

async function loadModels() {
  try {
    const { data } = await (await call("/v1/models")).json();
    $("model").replaceChildren(...data.map((m) => new Option(m.id, m.id)));
    const wanted = localStorage.getItem("tyto-model");
    if (data.some((m) => m.id === wanted)) $("model").value = wanted;
  } catch (e) {
    showNotice(e.message);
  }
}

function whyNot(readyz) {
  const waiting = (readyz.models || []).find((m) => !m.ready);
  return "Not ready: " + (waiting?.reason || (readyz.draining ? "the gateway is stopping" : "the pipeline is starting"));
}

async function health() {
  const dot = $("health");
  try {
    const r = await fetch("/readyz");
    const answer = await r.json().catch(() => ({}));
    dot.className = "dot " + (r.ok ? "ok" : "bad");
    dot.title = r.ok ? "The pipeline is ready" : whyNot(answer);
  } catch {
    dot.className = "dot bad";
    dot.title = "The gateway does not answer";
  }
  setTimeout(health, 5000);
}

function loadSettings() {
  const saved = JSON.parse(localStorage.getItem("tyto-settings") || "{}");
  for (const id of SETTINGS) {
    const input = $(id);
    const box = input.type === "checkbox";
    if (saved[id] !== undefined) input[box ? "checked" : "value"] = saved[id];
    const show = () => { const out = input.parentElement.querySelector("output"); if (out) out.textContent = input.value; };
    input.addEventListener("input", () => {
      show();
      saved[id] = box ? input.checked : input.value;
      localStorage.setItem("tyto-settings", JSON.stringify(saved));
    });
    show();
  }
}

function grow() {
  const q = $("question");
  q.style.height = "auto";
  q.style.height = `${q.scrollHeight + 2}px`;
}

function wire() {
  $("ask").addEventListener("submit", ask);
  $("stop").onclick = () => state.abort?.abort();
  $("attach").onclick = () => $("file").click();
  $("file").onchange = async (e) => { await addPictures(e.target.files); e.target.value = ""; };
  $("new").onclick = fresh;
  $("model").onchange = () => localStorage.setItem("tyto-model", $("model").value);
  $("menu").onclick = () => $("menu").setAttribute("aria-expanded", $("side").classList.toggle("open"));
  $("question").addEventListener("input", grow);
  $("question").addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) ask(e);
  });
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape" && state.abort) state.abort.abort();
    if (e.key === "k" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); fresh(); }
  });
  document.addEventListener("paste", (e) => {
    const files = [...(e.clipboardData?.files || [])];
    if (files.length) { e.preventDefault(); addPictures(files); }
  });
  let depth = 0;
  document.addEventListener("dragenter", (e) => { e.preventDefault(); depth++; $("drop").hidden = false; });
  document.addEventListener("dragover", (e) => e.preventDefault());
  document.addEventListener("dragleave", () => { if (--depth <= 0) { depth = 0; $("drop").hidden = true; } });
  document.addEventListener("drop", (e) => { e.preventDefault(); depth = 0; $("drop").hidden = true; addPictures(e.dataTransfer.files); });
}

wire();
loadSettings();
health();
await loadModels();
await loadList();
if (location.hash.startsWith("#conv_")) await resume(location.hash.slice(1));
$("question").focus();
