/**
 * The race: one prompt, decoded twice at once by the same server, plainly and with speculation, and compared.
 *
 * It knows the HTTP API only. Text of a model reaches the page as text nodes and in no other way.
 */

const EXAMPLES = [
  ["Story", "text", "Once upon a time, there was a small brown owl named Oscar. He lived in an old tree near the farm."],
  ["Novel", "text", "The old ship lay quietly in the harbour, and the captain stood upon the deck, looking out over the dark water. He had not slept"],
  ["Edit a text", "chat", 'Replace the word "river" by the word "canal" everywhere in the text.\n\nOur house stands beside the river, and in winter the river rises almost to the garden gate. My uncle measures it each morning with a painted stick. When the river is brown he worries, and when the river is green he whistles.'],
  ["Code", "chat", "Rename the variable total to weight_sum in this code.\n\n```python\ndef measure_parcels(parcels, limit):\n    total = 0\n    heavy = []\n    for parcel in parcels:\n        total += parcel.weight\n        if parcel.weight > limit:\n            heavy.append(parcel)\n    if total > 480:\n        print(total)\n    return total, heavy\n```"],
  ["Maths", "chat", "Nadja packs 6 boxes of pears with 14 pears in each box. She gives 9 pears to her neighbour. How many pears does she have left?"],
  ["List", "chat", "Write the items as a numbered list.\n\nwool blanket, tin kettle, paper map, spare batteries, dried apricots, rain cover, sewing kit, blue candle, folding saw, chalk"],
];
const ORDER_HINTS = {
  together: "Together they share the machine, so both are slower than alone.",
  apart: "Plain goes first. Each has the machine to itself, so the times are what they would be alone.",
};
const TARGET = "target";
const KNOWN = ["draft", "ngram", "suffix", "mix", "lookahead", "recycling", "reference", "naive"]; // their colours never change
const SEEDS = 2 ** 31;
const CONTEXT = 32; // characters shown around a difference

const element = (id) => document.getElementById(id);
const made = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });

/* ---- the wire ---- */

/** What a user is told went wrong: a refusal, an error inside a stream, or a stream that is none. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Server-sent events, as the standard has them: bytes in, cut anywhere; the data of complete events out. */
export class EventParser {
  #decoder = new TextDecoder("utf-8", { fatal: true });
  #line = "";
  #data = [];
  #afterReturn = false;

  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    const half = this.#afterReturn && text[0] === "\n"; // of a CRLF that was cut in two
    this.#afterReturn = text.endsWith("\r");
    if (half) text = text.slice(1);
    const lines = (this.#line + text).split(/\r\n|\n|\r/);
    this.#line = lines.pop();
    return lines.flatMap((line) => this.#take(line));
  }

  #take(line) {
    if (line === "") {
      const event = this.#data;
      this.#data = [];
      return event.length ? [event.join("\n")] : [];
    }
    const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
    if (field === "data") this.#data.push(value ?? ""); // a comment has an empty field; event, id and retry say nothing here
    return [];
  }
}

function headers(key) {
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function reached(url, options) {
  try {
    return await fetch(url, { cache: "no-store", ...options });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new ServerError("The server cannot be reached.");
  }
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  let message = `The server answered with status ${response.status}.`;
  try {
    message = JSON.parse(text).error.message ?? message;
  } catch {
    // not one of the API's errors: the status has to do
  }
  return new ServerError(message, response.status);
}

function parsed(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ServerError("The stream holds something that is no JSON.");
  }
  if (chunk?.error) throw new ServerError(chunk.error.message ?? "The server reports an error without a message.");
  return chunk;
}

async function discard(reader) {
  while (!(await reader.read()).done);
}

