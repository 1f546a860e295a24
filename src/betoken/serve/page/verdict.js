/** Whether two answers are the same, and how much sooner one came. */

import { element, made, plural, shown } from "./dom.js";

const CONTEXT = 32; // characters shown around a difference

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

export function say(outcome, verdict, detail = "") {
  element("result").dataset.outcome = outcome;
  element("verdict").textContent = verdict;
  element("detail").textContent = detail;
}

export function clearResult() {
  element("speedup").hidden = true;
  element("difference").hidden = true;
  element("difference").replaceChildren();
}

/** Whole and decoding-only ratio of the two rates. */
function ratios(plain, spec) {
  return { whole: spec.whole / plain.whole, rate: spec.rate / plain.rate };
}

/** Show what came of two lanes that are complete, and return it. */
export function judge(lanes, seed) {
  const [plain, spec] = [lanes.plain.data.text, lanes.spec.data.text];
  const at = difference(plain, spec);
  const { whole, rate } = ratios(lanes.plain.figures, lanes.spec.figures);
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
  return { identical: at < 0, at, speedup: rate, speedup_whole: whole };
}
