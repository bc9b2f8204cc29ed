"use strict";
// The GPUs' timeline on a canvas: a row a GPU, a bar a batch. Draws only what can be seen, and no faster than it can.

const DELAY_MS = 450; // the live edge lags so far behind, so that what comes four times a second flows
const VIEW_MS_MIN = 5, VIEW_MS_MAX = 120000;
const AXIS_PX = 22;

class Timeline {
  constructor(canvas, box, tip, store) {
    this.canvas = canvas; this.context = canvas.getContext("2d"); this.box = box; this.tip = tip; this.store = store;
    this.view = innerWidth < 700 ? 3000 : 6000; // ms shown
    this.end = 0; // stream time at the right edge
    this.isLive = true;
    this.alone = null; // the number of a model shown alone
    this.offset = null; // performance.now() minus stream time, of the quickest frame
    this.onChange = () => {};
    this.cost = 0; // ms that drawing takes, averaged
    this.drawnAt = 0;
    this.isReduced = matchMedia("(prefers-reduced-motion: reduce)");
    this.hatch = null;
    this.pointers = new Map();
    this.listen();
  }

  heard(t) {
    const offset = performance.now() - t;
    this.offset = this.offset === null || Math.abs(offset - this.offset) > 5000 ? offset : Math.min(offset, this.offset + 0.2);
  }

  now() { return this.offset === null ? 0 : performance.now() - this.offset - DELAY_MS; }

  setLive(isLive) {
    if (isLive === this.isLive) return;
    this.isLive = isLive;
    this.onChange();
  }

  zoom(factor, atShare = 1) {
    const view = Math.min(VIEW_MS_MAX, Math.max(VIEW_MS_MIN, this.view * factor));
    if (!this.isLive) this.end += (view - this.view) * (1 - atShare);
    else if (view < 1500) this.setLive(false); // nobody can read what rushes by
    this.view = view;
    this.onChange();
    this.draw();
  }

  pan(ms) {
    this.setLive(false);
    this.end = Math.min(this.now(), this.end + ms);
    this.draw();
  }

  rowHeight() {
    const gpus = this.store.gpuNames.length;
    if (gpus <= 8) return 32;
    return gpus <= 16 ? 24 : gpus <= 32 ? 16 : 11;
  }

  labelWidth() { return this.canvas.clientWidth < 600 ? 74 : 148; }

  // Called for each frame of the screen.
  frame(at) {
    if (!this.isLive || document.hidden) return;
    const every = this.isReduced.matches ? 250 : Math.max(15, this.cost * 3); // a third of the time at most
    if (at - this.drawnAt < every) return;
    this.drawnAt = at;
    this.draw();
  }