/** The chunks of one streamed answer. Throws ServerError, or AbortError where the signal says so. */
export async function* chunks(url, body, key, signal) {
  const response = await reached(url, { method: "POST", headers: headers(key), body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  const type = response.headers.get("Content-Type") ?? "nothing";
  if (!type.startsWith("text/event-stream")) throw new ServerError(`The server answered with ${type}, not with an event stream.`);
  const reader = response.body.getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ServerError("The stream ended before it was complete.");
      for (const data of parser.push(value)) {
        if (data === "[DONE]") return;
        yield parsed(data);
      }
    }
  } catch (failure) {
    if (failure instanceof ServerError || failure.name === "AbortError") throw failure;
    throw new ServerError(`The stream broke off: ${failure.message}.`);
  } finally {
    discard(reader).catch(() => {}); // a cancelled reader would look to the server like a client that left
  }
}

/* ---- who proposed what, in colour ---- */

const places = new Map(KNOWN.map((name, place) => [name, place]));

function look(source) {
  if (source === TARGET) return "";
  if (!places.has(source)) places.set(source, places.size);
  const place = places.get(source);
  return `by p${place % KNOWN.length}${place < KNOWN.length ? "" : " again"}`;
}

/* ---- one pane ---- */

const fresh = () => ({
  text: "", tokens: 0, sources: {}, draft_tokens: 0, accepted_tokens: 0, drafts: 0, steps: 0, usage: null, finish_reason: null,
  seconds: null, first_token_s: null, tokens_per_s: null,
});

const shown = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const percent = (part, whole) => `${whole ? Math.round((100 * part) / whole) : 0}%`;
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

class Lane {
  constructor(title, kind, plot = null) {
    const article = element("lane").content.cloneNode(true).firstElementChild;
    this.find = (selector) => article.querySelector(selector);
    this.output = this.find(".output");
    this.article = article;
    article.id = title.toLowerCase();
    article.ariaLabel = title;
    this.find("h2").textContent = title;
    this.output.ariaLabel = `${title} text`;
    this.find("progress").ariaLabel = `${title} progress`;
    this.kind = kind;
    this.plot = plot;
    this.output.addEventListener("scroll", () => {
      this.follows = this.output.scrollHeight - this.output.scrollTop - this.output.clientHeight < 24;
    });
    this.reset(1);
    element("lanes").append(article);
  }

  set kind(text) {
    this.find(".kind").textContent = text;
  }

  set phase(text) {
    this.find(".phase").textContent = text;
  }

  reset(limit) {
    this.data = fresh();
    this.pending = []; // segments no frame has shown yet
    this.times = { start: 0, first: 0, last: 0, opening: 0 };
    this.follows = true;
    this.legend = new Map();
    this.find(".legend").replaceChildren();
    this.output.replaceChildren();
    this.find(".error").hidden = true;
    this.find(".foot").textContent = "";
    this.find("progress").max = limit;
    this.phase = "";
    this.plot?.reset();
    this.show();
  }

  begin(kind) {
    this.kind = kind;
    this.phase = "waiting for the first token";
    this.times.start = performance.now();
  }

  /** Count a chunk; the next frame shows it. */
  accept(chunk) {
    const { data, times } = this;
    if (chunk.usage) data.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    if (choice.finish_reason) data.finish_reason = choice.finish_reason;
    const text = choice.delta?.content ?? choice.text ?? "";
    const sources = accounted(choice.sources, text);
    if (!sources.length) return;
    const opening = times.first === 0;
    times.last = performance.now();
    if (opening) Object.assign(times, { first: times.last, opening: sources.length });
    data.text += text;
    data.tokens += sources.length;
    for (const { source } of sources) data.sources[source] = (data.sources[source] ?? 0) + 1;
    if (choice.step) this.#step(choice.step, opening && sources.length === 1);
    this.pending.push(...sources);
    refresh(this);
  }

