// Search: a sentence, or a whole script; answers as cards; the player beside them.
import { clock, el, get, go, post, problem, span, still } from "./dom.js";
import { ofManifest, ownLanes, Player } from "./player.js";

const KEYS = ["q", "script", "like", "at", "same", "by", "task", "split"];

export class SearchPage {
  constructor(root, about) {
    this.about = about;
    this.player = new Player();
    this.text = el("input", { type: "search", name: "q", placeholder: "What happens? e.g. " + (about.examples[0] ?? "stir"),
      "aria-label": "What happens", maxLength: 2000, autocomplete: "off" });
    this.script = el("textarea", { name: "script", rows: 5, maxLength: 100000, "aria-label": "A script, a step per line",
      placeholder: "A step per line, in the order they should happen" });
    this.by = select("by", "A sentence finds", [["moment", "a moment"], ["step", "a step of a script"], ["video", "a whole video"]]);
    this.task = select("task", "Task", [["", "all tasks"], ...about.tasks.map((t) => [t, `task ${t}`])]);
    this.split = select("split", "Split", [["", "all splits"], ...about.splits.map((s) => [s, s])]);
    this.toggle = el("button", { type: "button", className: "quiet", on: { click: () => this.mode(this.script.hidden) } });
    this.status = el("p", { className: "soft", role: "status" });
    this.cards = el("div", { className: "cards" });
    this.form = el("form", { className: "asking", role: "search", on: { submit: (e) => { e.preventDefault(); this.submit(); } } },
      el("div", { className: "row" }, this.text, this.script, el("button", { className: "main" }, "Search")),
      el("div", { className: "row knobs" }, this.toggle, this.by, this.task, this.split));
    this.title = el("h2");
    this.acts = el("div", { className: "acts" });
    this.panel = el("aside", { className: "panel", hidden: true, "aria-label": "The video" },
      el("div", { className: "panel-head" }, this.title,
        el("button", { type: "button", className: "quiet", "aria-label": "Close the video", on: { click: () => this.close() } }, "✕")),
      this.player.root, this.acts);
    root.append(this.form, el("div", { className: "split" }, el("div", {}, this.status, this.cards), this.panel));
    for (const box of [this.by, this.task, this.split]) box.addEventListener("change", () => this.submit(true));
    this.mode(false);
  }

  mode(script) {
    this.script.hidden = !script;
    this.text.hidden = script;
    this.by.hidden = script;
    this.toggle.textContent = script ? "One sentence instead" : "A whole script instead";
    if (script && !this.script.value && this.text.value) this.script.value = this.text.value;
  }

  filters() {
    return { task: this.task.value, split: this.split.value };
  }

  submit(quiet = false) {
    const asked = this.script.hidden ? { q: this.text.value.trim() } : { script: this.script.value.trim() };
    if (this.params?.like && quiet) Object.assign(asked, { like: this.params.like, at: this.params.at, q: "" });
    if (this.params?.same && quiet) Object.assign(asked, { same: this.params.same, q: "" });
    if (!Object.values(asked).some(Boolean)) return quiet || this.text.focus();
    go("search", { ...asked, by: this.by.value === "moment" ? "" : this.by.value, ...this.filters() });
  }

  async enter(params) {
    const before = this.params;
    this.params = params;
    if (!before || KEYS.some((key) => (before[key] ?? "") !== (params[key] ?? "")) || params.again) await this.ask(params);
    if (params.video) await this.open(params.video, params.t === undefined ? undefined : Number(params.t));
    else this.hide();
  }

  async ask(params) {
    if (params.q !== undefined) this.text.value = params.q;
    if (params.script !== undefined) this.script.value = params.script;
    if (params.q || params.script) this.mode(Boolean(params.script));
    this.by.value = params.by || "moment";
    this.task.value = params.task || "";
    this.split.value = params.split || "";
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    const where = { ...this.filters(), top: 24 };
    let asking, said;
    if (params.script) {
      asking = post("/api/search/script", { script: params.script, top: 24, task: where.task || null, split: where.split || null }, signal);
      said = "do this script, best first";
    } else if (params.like) {
      asking = get("/api/search/moment", { id: params.like, at: params.at || 0, ...where }, signal);
      said = `have a moment like ${params.like} at ${clock(Number(params.at || 0))}`;
    } else if (params.same) {
      asking = get("/api/search/video", { id: params.same, ...where }, signal);
      said = `are most like ${params.same}, as a whole`;
    } else if (params.q) {
      asking = get("/api/search", { q: params.q, by: this.by.value, ...where }, signal);
      said = `answer “${params.q}”, best first`;
    } else {
      this.answers = [];
      return this.welcome();
    }
    this.cards.setAttribute("aria-busy", "true");
    try {
      const found = await asking;
      this.answers = found.answers;
      this.status.textContent = `${found.answers.length} of ${this.about.indexed} videos ${said} (${found.milliseconds.toFixed(0)} ms)`;
      const best = Math.max(...found.answers.map((a) => a.score), 1e-9);
      this.cards.replaceChildren(...found.answers.map((a) => this.card(a, best)));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.status.textContent = "";
      this.cards.replaceChildren(problem(error));
    } finally {
      if (this.abort.signal === signal) this.cards.removeAttribute("aria-busy");
    }
  }

