// Small helpers of all scripts of the page. Ids and sentences become text, never markup.

export const $ = (id) => document.getElementById(id);

export function element(name, kind = "", ...content) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...content); // a text becomes a text node
  return made;
}

export function button(kind, text, onClick) {
  const made = element("button", kind, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

export function clock(seconds) {
  const whole = Math.round(seconds), two = (n) => `${n}`.padStart(2, "0");
  const minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
}

export const many = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

/** What the server answers; an Error whose message can be shown. */
export async function fetched(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Look whether it still runs.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.message || `The server answered with status ${response.status}.`);
}

export function posted(address, fields, signal) {
  const headers = {"Content-Type": "application/json"};
  return fetched(address, {method: "POST", headers, body: JSON.stringify(fields), signal});
}

/** Shows the state, and a failure; `answered` where the question itself has been answered. */
export function tell(status, failure = "", answered = false) {
  $("status").textContent = status;
  $("failure").textContent = failure && !answered ? `Not answered. ${failure}` : failure;
  $("failure").hidden = !failure;
}
