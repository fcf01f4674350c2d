// Two recordings side by side, held together by their alignment; and where they part.
import { el, get, go, post, problem, span } from "./dom.js";
import { asked, ofUpload, Picker } from "./picker.js";
import { ofManifest, ownLanes, Player } from "./player.js";

const SVG = "http://www.w3.org/2000/svg";
const DRIFT = 0.35; // seconds that the follower may be off before it jumps

export class ComparePage {
  constructor(root, about) {
    this.pickers = ["A", "B"].map((name) => new Picker(`Recording ${name}`, about, () => {}));
    this.players = [new Player(), new Player()];
    this.titles = [el("h2"), el("h2")];
    this.button = el("button", { className: "main" }, "Compare");
    this.both = el("button", { type: "button", className: "main", on: { click: () => this.play() } }, "Play both");
    this.verdict = el("div", { role: "status", className: "verdict" },
      el("p", { className: "soft" }, "Choose two recordings: are they the same procedure, and where do they part? They play together, held by their alignment."));
    this.map = el("div", { className: "map" });
    this.partings = el("ul", { className: "partings" });
    this.result = el("div", { hidden: true },
      el("div", { className: "pair" }, ...this.players.map((player, i) => el("div", {}, this.titles[i], player.root))),
      el("div", { className: "row" }, this.both, el("span", { className: "soft small" }, "Move one, and the other follows.")),
      this.map, this.partings);
    root.append(el("form", { className: "choices", on: { submit: (e) => { e.preventDefault(); this.submit(); } } },
      ...this.pickers.map((picker) => picker.root), this.button), this.verdict, this.result);
    this.lead = 0;
    this.players.forEach((player, i) => {
      player.list.hidden = true;
      for (const event of ["pointerdown", "keydown"]) player.root.addEventListener(event, () => { this.lead = i; }, true);
      player.listeners.push(() => this.hold(i));
      player.video.addEventListener("play", () => this.together(i, true));
      player.video.addEventListener("pause", () => this.together(i, false));
      player.video.addEventListener("ended", () => this.together(i, false));
    });
  }

  async enter(params) {
    const [a, b] = [params.a, params.b];
    if (a) this.pickers[0].pick(a, true);
    if (b) this.pickers[1].pick(b, true);
    if (a && b && this.shown !== `${a}\n${b}`) await this.run();
  }

  submit() {
    const [a, b] = this.pickers.map((picker) => picker.value);
    const lacking = this.pickers.find((picker) => !picker.value);
    if (lacking) return lacking.input.focus();
    this.shown = null;
    if (a.video && b.video) go("compare", { a: a.video, b: b.video });
    else this.run();
  }

  async run() {
    const values = this.pickers.map((picker) => picker.value);
    this.button.disabled = true;
    this.verdict.replaceChildren(el("p", { className: "soft busy" }, "Comparing …"));
    try {
      const [found, ...videos] = await Promise.all([
        post("/api/compare", { a: asked(values[0]), b: asked(values[1]) }),
        ...values.map((value) => (value.video ? get("/api/video", { id: value.video }) : null))]);
      this.shown = values.map((value) => value.video ?? value.upload).join("\n");
      this.show(values, videos, found);
    } catch (error) {
      this.result.hidden = true;
      this.verdict.replaceChildren(problem(error));
    } finally {
      this.button.disabled = false;
    }
  }

  show(values, videos, found) {
    const said = { true: "The same procedure", false: "Not the same procedure", null: "No pairs taught this run what the same procedure is" }[found.matched];
    const sure = found.same === null ? "" : `: probability ${(100 * found.same).toFixed(0)} % that it is the same`;
    this.verdict.replaceChildren(el("p", { className: `note ${found.matched === false ? "bad" : found.matched ? "good" : ""}` },
      el("strong", {}, said), `${sure}; distance ${found.distance.toFixed(3)}. `,
      found.partings.length ? `They part in ${found.partings.length} place${found.partings.length > 1 ? "s" : ""}.` : "They part nowhere."));
    this.follow = [table(found.path), table(found.path.map(([a, b]) => [b, a]))];
    this.ends = [0, 1].map((i) => Math.max(videos[i] ? videos[i].trim + videos[i].duration : values[i].duration, found.path.at(-1)[i], 0.1));
    this.result.hidden = false;
    this.lead = 0;
    this.players.forEach((player, i) => {
      const side = "ab"[i];
      this.titles[i].textContent = `${side.toUpperCase()} ${values[i].video ?? values[i].name}`;
      const parts = found.partings.map((p) => ({ step: p.kind, start: p[`start_${side}`], end: p[`end_${side}`], number: 0 }));
      const lanes = videos[i] ? ownLanes(videos[i]).slice(0, 1) : [];
      const first = found.path[0][i];
      player.show(videos[i] ? ofManifest(videos[i]) : ofUpload(values[i]), [...lanes, { name: "parts", spans: parts }], { duration: this.ends[i], at: first });
    });
    this.draw(found);
    this.partings.replaceChildren(...found.partings.map((p) => el("li", {}, el("button", { type: "button", on: { click: () => this.seek(p) } },
      el("strong", {}, p.kind), ` A ${span(p.start_a, p.end_a)}, B ${span(p.start_b, p.end_b)}`,
      p.steps_a.length ? el("small", {}, `A: ${p.steps_a.join(", ")}`) : "", p.steps_b.length ? el("small", {}, `B: ${p.steps_b.join(", ")}`) : ""))));
  }