  /** The first token comes from the prompt's own pass, which is no step. */
  #step({ draft_tokens: fed, accepted_tokens: kept }, prefill) {
    if (prefill && fed === 0) return;
    this.data.steps += 1;
    this.data.drafts += fed > 0;
    this.data.draft_tokens += fed;
    this.data.accepted_tokens += kept;
    this.plot?.add(fed, kept);
  }

  /** The figures so far. Rates are of the wall clock here in the browser. */
  get figures() {
    const { data, times } = this;
    const tokens = data.usage?.completion_tokens ?? data.tokens;
    return {
      tokens,
      rate: ((tokens - times.opening) * 1000) / (times.last - times.first),
      whole: (tokens * 1000) / (times.last - times.start),
      first: times.first - times.start,
      acceptance: 1 + data.accepted_tokens / data.drafts,
    };
  }

  /** Everything that has come since the last frame, in one go. */
  show() {
    const { data, output } = this;
    const figures = this.figures;
    const before = output.lastChild;
    for (const { text, source } of this.pending) this.#append(text, source);
    this.pending = [];
    if (this.follows && output.lastChild !== null) output.scrollTop = output.scrollHeight;
    this.#explain();
    const fill = (name, text) => (this.find(`[data-figure=${name}]`).textContent = text);
    fill("rate", shown(figures.rate));
    fill("whole", shown(figures.whole));
    fill("first", figures.first > 0 ? `${shown(figures.first, 0)} ms` : "–");
    fill("tokens", String(figures.tokens));
    fill("steps", String(data.steps));
    fill("acceptance", data.drafts ? shown(figures.acceptance, 2) : "–");
    this.find("progress").value = figures.tokens;
    if (before === null && output.lastChild !== null) this.phase = "writing";
    this.plot?.draw();
  }

  #append(text, source) {
    if (text === "") return;
    const last = this.output.lastChild;
    if (last?.dataset.source === source) return last.firstChild.appendData(text);
    const span = made("span", look(source), text);
    span.dataset.source = source;
    span.title = source === TARGET ? "the model itself" : `proposed by ${source}`;
    this.output.append(span);
  }

  #explain() {
    for (const [source, count] of Object.entries(this.data.sources)) {
      if (!this.legend.has(source)) {
        const entry = made("li");
        entry.dataset.source = source;
        entry.append(made("span", `name ${look(source)}`, source), made("span", "count"));
        this.legend.set(source, entry.lastChild);
        this.find(".legend").append(entry);
      }
      this.legend.get(source).textContent = `${count} · ${percent(count, this.data.tokens)}`;
    }
  }

  /** The answer is complete. */
  finish() {
    const { data, times } = this;
    this.show();
    const { rate, first } = this.figures;
    data.seconds = (times.last - times.start) / 1000;
    data.first_token_s = first / 1000;
    data.tokens_per_s = Number.isFinite(rate) ? rate : null;
    this.phase = `${shown(data.seconds, 2)} s`;
    this.find("progress").value = this.find("progress").max;
    const cached = data.usage?.prompt_tokens_details?.cached_tokens ?? 0;
    const prompt = data.usage && `${plural(data.usage.prompt_tokens, "prompt token")}${cached ? `, ${cached} of them from kept KV` : ""}`;
    const end = { length: "ended at the token limit", stop: "ended by itself" }[data.finish_reason] ?? data.finish_reason;
    this.find(".foot").textContent = [prompt, end].filter(Boolean).join(" · ");
  }

  fail(message, hint = "") {
    this.show();
    this.phase = "failed";
    this.find(".error").textContent = [message, hint].filter(Boolean).join(" ");
    this.find(".error").hidden = false;
  }
}

/** The chunk's text by who proposed it; text that nobody accounts for is shown as nobody's. */
function accounted(sources, text) {
  if (Array.isArray(sources) && sources.map((part) => part.text).join("") === text) return sources;
  return text === "" ? [] : [{ text, source: "unknown" }];
}

const waiting = new Set();

/** Show a pane in the next frame: many chunks, one write. */
function refresh(lane) {
  if (waiting.size === 0) requestAnimationFrame(() => {
    const due = [...waiting];
    waiting.clear();
    due.forEach((each) => each.show());
  });
  waiting.add(lane);
}

/* ---- draft tokens fed and accepted, step by step ---- */