  draw() {
    const began = performance.now();
    const { canvas, context, store } = this;
    const gpus = store.gpuNames.length, rowPx = this.rowHeight();
    const width = canvas.clientWidth, height = Math.max(1, gpus) * rowPx + AXIS_PX, ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
      canvas.style.height = height + "px";
    }
    const colours = this.colours();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    if (this.isLive) this.end = this.now();
    const left = this.labelWidth(), from = this.end - this.view, scale = (width - left) / this.view;
    this.drawTracks(gpus, rowPx, left, width, colours);
    this.drawAxis(gpus * rowPx, left, width, from, scale, colours);
    context.save();
    context.beginPath(); context.rect(left, 0, width - left, gpus * rowPx); context.clip();
    this.drawBars(from, scale, left, rowPx, gpus, colours);
    context.restore();
    this.drawLabels(gpus, rowPx, left, colours);
    this.cost = this.cost * 0.9 + (performance.now() - began) * 0.1;
  }

  colours() {
    const theme = document.documentElement.dataset.theme || "";
    if (this.palette && this.palette.theme === theme) return this.palette;
    this.palette = { theme };
    for (const name of ["text", "muted", "line", "track", "panel", "bad", "bad-soft", "warn", "good"]) this.palette[name] = cssVariable("--" + name);
    const tile = make("canvas"); tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.strokeStyle = this.palette.bad; pen.globalAlpha = 0.45; pen.lineWidth = 1.5;
    pen.beginPath(); pen.moveTo(-2, 10); pen.lineTo(10, -2); pen.moveTo(-2, 2); pen.lineTo(2, -2); pen.moveTo(6, 10); pen.lineTo(10, 6); pen.stroke();
    this.hatch = this.context.createPattern(tile, "repeat");
    return this.palette;
  }

  drawTracks(gpus, rowPx, left, width, colours) {
    const pen = this.context, gap = rowPx > 14 ? 3 : 1;
    for (let gpu = 0; gpu < gpus; gpu++) {
      pen.fillStyle = colours.track;
      pen.fillRect(left, gpu * rowPx + gap, width - left, rowPx - 2 * gap);
      if (this.store.gpuStates[gpu] === 3) {
        pen.fillStyle = this.hatch;
        pen.fillRect(left, gpu * rowPx + gap, width - left, rowPx - 2 * gap);
      }
    }
  }

  drawAxis(top, left, width, from, scale, colours) {
    const pen = this.context;
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000];
    const step = steps.find((candidate) => candidate * scale >= 90) || 60000;
    const unix = this.store.unixOffset;
    pen.fillStyle = colours.muted; pen.strokeStyle = colours.line; pen.lineWidth = 1; pen.textAlign = "center"; pen.textBaseline = "middle";
    pen.beginPath();
    const first = Math.ceil((from + unix) / step) * step;
    for (let at = first; at <= this.end + unix; at += step) {
      const x = left + (at - unix - from) * scale;
      if (x > width - 26 || x < left + 22) continue;
      pen.moveTo(x, 0); pen.lineTo(x, top + 3);
      const time = clockTime(at);
      pen.fillText(step >= 1000 ? time : time.slice(3) + "." + String(Math.round(((at % 1000) + 1000) % 1000)).padStart(3, "0"), x, top + 12);
    }
    pen.stroke();
  }

  drawBars(from, scale, left, rowPx, gpus, colours) {
    const pen = this.context, bars = this.store.bars, to = this.end, alone = this.alone;
    const gap = rowPx > 14 ? 3 : 1, isRoomy = rowPx >= 22, top = isRoomy ? gap + 5 : gap, tall = rowPx - gap - top;
    const lastX = new Float64Array(gpus).fill(-1), byModel = new Map(), late = [], failed = [], windows = [], labels = [];
    bars.each(from, to, (at) => {
      const gpu = bars.gpu[at];
      if (gpu >= gpus) return;
      const x = left + (bars.start[at] - from) * scale, end = x + bars.length[at] * scale;
      const isPlain = bars.fate[at] === 0;
      if (isPlain && end < lastX[gpu] + 0.6) return; // within the same pixel as the one before it
      if (end > lastX[gpu]) lastX[gpu] = end;
      const y = gpu * rowPx + top, wide = Math.max(0.8, end - x - (end - x > 4 ? 0.7 : 0)), model = bars.model[at];
      let own = byModel.get(model);
      if (!own) byModel.set(model, (own = []));
      own.push(x, y, wide);
      if (bars.fate[at] === 1) late.push(x, y, wide); else if (bars.fate[at] === 2) failed.push(x, y, wide);
      if (alone !== null && alone !== model) return;
      if (isRoomy && wide > 14 && bars.count[at] === 1 && bars.latest[at] !== 0) windows.push(model, left + (bars.start[at] + bars.frontrun[at] - from) * scale, left + (bars.start[at] + bars.latest[at] - from) * scale, gpu * rowPx + gap);
      if (isRoomy && wide > 19) labels.push(bars.size[at], x + wide / 2, y + tall / 2 + 0.5);
    });
    for (const [model, own] of byModel) {
      pen.globalAlpha = alone === null || alone === model ? 1 : 0.13;
      pen.fillStyle = colourOf(model);
      for (let i = 0; i < own.length; i += 3) pen.fillRect(own[i], own[i + 1], own[i + 2], tall);
    }
    pen.globalAlpha = 1;
    pen.fillStyle = colours.bad;
    const strip = Math.max(2, tall * 0.24);
    for (let i = 0; i < late.length; i += 3) pen.fillRect(late[i], late[i + 1] + tall - strip, Math.max(1.5, late[i + 2]), strip);
    for (let i = 0; i < failed.length; i += 3) pen.fillRect(failed[i], failed[i + 1], Math.max(2, failed[i + 2]), tall);
    if (windows.length < 1600) this.drawWindows(windows);
    if (labels.length < 1800) {
      pen.fillStyle = "#fff"; pen.textAlign = "center"; pen.textBaseline = "middle";
      for (let i = 0; i < labels.length; i += 3) pen.fillText(labels[i], labels[i + 1], labels[i + 2]);
    }
  }

  // In the colour of their model: with time to spare a batch may start long before its window.
  drawWindows(windows) {
    const pen = this.context;
    pen.lineWidth = 1.6;
    for (let i = 0; i < windows.length; i += 4) {
      const [model, open, close, y] = [windows[i], windows[i + 1], windows[i + 2], windows[i + 3]];
      pen.strokeStyle = colourOf(model);
      pen.beginPath();
      pen.moveTo(open, y + 4); pen.lineTo(open, y + 0.8); pen.lineTo(close, y + 0.8); pen.lineTo(close, y + 4);
      pen.stroke();
    }
  }

  drawLabels(gpus, rowPx, left, colours) {
    const pen = this.context, every = rowPx >= 11 ? 1 : 2, isNarrow = left < 100;
    pen.textBaseline = "middle";
    for (let gpu = 0; gpu < gpus; gpu += every) {
      const y = gpu * rowPx + rowPx / 2 + 0.5, busy = this.store.gpuBusy[gpu] || 0, state = this.store.gpuStates[gpu];
      const name = this.store.gpuNames[gpu];
      pen.font = (rowPx < 14 ? 9.5 : 11.5) + "px system-ui, sans-serif";
      pen.textAlign = "left"; pen.fillStyle = state === 3 ? colours.bad : busy > 0.005 ? colours.text : colours.muted;
      pen.fillText(isNarrow ? name.replace("emulated", "em") : name, 0, y);
      if (state === 3) { pen.textAlign = "right"; pen.fillText(isNarrow ? "✕" : "no batches", left - 8, y); continue; }
      const wide = isNarrow ? 0 : 30;
      pen.textAlign = "right"; pen.fillStyle = state === 2 ? colours.warn : busy > 0.005 ? colours.text : colours.muted;
      pen.fillText(state === 2 ? "slow" : busy > 0.005 ? Math.round(busy * 100) + " %" : "idle", left - 10 - (wide ? wide + 6 : 0), y);
      if (wide) {
        pen.fillStyle = colours.track; pen.fillRect(left - 10 - wide, y - 3, wide, 5);
        pen.fillStyle = state === 2 ? colours.warn : colours.muted; pen.fillRect(left - 10 - wide, y - 3, wide * Math.min(1, busy), 5);
      }
    }
  }

  // Return the index of the bar under a point of the canvas, -1 if there is none.
  at(x, y) {
    const rowPx = this.rowHeight(), gpu = Math.floor(y / rowPx), left = this.labelWidth();
    if (gpu < 0 || gpu >= this.store.gpuNames.length || x < left) return -1;
    const scale = this.view / (this.canvas.clientWidth - left), time = this.end - this.view + (x - left) * scale;
    let found = -1;
    this.store.bars.each(time - scale, time + scale, (at) => { if (this.store.bars.gpu[at] === gpu) found = at; });
    return found;
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey && Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(event.deltaX * this.view / canvas.clientWidth);
      else {
        const left = this.labelWidth();
        this.zoom(Math.exp(event.deltaY * 0.0015), Math.min(1, Math.max(0, (event.offsetX - left) / (canvas.clientWidth - left))));
      }
      event.preventDefault();
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      this.pointers.set(event.pointerId, event.offsetX);
      if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
      this.hover(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.pointers.has(event.pointerId)) { this.hover(event); return; }
      const before = this.pointers.get(event.pointerId), scale = this.view / (canvas.clientWidth - this.labelWidth());
      if (this.pointers.size === 1) {
        if (Math.abs(event.offsetX - before) < 2) return;
        this.pan((before - event.offsetX) * scale);
      } else if (this.pointers.size === 2) {
        const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, x]) => x);
        const apart = Math.max(20, Math.abs(event.offsetX - other)), was = Math.max(20, Math.abs(before - other));
        this.zoom(was / apart, 0.5);
      }
      this.pointers.set(event.pointerId, event.offsetX);
      this.tip.hidden = true;
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", (event) => { this.pointers.delete(event.pointerId); this.tip.hidden = true; });
  }

  hover(event) {
    const { bars, models, gpuNames } = this.store, at = this.at(event.offsetX, event.offsetY);
    this.tip.hidden = at < 0;
    if (at < 0) return;
    const model = models.get(bars.model[at]), many = bars.count[at], lines = [];
    lines.push(`${model ? model.name : "a model"} on ${gpuNames[bars.gpu[at]]}`);
    lines.push(many > 1 ? `${many} batches, ${bars.size[at]} requests (joined)` : `batch of ${bars.size[at]}, ran ${duration(bars.length[at])}`);
    if (many === 1 && bars.latest[at] !== 0) {
      const early = bars.frontrun[at], late = bars.latest[at];
      lines.push(`window ${duration(Math.max(0, late - early))} wide; started ` + (early > 0 ? duration(early) + " before it" : late < 0 ? duration(-late) + " after it" : "inside it"));
    }
    if (bars.fate[at] === 1) lines.push("answers left after their deadline");
    if (bars.fate[at] === 2) lines.push("failed");
    this.tip.textContent = lines.join("\n");
    this.tip.style.left = Math.min(innerWidth - 250, event.clientX + 14) + "px";
    this.tip.style.top = (event.clientY > innerHeight - 130 ? event.clientY - 100 : event.clientY + 16) + "px";
  }
}