  welcome() {
    this.status.textContent = `${this.about.indexed} videos of ${this.about.procedures} procedures. Describe what happens, in a sentence.`;
    this.cards.replaceChildren(...this.about.examples.map((text) =>
      el("button", { type: "button", className: "example", on: { click: () => go("search", { q: text }) } }, text)));
  }

  card(answer, best) {
    const bar = el("span", { className: "score" }, el("span"));
    bar.firstChild.style.width = `${Math.max(2, (100 * Math.max(0, answer.score)) / best)}%`;
    const picture = el("img", { loading: "lazy", alt: "", width: 320, height: 180, src: still(answer.video_id, answer.peak) });
    picture.addEventListener("error", () => picture.classList.add("lost"));
    const done = answer.steps.filter((s) => s.start !== null).length;
    return el("button", { type: "button", className: "card", "data-video": answer.video_id,
      on: { click: () => this.openAnswer(answer) } },
      el("span", { className: "thumb" }, picture, el("span", { className: "badge" }, span(answer.start, answer.end))),
      el("span", { className: "about" },
        el("strong", {}, answer.step || answer.video_id),
        el("span", { className: "soft small" }, [answer.step ? answer.video_id : "", answer.task && `task ${answer.task}`,
          answer.steps.length ? `${done} of ${answer.steps.length} steps placed` : ""].filter(Boolean).join(" · ")),
        el("span", { className: "row small" }, bar, el("span", { className: "soft" }, answer.score.toFixed(2)))));
  }

  openAnswer(answer) {
    const start = answer.steps.length || !answer.step ? answer.start : answer.peak;
    go("search", { ...pick(this.params), video: answer.video_id, t: start.toFixed(2) });
  }

  async open(videoId, at) {
    for (const card of this.cards.children) card.classList.toggle("chosen", card.dataset.video === videoId);
    try {
      const video = this.video?.video_id === videoId ? this.video : await get("/api/video", { id: videoId });
      this.video = video;
      this.panel.hidden = false;
      this.title.textContent = video.video_id;
      const lanes = ownLanes(video);
      const answer = this.answers?.find((a) => a.video_id === videoId);
      if (answer?.steps.length) lanes.unshift({ name: "asked", spans: answer.steps.map((s, i) => ({ ...s, number: i + 1 })) });
      this.player.show(ofManifest(video), lanes, { duration: video.trim + video.duration, at: at ?? answer?.start ?? video.trim });
      this.acts.replaceChildren(
        act("Moments like this", () => go("search", { like: videoId, at: this.player.at.toFixed(1), ...this.filters(), video: videoId, t: this.player.at.toFixed(2) })),
        act("Same procedure", () => go("search", { same: videoId, ...this.filters(), video: videoId, t: this.player.at.toFixed(2) })),
        act("Check it", () => go("check", { video: videoId, go: 1 })),
        act("Compare it", () => go("compare", { a: videoId, b: other(this.answers, videoId) })));
      if (matchMedia("(max-width: 60rem)").matches) this.panel.scrollIntoView({ block: "start" });
    } catch (error) {
      this.panel.hidden = true;
      this.cards.prepend(problem(error));
    }
  }

  close() {
    go("search", pick(this.params));
  }

  hide() {
    if (this.panel.hidden) return;
    this.panel.hidden = true;
    this.player.stop();
    for (const card of this.cards.children) card.classList.remove("chosen");
  }

  leave() {
    this.player.video.pause();
  }
}

const pick = (params) => Object.fromEntries(KEYS.filter((key) => params?.[key]).map((key) => [key, params[key]]));
const act = (label, call) => el("button", { type: "button", on: { click: call } }, label);
const other = (answers, id) => answers?.find((answer) => answer.video_id !== id)?.video_id ?? "";

function select(name, label, options) {
  return el("select", { name, "aria-label": label }, ...options.map(([value, words]) => el("option", { value }, words)));
}
