// A recording against its script: what was done and when, what is missing, out of order, or extra.
import { el, get, post, problem } from "./dom.js";
import { asked, ofUpload, Picker } from "./picker.js";
import { ofManifest, Player } from "./player.js";

const WORDS = { done: "done", missing: "missing", moved: "out of order", repeated: "done again", added: "not in the script" };

export class CheckPage {
  constructor(root, about) {
    this.player = new Player();
    this.picker = new Picker("Recording", about, (value) => this.chosen(value));
    this.script = el("textarea", { rows: 12, maxLength: 100000, "aria-label": "The script, a step per line", placeholder: "A step per line, in order" });
    this.button = el("button", { className: "main" }, "Check");
    this.form = el("form", { className: "side", on: { submit: (e) => { e.preventDefault(); this.run(); } } },
      this.picker.root, el("label", { className: "small soft" }, "Script", this.script), el("div", { className: "row" }, this.button));
    this.verdict = el("div", { role: "status", className: "verdict" },
      el("p", { className: "soft" }, "Choose a recording and the script it should follow: you see which steps it does and when, and what is missing, out of order or extra."));
    this.result = el("div", { className: "result", hidden: true }, this.player.root);
    root.append(el("div", { className: "two" }, this.form, el("div", {}, this.verdict, this.result)));
  }

  async enter(params) {
    if (!params.video || (this.picker.value?.video === params.video && this.shown === params.video)) return;
    this.picker.pick(params.video, true);
    await this.chosen({ video: params.video });
    if (params.go) await this.run();
  }

  async chosen(value) {
    this.video = null;
    if (!value?.video) return;
    try {
      this.video = await get("/api/video", { id: value.video });
      this.script.value = this.video.script.map((s) => s.step).join("\n");
    } catch (error) {
      this.verdict.replaceChildren(problem(error));
    }
  }

  async run() {
    const value = this.picker.value;
    if (!value) return this.picker.input.focus();
    if (value.upload && !this.script.value.trim()) return this.script.focus();
    if (value.video) history.replaceState(null, "", `#check?video=${encodeURIComponent(value.video)}`);
    this.button.disabled = true;
    this.verdict.replaceChildren(el("p", { className: "soft busy" }, "Checking … the first check of a run first learns from its training videos."));
    try {
      const found = await post("/api/check", { ...asked(value), script: this.script.value });
      this.shown = value.video ?? value.upload;
      this.show(value, found);
    } catch (error) {
      this.result.hidden = true;
      this.verdict.replaceChildren(problem(error));
    } finally {
      this.button.disabled = false;
    }
  }

  show(value, found) {
    const steps = found.steps.map((s) => ({ ...s, number: s.place + 1, state: s.status, note: note(s) }));
    const extras = found.extras.map((e) => ({ ...e, step: e.step || "something else", number: e.place === null ? 0 : e.place + 1, state: e.status, note: note(e) }));
    const counted = ["missing", "moved", "repeated", "added"].map((status) => [[...steps, ...extras].filter((s) => s.status === status).length, WORDS[status]]);
    const list = counted.filter(([n]) => n).map(([n, words]) => `${n} ${words}`).join(", ");
    const percent = (100 * found.wrong).toFixed(0);
    const good = found.ok;
    this.verdict.replaceChildren(
      el("p", { className: `note ${good ? "good" : "bad"}` }, el("strong", {}, good ? "As its script" : "Not as its script"),
        `: a fault with probability ${percent} %. `, list ? `Seen: ${list}.` : "Nothing is missing, out of order or extra."),
      ...found.notes.map((text) => el("p", { className: "note" }, text)),
      el("p", { className: "soft small" }, found.by === "references" ? "Judged by the sentences, and by other recordings of these steps." : "Judged by the sentences alone."));
    const lanes = [{ name: "found", spans: [...steps, ...extras] }];
    const same = this.video && this.video.script.map((s) => s.step).join("\n") === found.steps.map((s) => s.step).join("\n");
    if (same && this.video.truth) lanes.push({ name: "truth", spans: this.video.truth.map((s, i) => ({ ...s, number: i + 1 })) });
    this.result.hidden = false;
    const source = this.video ? ofManifest(this.video) : ofUpload(value);
    const first = [...steps, ...extras].find((s) => s.status !== "done" && s.start !== null);
    const end = this.video ? this.video.trim + this.video.duration : found.duration;
    this.player.show(source, lanes, { duration: end, at: first?.start ?? 0 });
  }

  leave() {
    this.player.video.pause();
  }
}

const note = (s) => (s.status === "done" ? "" : `${WORDS[s.status]}${s.sure < 0.5 ? "?" : ""}, ${(100 * s.sure).toFixed(0)} %`);