class Plot {
  constructor(canvas, note) {
    Object.assign(this, { canvas, note, fed: [], kept: [] });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  reset() {
    this.fed = [];
    this.kept = [];
  }

  add(fed, kept) {
    this.fed.push(fed);
    this.kept.push(kept);
  }

  /** Bars of at least 3 pixels; where there are more steps than that, each bar is the mean of several. */
  #bars(width) {
    const steps = this.fed.length;
    const span = Math.max(1, Math.ceil(steps / (width / 3)));
    const mean = (values, from) => values.slice(from, from + span).reduce((sum, value) => sum + value, 0) / Math.min(span, values.length - from);
    return Array.from({ length: Math.ceil(steps / span) }, (_, bar) => [mean(this.fed, bar * span), mean(this.kept, bar * span)]);
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (width === 0) return;
    const scale = devicePixelRatio || 1;
    Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [left, top, floor] = [28, 8, height - 18];
    const bars = this.#bars(width - left);
    const most = Math.max(4, ...bars.map(([fed]) => fed));
    const tick = [1, 2, 4, 5, 10, 20, 25, 50, 100, 200, 500].find((size) => most / size <= 4) ?? most;
    const ceiling = Math.ceil(most / tick) * tick;
    const y = (value) => floor - (value / ceiling) * (floor - top);
    pen.font = `11px ${style.fontFamily}`;
    pen.fillStyle = colour("--muted");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let value = 0; value <= ceiling; value += tick) {
      pen.fillText(String(value), left - 6, y(value));
      this.#line(pen, colour(value ? "--line" : "--edge"), left, width, y(value));
    }
    const pitch = Math.min(12, (width - left) / Math.max(bars.length, 1));
    const bar = (value, place, name, inset) => {
      pen.fillStyle = colour(name);
      const thickness = Math.max(1, pitch - (pitch > 4 ? 2 : 0.5) - 2 * inset);
      pen.fillRect(left + place * pitch + inset + 0.5, y(value), thickness, floor - y(value));
    };
    const inset = pitch > 7 ? 1.5 : 0;
    bars.forEach(([fed, kept], place) => {
      bar(fed, place, "--fed", 0);
      bar(kept, place, "--kept", inset);
    });
    this.#describe(pen, colour("--muted"), left, Math.max(left + bars.length * pitch, left + 90), height);
  }

  #line(pen, colour, from, to, at) {
    pen.strokeStyle = colour;
    pen.beginPath();
    pen.moveTo(from, Math.round(at) + 0.5);
    pen.lineTo(to, Math.round(at) + 0.5);
    pen.stroke();
  }

  #describe(pen, colour, left, right, height) {
    const steps = this.fed.length;
    const mean = (values) => shown(values.reduce((sum, value) => sum + value, 0) / steps);
    this.note.textContent = steps ? `on average ${mean(this.fed)} and ${mean(this.kept)}` : "";
    this.canvas.ariaLabel = steps ? `Over ${plural(steps, "step")}, ${mean(this.fed)} draft tokens fed and ${mean(this.kept)} accepted on average` : "No steps yet";
    if (!steps) return;
    pen.fillStyle = colour;
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    pen.fillText("step 1", left, height - 4);
    pen.textAlign = "right";
    if (steps > 1) pen.fillText(String(steps), right, height - 4);
  }
}

/* ---- the verdict ---- */

/** The first character, counted from 0 in code points, at which two texts differ; -1 where they are equal. */
export function difference(one, other) {
  const [left, right] = [[...one], [...other]];
  let at = 0;
  while (at < left.length && left[at] === right[at]) at += 1;
  return at === left.length && at === right.length ? -1 : at;
}

const visible = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t");

function around(text, at) {
  const characters = [...text];
  const row = document.createElement("dd");
  const [begin, end] = [Math.max(0, at - CONTEXT), at + CONTEXT];
  row.append((begin ? "…" : "") + visible(characters.slice(begin, at).join("")));
  row.append(made("mark", "", at < characters.length ? visible(characters[at]) : "(ends here)"));
  row.append(visible(characters.slice(at + 1, end).join("")) + (end < characters.length ? "…" : ""));
  return row;
}

function say(outcome, verdict, detail = "") {
  element("result").dataset.outcome = outcome;
  element("verdict").textContent = verdict;
  element("detail").textContent = detail;
}

function clearResult() {
  element("speedup").hidden = true;
  element("difference").hidden = true;
  element("difference").replaceChildren();
}

