/** One pane: an answer as it comes, its tokens in the colour of who proposed them, and its figures. */

import { element, made, percent, plural, shown } from "./dom.js";

const TARGET = "target";
const KNOWN = ["draft", "ngram", "suffix", "mix", "lookahead", "recycling", "reference", "naive"]; // their colours never change

const places = new Map(KNOWN.map((name, place) => [name, place]));

function look(source) {
  if (source === TARGET) return "";
  if (!places.has(source)) places.set(source, places.size);
  const place = places.get(source);
  return `by p${place % KNOWN.length}${place < KNOWN.length ? "" : " again"}`;
}

const fresh = () => ({
  text: "", tokens: 0, sources: {}, draft_tokens: 0, accepted_tokens: 0, drafts: 0, steps: 0, usage: null, finish_reason: null,
  seconds: null, first_token_s: null, tokens_per_s: null,
});

export class Lane {
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
