// Chooses a video: typed and picked from the manifest, or sent from this machine.
import { el, get, problem, url } from "./dom.js";

let count = 0;

export class Picker {
  // changed(value): value is {video} or {upload, name, duration}, or null
  constructor(label, about, changed) {
    this.about = about;
    this.changed = changed;
    this.value = null;
    const id = `picker-${++count}`;
    this.input = el("input", { type: "text", role: "combobox", id, placeholder: "a video of the manifest", autocomplete: "off",
      "aria-expanded": "false", "aria-controls": `${id}-list`, "aria-autocomplete": "list", spellcheck: false });
    this.list = el("ul", { role: "listbox", id: `${id}-list`, className: "options", hidden: true });
    this.file = el("input", { type: "file", accept: "video/*", hidden: true, on: { change: () => this.send(this.file.files[0]) } });
    this.bar = el("progress", { max: 1, value: 0, hidden: true });
    this.says = el("p", { className: "soft small", role: "status" });
    const sending = about.most_upload
      ? el("button", { type: "button", on: { click: () => this.file.click() } }, "Upload…") : "";
    this.root = el("div", { className: "picker" }, el("label", { for: id, className: "small soft" }, label),
      el("div", { className: "row" }, el("div", { className: "combo" }, this.input, this.list), sending, this.file), this.bar, this.says);
    this.input.addEventListener("input", () => this.suggest());
    this.input.addEventListener("focus", () => this.suggest());
    this.input.addEventListener("blur", () => setTimeout(() => this.shut(), 150));
    this.input.addEventListener("keydown", (event) => this.key(event));
  }

  async suggest() {
    const asked = this.input.value;
    const found = await get("/api/videos", { q: asked, count: 30 }).catch(() => null);
    if (!found || asked !== this.input.value || document.activeElement !== this.input) return;
    this.list.replaceChildren(...found.videos.filter((v) => v.indexed).map((v) =>
      el("li", { role: "option", "data-id": v.video_id, on: { mousedown: (e) => { e.preventDefault(); this.pick(v.video_id); } } },
        v.video_id, el("small", { className: "soft" }, [v.task && `task ${v.task}`, `${v.steps} steps`].filter(Boolean).join(" · ")))));
    this.list.hidden = !this.list.children.length;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
  }

  shut() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    if (this.input.value.trim() && !this.value) this.pick(this.input.value.trim());
  }

  key(event) {
    const options = [...this.list.children];
    const at = options.findIndex((option) => option.getAttribute("aria-selected"));
    if (event.key === "Escape") this.list.hidden = true;
    else if (event.key === "Enter") {
      event.preventDefault();
      const id = options[Math.max(at, 0)]?.dataset.id;
      if (id && (at >= 0 || options.length === 1)) this.pick(id);
      else if (this.input.value.trim()) this.pick(this.input.value.trim());
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const next = options[(at + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length];
      options[at]?.removeAttribute("aria-selected");
      next?.setAttribute("aria-selected", "true");
      next?.scrollIntoView({ block: "nearest" });
    } else this.value = null;
  }

  pick(id, quiet = false) {
    this.input.value = id;
    this.list.hidden = true;
    this.says.replaceChildren();
    this.set({ video: id }, quiet);
  }

  set(value, quiet = false) {
    this.value = value;
    if (!quiet) this.changed(value);
  }

  send(file) {
    if (!file) return;
    this.file.value = "";
    const [mib, most] = [file.size / 2 ** 20, this.about.most_upload / 2 ** 20];
    if (file.size > this.about.most_upload)
      return this.says.replaceChildren(problem(new Error(`${file.name} has ${mib.toFixed(0)} MiB, more than ${most.toFixed(0)}`)));
    const asking = new XMLHttpRequest();
    asking.open("POST", url("/api/uploads", { name: file.name }));
    asking.upload.addEventListener("progress", (event) => { this.bar.value = event.loaded / (event.total || 1); });
    asking.addEventListener("loadend", () => {
      this.bar.hidden = true;
      let said = {};
      try { said = JSON.parse(asking.responseText); } catch { /* no answer, or none of ours */ }
      if (asking.status !== 201) return this.says.replaceChildren(problem(new Error(said.detail || "the upload failed")));
      this.input.value = "";
      this.says.textContent = `${said.name}, ${(said.bytes / 2 ** 20).toFixed(1)} MiB, was sent; it is deleted after ${Math.round(said.seconds_kept / 60)} minutes.`;
      this.set({ upload: said.upload, name: said.name, duration: said.duration });
    });
    this.bar.hidden = false;
    this.bar.value = 0;
    this.says.textContent = `sending ${file.name} …`;
    this.value = null;
    asking.setRequestHeader("content-type", "application/octet-stream");
    asking.send(file);
  }
}

// What the API takes, and what the player shows, of a picked video.
export const asked = (value) => (value.video ? { video: value.video } : { upload: value.upload });
export const ofUpload = (value) => ({ src: `/media/upload?upload=${encodeURIComponent(value.upload)}`, id: null, playable: true });
