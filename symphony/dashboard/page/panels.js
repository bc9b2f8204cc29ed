"use strict";
// The sentence on top, the figures, the table of models, the events: everything that is text.

const TABLE_ROWS_MAX = 100;
const EVENTS_SHOWN = 60;

class Panels {
  constructor(store, onChoose) {
    this.store = store; this.onChoose = onChoose; this.alone = null;
    this.rows = new Map(); // number -> the row's elements
    this.eventsSeen = null;
    this.saidAt = 0;
  }

  draw() {
    this.drawTiles();
    this.drawVerdict();
    this.drawTable();
    this.drawLegend();
    this.drawEvents();
  }

  totals() {
    const total = { good: 0, bad: 0, offered: 0, queue: 0, batches: 0, requests: 0 };
    for (const model of this.store.models.values()) {
      total.good += model.good; total.bad += model.bad; total.offered += model.offered; total.queue += model.queue;
    }
    return total;
  }

  drawTiles() {
    const { node, models } = this.store, total = this.totals(), share = total.offered ? total.bad / total.offered : 0;
    const figure = (id, value, unit, tone) => {
      const element = document.getElementById(id);
      element.replaceChildren(document.createTextNode(value), ...(unit ? [make("small", "", " " + unit)] : []));
      element.dataset.tone = tone || "";
    };
    figure("tile-good", count(total.good), "/s");
    setText(document.getElementById("tile-offered"), `of ${count(total.offered)} offered per second`);
    figure("tile-bad", percent(share), "", share > BAD_RATE ? "bad" : total.offered ? "good" : "");
    const hurt = [...models.values()].filter((model) => model.badRate > BAD_RATE && model.bad > 0.1).length;
    setText(document.getElementById("tile-why"), hurt ? `${hurt} of ${this.ready()} model${this.ready() === 1 ? "" : "s"} above 1 %` : "each model below 1 %");
    const busy = node.gpus_busy || 0;
    figure("tile-gpus", busy >= 10 ? busy.toFixed(0) : busy.toFixed(1), `of ${node.gpu_count}`);
    const needed = node.gpus_needed;
    const extra = node.gpus_quarantined ? `; ${node.gpus_quarantined} get no batches` : "";
    setText(document.getElementById("tile-needed"), (needed == null ? "" : `the load needs ${needed.toFixed(1)}`) + extra);
    figure("tile-queue", count(total.queue));
    const batches = [...models.values()].filter((model) => model.batch > 0);
    const mean = batches.reduce((sum, model) => sum + model.batch, 0) / (batches.length || 1);
    setText(document.getElementById("tile-batch"), batches.length ? `batches of ${mean.toFixed(1)}, the models' mean` : "no batch runs");
  }

  ready() { return [...this.store.models.values()].filter((model) => model.state === "READY").length; }

  drawVerdict() {
    const element = document.getElementById("verdict"), [tone, parts] = this.verdict();
    if (element.dataset.tone !== tone) element.dataset.tone = tone;
    const text = parts.map((part) => (typeof part === "string" ? part : part[0])).join("");
    const now = performance.now(), paragraph = element.querySelector("p");
    // Read out by screen readers: not with every figure that changes.
    if (paragraph.textContent === text || (now - this.saidAt < 2000 && this.saidTone === tone)) return;
    this.saidAt = now; this.saidTone = tone;
    paragraph.replaceChildren(...parts.map((part) => (typeof part === "string" ? document.createTextNode(part) : make("b", "", part[0]))));
  }

  // Say in a sentence or two how it goes: [tone, parts], parts in brackets stand out.
  verdict() {
    const { store } = this, { node, t } = store, total = this.totals(), ready = this.ready();
    if (!store.isKnown) return ["quiet", ["Waiting for the node …"]];
    const there = node.gpu_count - node.gpus_quarantined;
    const busy = Math.ceil((node.gpus_busy || 0) - 0.02), plural = node.gpu_count === 1 ? "" : "s";
    const work = busy >= there
      ? [" The load keeps ", [there === 1 ? "the one GPU" : `all ${there} GPUs`], " at work", node.gpus_needed > there * 0.85 ? ": little is left for more." : "."]
      : [" The load keeps ", [`${busy} of ${node.gpu_count} GPU${plural}`], " at work; the others are free."];
    const out = node.gpus_quarantined ? ` ${this.quarantined()} get${node.gpus_quarantined === 1 ? "s" : ""} no batches: see the events.` : "";
    if (store.health) return ["warn", [`This node is not ready: ${store.health}.`]];
    const hurt = store.ranked().filter((model) => model.badRate > BAD_RATE && model.bad > 0.1);
    if (hurt.length) {
      const worst = hurt[0], why = whyWords(worst.worst(t), node);
      const others = hurt.length > 1 ? ` ${hurt.length - 1} other model${hurt.length > 2 ? "s are" : " is"} above 1 %, too.` : "";
      return ["bad", [[worst.name], " hurts: ", [percent(worst.badRate)], " of its requests are not good" + (why ? ` — ${why}.` : ".") + others + out]];
    }
    if (out) return ["warn", [out.trim(), " All models are within their objectives."]];
    if (total.offered < 0.1) return ["quiet", [`Nothing arrives. ${ready} model${ready === 1 ? " is" : "s are"} ready on ${there} GPU${there === 1 ? "" : "s"}.`]];
    return ["good", [ready === 1 ? "The model is" : `All ${ready} models are`, " within ", ready === 1 ? "its objective" : "their objectives", ": at least 99 % good.", ...work]];
  }

