// A video with clickable lanes of steps under it, and the steps as a list.
import { clock, el, span, still } from "./dom.js";

const COLOURS = 7;

// A lane: {name, spans: [{step, start, end, number, state}]}. A state other than "done" is shown by its word.
export class Player {
  constructor() {
    this.video = el("video", { controls: true, playsInline: true, preload: "metadata", muted: true });
    this.image = el("img", { className: "instead", alt: "", hidden: true });
    this.says = el("p", { className: "soft small", hidden: true }, "This browser cannot play the file: stills are shown.");
    this.lanes = el("div", { className: "lanes" });
    this.heads = [];
    this.list = el("ol", { className: "steps" });
    this.root = el("div", { className: "player" },
      el("div", { className: "stage" }, this.video, this.image), this.says, this.lanes, this.list);
    this.at = 0;
    this.wanted = null;
    this.listeners = [];
    this.video.addEventListener("loadedmetadata", () => this.ready());
    this.video.addEventListener("error", () => this.fallBack());
    for (const event of ["timeupdate", "seeked"]) this.video.addEventListener(event, () => this.tick());
    this.video.addEventListener("play", () => this.follow());
  }

  // source: {src, id (of the manifest, for stills), playable}; duration in seconds, 0 when unknown
  show(source, lanes, { duration = 0, at = 0, list = 0 } = {}) {
    this.source = source;
    this.given = lanes;
    this.listed = list;
    this.duration = duration;
    this.image.hidden = this.says.hidden = true;
    this.video.hidden = false;
    this.wanted = at;
    this.at = at;
    if (this.src !== source.src) {
      this.src = source.src;
      this.video.src = source.src;
      if (source.id) this.video.poster = still(source.id, at, 360);
    } else if (this.video.readyState >= 1) this.ready();
    if (source.playable === false) this.fallBack();
    this.draw();
  }

  ready() {
    if (Number.isFinite(this.video.duration)) this.duration = Math.max(this.duration, this.video.duration);
    if (this.wanted !== null) this.video.currentTime = this.wanted;
    this.wanted = null;
    this.draw();
  }

  fallBack() {
    if (!this.source?.id) return;
    this.video.hidden = true;
    this.image.hidden = this.says.hidden = false;
    this.seek(this.wanted ?? this.at);
  }

  seek(seconds) {
    this.at = seconds;
    if (!this.image.hidden) this.image.src = still(this.source.id, seconds, 360);
    else if (this.video.readyState >= 1) this.video.currentTime = seconds;
    else this.wanted = seconds;
    this.mark();
  }

  tick() {
    this.at = this.video.currentTime;
    this.mark();
    for (const listener of this.listeners) listener(this.at);
  }

  follow() {
    const step = () => {
      if (this.video.paused || this.video.ended || !this.root.isConnected) return;
      this.tick();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  draw() {
    const end = Math.max(this.duration, ...this.given.flatMap((lane) => lane.spans.map((s) => s.end ?? 0)), 0.1);
    this.end = end;
    this.heads = [];
    this.bars = [];
    this.lanes.replaceChildren(...this.given.map((lane) => {
      const head = el("div", { className: "playhead" });
      this.heads.push(head);
      const bars = lane.spans.filter((s) => s.start !== null && s.start !== undefined).map((s) => {
        const bar = el("button", {
          type: "button", className: `bar-step ${colour(s)} ${s.state || ""}`, title: `${label(s)}, ${span(s.start, s.end)}`,
          "aria-label": `${label(s)}, ${span(s.start, s.end)}`, on: { click: () => this.seek(s.start) },
        }, s.number ? String(s.number) : "");
        bar.style.left = `${(100 * s.start) / end}%`;
        bar.style.width = `${(100 * Math.max(s.end - s.start, 0.001 * end)) / end}%`;
        this.bars.push([bar, s]);
        return bar;
      });
      const track = el("div", { className: "track", on: { click: (event) => {
        if (event.target !== track) return;
        const box = track.getBoundingClientRect();
        this.seek((end * (event.clientX - box.left)) / box.width);
      } } }, ...bars, head);
      return el("div", { className: "lane" }, el("span", { className: "soft small" }, lane.name), track);
    }));
    const rows = this.given[this.listed]?.spans ?? [];
    this.rows = rows.map((s) => {
      const there = s.start !== null && s.start !== undefined;
      const row = el("li", { className: there ? "" : "absent" },
        el("button", { type: "button", disabled: !there, on: { click: () => this.seek(s.start) } },
          el("span", { className: `chip ${colour(s)} ${s.state || ""}` }, s.number ? String(s.number) : "+"),
          el("span", { className: "words" }, s.step, s.note ? el("small", {}, s.note) : ""),
          el("span", { className: "time" }, there ? clock(s.start) : "–")));
      return [row, s];
    });
    this.list.replaceChildren(...this.rows.map(([row]) => row));
    this.mark();
  }

  mark() {
    for (const head of this.heads) head.style.left = `${Math.min(100, (100 * this.at) / this.end)}%`;
    for (const [node, s] of [...(this.rows ?? []), ...(this.bars ?? [])]) {
      const now = s.start !== null && s.start !== undefined && s.start <= this.at + 0.02 && this.at < s.end;
      node.classList.toggle("now", now);
    }
  }

  stop() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    this.src = undefined;
  }
}

const colour = (s) => (s.number ? `c${(s.number - 1) % COLOURS}` : "extra");
const label = (s) => (s.number ? `step ${s.number}: ${s.step}` : s.step);

// The lanes of a video of the manifest: where the index puts its script, and the truth where it is known.
export function ownLanes(video) {
  const numbered = (steps) => steps.map((s, i) => ({ ...s, number: i + 1 }));
  const lanes = [{ name: "script", spans: numbered(video.script) }];
  if (video.truth) lanes.push({ name: "truth", spans: numbered(video.truth) });
  return lanes;
}

export const ofManifest = (video) => ({
  src: `/media/video?id=${encodeURIComponent(video.video_id)}`, id: video.video_id, playable: video.playable,
});