/** Whole and decoding-only ratio of the two rates. */
function ratios() {
  const [plain, spec] = [lanes.plain.figures, lanes.spec.figures];
  return { whole: spec.whole / plain.whole, rate: spec.rate / plain.rate };
}

function judge(seed) {
  const [plain, spec] = [lanes.plain.data.text, lanes.spec.data.text];
  const at = difference(plain, spec);
  const { whole, rate } = ratios();
  race.verdict = { identical: at < 0, at, speedup: rate, speedup_whole: whole };
  if (at < 0) {
    say("identical", `Identical: ${plural([...plain].length, "character")}, every one the same.`);
  } else {
    say("different", `DIFFERENT at character ${at + 1}.`);
    element("difference").append(made("dt", "", "Plain"), around(plain, at), made("dt", "", "Speculative"), around(spec, at));
    element("difference").hidden = false;
  }
  const notes = [`Seed ${seed}.`];
  if (Number.isFinite(whole)) notes.unshift(`Over the whole answer, prompt included, ${whole.toFixed(2)}×.`);
  element("detail").textContent = notes.join(" ");
  element("speedup").hidden = !Number.isFinite(rate);
  element("speedup").firstElementChild.textContent = `${shown(rate, 2)}×`;
  element("speedup").lastElementChild.textContent = rate < 1 ? "as fast after the first token: slower" : "as fast after the first token";
}

/* ---- the race ---- */

const lanes = {
  plain: new Lane("Plain", "the model alone, one token a step"),
  spec: new Lane("Speculative", "several tokens a step", new Plot(document.querySelector("#plot canvas"), document.querySelector("#plot .note"))),
};
const race = { state: "idle", plain: lanes.plain.data, spec: lanes.spec.data, seed: null, verdict: null };
window.__race = race;
let running = null;

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

