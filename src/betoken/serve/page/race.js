/**
 * The race: one prompt, decoded twice at once by the same server, plainly and with speculation, and compared.
 *
 * It knows the HTTP API only. Text of a model reaches the page as text nodes and in no other way.
 */

import { element, made, plural } from "./dom.js";
import { Lane } from "./lane.js";
import { Plot } from "./plot.js";
import { clearResult, judge, say } from "./verdict.js";
import { ServerError, chunks, headers, reached, refusal } from "./wire.js";

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
const SEEDS = 2 ** 31;

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
    race.verdict = judge(lanes, seed);
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
