/** Elements, and figures as they are shown. */

export const element = (id) => document.getElementById(id);
export const made = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });

export const shown = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
export const percent = (part, whole) => `${whole ? Math.round((100 * part) / whole) : 0}%`;
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