  quarantined() {
    const names = this.store.gpuNames.filter((name, gpu) => this.store.gpuStates[gpu] === 3);
    return names.length > 3 ? `${names.length} GPUs` : names.join(", ");
  }

  drawTable() {
    const { store } = this, body = document.getElementById("rows"), ranked = store.ranked().slice(0, TABLE_ROWS_MAX);
    const kept = new Set();
    ranked.forEach((model, index) => {
      kept.add(model.number);
      let row = this.rows.get(model.number);
      if (!row) this.rows.set(model.number, (row = this.makeRow(model)));
      this.fillRow(row, model);
      if (body.children[index] !== row.element) body.insertBefore(row.element, body.children[index] || null);
    });
    for (const [number, row] of this.rows) if (!kept.has(number)) { row.element.remove(); this.rows.delete(number); }
  }

  makeRow(model) {
    const element = make("tr"), cell = (className, label) => { const one = make("td", className); if (label) one.dataset.label = label; element.append(one); return one; };
    const row = { element };
    const name = cell("name"), button = make("button"), swatch = make("span", "swatch");
    swatch.style.background = colourOf(model.number);
    row.label = make("span"); row.version = make("small");
    button.append(swatch, row.label, row.version); name.append(button);
    row.offered = cell("n hide"); row.good = cell("n", "/s");
    const bad = cell("badcell"); row.meter = make("span", "meter"); row.fill = make("i"); row.meter.append(row.fill); row.bad = make("span", "figure"); bad.append(row.meter, row.bad);
    row.why = cell("why");
    const p99 = cell("p hide"); row.pMeter = make("span", "meter"); row.pFill = make("i"); row.pMeter.append(row.pFill); row.p99 = make("span"); p99.append(row.pMeter, row.p99);
    row.queue = cell("n hide"); row.batch = cell("n hide"); row.gpus = cell("n hide");
    element.addEventListener("click", () => this.onChoose(model.number));
    return row;
  }

  fillRow(row, model) {
    const isBad = model.badRate > BAD_RATE && model.bad > 0.05, tone = isBad ? "bad" : "";
    row.element.dataset.tone = tone;
    row.element.setAttribute("aria-selected", String(this.alone === model.number));
    setText(row.label, model.name); setText(row.version, model.version === "1" ? "" : "v" + model.version);
    setText(row.offered, count(model.offered)); setText(row.good, count(model.good));
    row.fill.style.width = Math.min(100, model.badRate * 100) + "%"; row.fill.dataset.tone = tone;
    row.bad.dataset.tone = tone; setText(row.bad, model.offered > 0 ? percent(model.badRate) : "–");
    setText(row.why, model.state !== "READY" ? `${model.state.toLowerCase()}: ${model.reason}` : isBad ? whyWords(model.worst(this.store.t), this.store.node) : "");
    const share = model.slo ? model.p99 / model.slo : 0;
    row.pFill.style.width = Math.min(100, share * 100) + "%"; row.pFill.dataset.tone = share > 1 ? "bad" : "good";
    setText(row.p99, model.p99 ? `${duration(model.p99)} of ${duration(model.slo)}` : `– of ${duration(model.slo)}`);
    setText(row.queue, count(model.queue)); setText(row.batch, model.batch ? model.batch.toFixed(1) : "–"); setText(row.gpus, model.gpus ? model.gpus.toFixed(2) : "–");
  }

  drawLegend() {
    const models = this.store.busiest(CHART_MODELS_MAX), box = document.getElementById("legend");
    const shape = models.map((model) => model.name + model.number).join() + this.alone;
    if (shape === this.legendShape) return;
    this.legendShape = shape;
    box.replaceChildren(...models.map((model) => {
      const item = make("span", this.alone !== null && this.alone !== model.number ? "dim" : ""), swatch = make("span", "swatch");
      swatch.style.background = colourOf(model.number);
      item.append(swatch, model.name);
      return item;
    }));
  }

  drawEvents() {
    const { events, models, gpuNames, unixOffset } = this.store, last = events[events.length - 1];
    if (last === this.eventsSeen) return;
    this.eventsSeen = last;
    document.getElementById("events").replaceChildren(...events.slice(-EVENTS_SHOWN).reverse().map((event) => {
      const item = make("li"), model = models.get(event.number);
      item.dataset.kind = event.kind;
      const about = [event.number && model ? model.name : "", event.gpu >= 0 ? gpuNames[event.gpu] : ""].filter(Boolean).join(" on ");
      item.append(make("time", "", clockTime(event.at + unixOffset)), make("span", "kind", event.kind), make("span", "", (about ? about + ": " : "") + event.text));
      return item;
    }));
  }
}
