// What the pages share: elements, times, requests. Text from data only ever becomes a text node.

export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
    else if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function clock(seconds) {
  const tenths = Math.round(Math.max(0, seconds) * 10);
  const [h, m, s] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60, (tenths % 600) / 10];
  const short = s.toFixed(1).padStart(4, "0");
  return h ? `${h}:${String(m).padStart(2, "0")}:${short}` : `${m}:${short}`;
}

export const span = (start, end) => `${clock(start)} – ${clock(end)}`;

export function url(path, params = {}) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(params))
    if (value !== "" && value !== null && value !== undefined) asked.set(name, value);
  const words = asked.toString();
  return words ? `${path}?${words}` : path;
}

// Answers as data; an error carries what the server says.
async function answered(response) {
  if (response.status === 204) return null;
  const said = await response.json().catch(() => ({}));
  if (response.ok) return said;
  const error = new Error(typeof said.detail === "string" ? said.detail : `the server answered ${response.status}`);
  error.expected = said.expected || "";
  throw error;
}

export const get = (path, params, signal) => fetch(url(path, params), { signal }).then(answered);

export const post = (path, data, signal) =>
  fetch(path, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(data), signal,
  }).then(answered);

export function go(page, params = {}) {
  const hash = "#" + url(page, params);
  if (location.hash === hash) dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = hash;
}

export function problem(error) {
  return el("p", { className: "note bad", role: "alert" }, error.message, error.expected ? ` (expected: ${error.expected})` : "");
}

export const still = (video, at, height = 180) => url("/media/still", { id: video, at: Math.max(0, at).toFixed(1), height });