function requestBody(prompt, seed, speculation) {
  return {
    model: about.model,
    ...(chosen("format") === "chat" ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
    max_tokens: element("max-tokens").valueAsNumber,
    temperature: element("temperature").valueAsNumber,
    seed,
    stream: true,
    stream_options: { include_usage: true },
    return_token_sources: true,
    return_speculation_stats: true,
    speculation,
    // Neither pane may draft from what an earlier race, or the other pane, has said.
    cache_salt: `race-${[...crypto.getRandomValues(new Uint32Array(4))].join("-")}`,
  };
}

function hintFor(failure) {
  if (failure.status === 401) {
    element("settings").open = true;
    return "Enter the API key under Settings.";
  }
  return /chat.?template/i.test(failure.message) ? "Choose Send as: Text." : "";
}

/** One pane from request to end; true where the answer is complete. */
async function run(lane, kind, url, body, signal) {
  lane.begin(kind);
  try {
    for await (const chunk of chunks(url, body, element("api-key").value, signal)) lane.accept(chunk);
    lane.finish();
    return true;
  } catch (failure) {
    if (failure.name === "AbortError") {
      lane.show();
      lane.phase = "stopped";
    } else if (failure instanceof ServerError) {
      lane.fail(failure.message, hintFor(failure));
    } else {
      lane.fail(`This page failed: ${failure.message}`);
      console.error(failure);
    }
    return false;
  }
}

async function runBoth(signal, seed) {
  const method = element("method").value;
  const prompt = element("prompt").value;
  const url = chosen("format") === "chat" ? "v1/chat/completions" : "v1/completions";
  const plain = () => run(lanes.plain, "the model alone, one token a step", url, requestBody(prompt, seed, { enabled: false }), signal);
  const spec = () => run(lanes.spec, `method ${method}`, url, requestBody(prompt, seed, { method }), signal);
  if (chosen("order") === "together") return Promise.all([plain(), spec()]);
  lanes.spec.phase = "waits for the other";
  const bodyOfSpec = await plain();
  return [bodyOfSpec, bodyOfSpec && (await spec())];
}

async function start() {
  if (running) return;
  running = new AbortController();
  const limit = element("max-tokens").valueAsNumber;
  for (const lane of Object.values(lanes)) lane.reset(limit);
  const seed = element("seed").value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS : Number(element("seed").value);
  Object.assign(race, { state: "running", plain: lanes.plain.data, spec: lanes.spec.data, seed, verdict: null });
  clearResult();
  say("running", "Running …", `Seed ${seed}.`);
  busy(true);
  if (matchMedia("(max-width: 46rem)").matches) element("result").scrollIntoView(); // else what happens is below the screen
  const complete = await runBoth(running.signal, seed);
  const stopped = running.signal.aborted;
  running = null;
  busy(false);
  conclude(complete, stopped, seed);
}

function conclude([plain, spec], stopped, seed) {
  if (plain && spec) {
    judge(seed);
    race.state = "done";
  } else if (stopped) {
    const [one, other] = [[...lanes.plain.data.text], [...lanes.spec.data.text]];
    const common = Math.min(one.length, other.length);
    const same = one.slice(0, common).join("") === other.slice(0, common).join("");
    say("stopped", "Stopped.", `${same ? "The same" : "NOT the same"} in the ${plural(common, "character")} that both have.`);
    race.state = "idle";
  } else {
    const failed = [!plain && "plain", !spec && "speculative"].filter(Boolean).join(" and the ");
    say("error", "No verdict.", `The ${failed} answer is not complete.`);
    race.state = "error";
  }
}

/** A button that is switched off hands its focus on. */
function busy(on) {
  const [off, to] = on ? [element("start"), element("stop")] : [element("stop"), element("start")];
  const focused = document.activeElement === off;
  to.disabled = false;
  off.disabled = true;
  if (focused) to.focus();
}

/* ---- what the server says of itself ---- */

const about = { model: "" };

async function ask(key) {
  const response = await reached("v1/models", { headers: headers(key) });
  if (!response.ok) throw await refusal(response);
  const models = await response.json();
  if (!models.data?.length) throw new ServerError("The server names no model.");
  return models.data[0];
}

function describe(model) {
  const { device, dtype, version, method = "auto", methods = ["auto"] } = model.betoken ?? {};
  about.model = model.id;
  const drafting = methods.filter((name) => name !== "plain");
  element("method").replaceChildren(...drafting.map((name) => new Option(name, name, name === method, name === method)));
  if (model.max_model_len) element("max-tokens").max = model.max_model_len;
  const rows = Object.entries({ model: model.id, device, dtype, version: version && `Betoken ${version}` }).filter(([, value]) => value);
  element("about").replaceChildren(...rows.map(([name, value]) => {
    const row = made("div");
    row.append(made("dt", "", name), made("dd", "", value));
    return row;
  }));
}

async function introduce() {
  try {
    describe(await ask(element("api-key").value));
    if (race.state === "idle") say("", "Ready.", "Choose a prompt and start.");
  } catch (failure) {
    say("error", failure instanceof ServerError ? failure.message : "The server's list of models cannot be read.", hintFor(failure));
  }
}

/* ---- the form ---- */

function choose(button, format, prompt) {
  element("prompt").value = prompt;
  document.querySelector(`input[name=format][value=${format}]`).checked = true;
  for (const each of element("examples").children) each.ariaPressed = String(each === button);
}

for (const [name, format, prompt] of EXAMPLES) {
  const button = made("button", "", name);
  button.type = "button";
  button.ariaPressed = "false";
  button.addEventListener("click", () => choose(button, format, prompt));
  element("examples").append(button);
}
choose(element("examples").firstElementChild, EXAMPLES[0][1], EXAMPLES[0][2]);

const explainOrder = () => (element("order-hint").textContent = ORDER_HINTS[chosen("order")]);
for (const radio of document.getElementsByName("order")) radio.addEventListener("change", explainOrder);
explainOrder();

element("prompt").addEventListener("input", () => {
  for (const each of element("examples").children) each.ariaPressed = "false";
});
element("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  void start();
});
element("stop").addEventListener("click", () => running?.abort());
element("api-key").addEventListener("change", () => void introduce());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!running) element("setup").requestSubmit();
  } else if (event.key === "Escape" && running) {
    event.preventDefault();
    running.abort();
  }
});
void introduce();
