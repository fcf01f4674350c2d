// The pages, chosen by what stands after "#": search, check, compare; its parameters are the page's state.
import { el, get, problem } from "./dom.js";
import { CheckPage } from "./check.js";
import { ComparePage } from "./compare.js";
import { SearchPage } from "./search.js";

const PAGES = { search: SearchPage, check: CheckPage, compare: ComparePage };
const made = {};
let about;
let current;

async function route() {
  const [name, words] = location.hash.slice(1).split(/\?(.*)/s);
  const page = name in PAGES ? name : "search";
  const params = Object.fromEntries(new URLSearchParams(words ?? ""));
  if (current && current !== page) made[current].leave?.();
  current = page;
  for (const section of document.querySelectorAll(".page")) section.hidden = section.id !== page;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const root = document.getElementById(page);
  made[page] ??= new PAGES[page](root, about);
  await made[page].enter(params);
}

try {
  about = await get("/api/about");
  document.getElementById("about").textContent = `${about.dataset} · ${about.run}`;
  addEventListener("hashchange", route);
  await route();
} catch (error) {
  document.querySelector("main").replaceChildren(problem(error), el("p", {}, "Is the server still running?"));
}