  // Two lines of time, A above B; threads between moments that belong together, areas where they part.
  draw(found) {
    const shape = (name, given) => {
      const made = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
      return made;
    };
    const x = (i, t) => (1000 * Math.min(t, this.ends[i])) / this.ends[i];
    const svg = shape("svg", { viewBox: "0 0 1000 110", preserveAspectRatio: "none", role: "img", "aria-label": "How the moments of A and B belong together" });
    for (const p of found.partings)
      svg.append(shape("polygon", { class: "part", points: `${x(0, p.start_a)},14 ${x(0, p.end_a)},14 ${x(1, p.end_b)},96 ${x(1, p.start_b)},96` }));
    const every = Math.max(1, Math.floor(found.path.length / 60));
    found.path.forEach(([a, b], n) => { if (n % every === 0) svg.append(shape("line", { class: "thread", x1: x(0, a), y1: 14, x2: x(1, b), y2: 96 })); });
    for (const y of [4, 96]) svg.append(shape("rect", { class: "time", x: 0, y, width: 1000, height: 10, rx: 3 }));
    this.heads = [4, 96].map((y) => { const head = shape("rect", { class: "head", x: 0, y: y - 3, width: 5, height: 16 }); svg.append(head); return head; });
    this.x = x;
    this.map.replaceChildren(el("span", { className: "small soft" }, "A"), svg, el("span", { className: "small soft" }, "B"));
  }

  seek(p) {
    this.lead = 0;
    this.players[0].seek(p.start_a);
    this.players[1].seek(p.start_b);
  }

  play() {
    const leader = this.players[this.lead].video;
    if (leader.paused) leader.play().catch(() => {});
    else leader.pause();
  }

  together(i, playing) {
    if (i !== this.lead) return;
    const other = this.players[1 - i].video;
    this.both.textContent = playing ? "Pause both" : "Play both";
    if (playing) other.play().catch(() => {});
    else { other.pause(); other.playbackRate = 1; this.hold(i); }
  }

  // The follower is led to the moment that belongs to the leader's: by its speed, or by a jump.
  hold(i) {
    if (!this.follow) return;
    this.heads?.forEach((head, k) => head.setAttribute("x", this.x(k, this.players[k].at) - 2));
    if (i !== this.lead) return;
    const [leader, other] = [this.players[i], this.players[1 - i]];
    const target = at(this.follow[i], leader.at);
    const off = target - other.video.currentTime;
    if (leader.video.paused || Math.abs(off) > DRIFT) {
      if (Math.abs(off) > 0.04 && !other.video.seeking) other.seek(target);
      return;
    }
    const slope = (at(this.follow[i], leader.at + 0.75) - at(this.follow[i], leader.at - 0.75)) / 1.5;
    other.video.playbackRate = Math.min(4, Math.max(0.1, slope + off));
    if (other.video.paused) other.video.play().catch(() => {});
  }

  leave() {
    for (const player of this.players) player.video.pause();
  }
}

// [time, partner's time] with distinct times: the mean where several belong to one.
function table(path) {
  const rows = [];
  for (const [from, to] of path) {
    const last = rows.at(-1);
    if (last && from - last[0] < 1e-6) { last[1] += to; last[2] += 1; } else rows.push([from, to, 1]);
  }
  return rows.map(([from, sum, n]) => [from, sum / n]);
}

function at(rows, time) {
  let [low, high] = [0, rows.length - 1];
  if (time <= rows[0][0]) return rows[0][1];
  if (time >= rows[high][0]) return rows[high][1] + (time - rows[high][0]);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (rows[middle][0] <= time) low = middle; else high = middle;
  }
  const [[t0, v0], [t1, v1]] = [rows[low], rows[high]];
  return v0 + ((v1 - v0) * (time - t0)) / (t1 - t0);
}
