"use strict";
// What the stream's messages amount to: models with their rates, the node, series for the charts, events.

const SPAN_MS = 5000; // rates are taken over so long
const SERIES_POINTS_MAX = 3600; // an hour, once a second
const SERIES_MODELS_MAX = 64;
const EVENTS_MAX = 200;
const SIZE_SPAN_MS = 60000;
const FIELDS = {
  bars: "gpu model size start_us duration_us frontrun_us latest_us fate count",
  rows: "model good late dropped rejected failed cancelled queued in_flight batches batch_requests busy_us p99_us",
  node: "gpu_count gpus_in_use gpus_idle gpus_quarantined gpus_needed gpus_busy connections loop_delay_us",
};

class Model {
  constructor(number) {
    this.number = number;
    this.name = number === 0 ? "others" : "?"; this.version = ""; this.slo = 0; this.sizeMax = 1; this.state = ""; this.reason = "";
    this.looks = []; // [t, row], the last five seconds
    this.row = null;
    this.offered = this.good = this.bad = this.badRate = this.queue = this.batch = this.gpus = this.p99 = 0;
    this.reasons = new Map(); // token -> [counted so far, [[t, fresh], ...]]
    this.series = null; // {good, bad, queue, offered}, one point a second
    this.point = null; // the row at the last point
    this.batches = 0; // ever
  }

  look(t, row) {
    if (this.row && row[1] < this.row[1]) { this.looks = []; this.point = null; } // loaded anew
    this.row = row;
    this.looks.push([t, row]);
    while (this.looks.length > 2 && this.looks[1][0] <= t - SPAN_MS) this.looks.shift();
    const [since, old] = this.looks[0], passed = Math.max(1e-3, (t - since) / 1000);
    const bad = badOf(row) - badOf(old), good = row[1] - old[1], batches = row[9] - old[9];
    this.good = good / passed; this.bad = bad / passed; this.offered = this.good + this.bad;
    this.badRate = good + bad > 0 ? bad / (good + bad) : 0;
    this.late = row[2] - old[2];
    this.queue = row[7];
    this.batch = batches > 0 ? (row[10] - old[10]) / batches : 0;
    this.gpus = (row[11] - old[11]) / 1e6 / passed;
    this.p99 = row[12] / 1000;
    this.batches = row[9];
  }

  reasonCounted(t, token, total) {
    const known = this.reasons.get(token) || [null, []];
    if (known[0] !== null && total > known[0]) known[1].push([t, total - known[0]]);
    known[0] = total;
    this.reasons.set(token, known);
  }

  // The commonest reason of the last ten seconds.
  worst(t) {
    let best = "", most = 0;
    for (const [token, known] of this.reasons) {
      known[1] = known[1].filter((entry) => entry[0] > t - 2 * SPAN_MS);
      const fresh = known[1].reduce((sum, entry) => sum + entry[1], 0);
      if (fresh > most) { most = fresh; best = token; }
    }
    return this.late > most ? "late" : best;
  }
}

function badOf(row) { return row[2] + row[3] + row[4] + row[5]; }

class Store {
  constructor() { this.bars = new Bars(); this.clear(); }

  clear() {
    this.bars.clear();
    this.models = new Map();
    this.about = {}; this.gpuNames = []; this.gpuBusy = []; this.gpuStates = []; this.node = { gpu_count: 0, gpus_quarantined: 0, gpus_needed: null };
    this.health = ""; this.t = 0; this.unixOffset = 0; this.isKnown = false;
    this.times = []; this.nodeSeries = { busy: [], needed: [], count: [] };
    this.events = []; this.sizes = []; this.pointAt = 0; this.missed = 0;
  }

  model(number) {
    let model = this.models.get(number);
    if (!model) this.models.set(number, (model = new Model(number)));
    return model;
  }

  // Take one message; return false when it is of another version than this page.
  apply(message) {
    const t = message.t / 1000;
    if (message.hello) {
      for (const key of Object.keys(FIELDS)) if ((message.fields[key] || []).join(" ") !== FIELDS[key]) return false;
      const isOther = t < this.t || message.gpu_names.length !== this.gpuNames.length;
      if (message.history && isOther) this.clear(); // the node is another one, or began anew
      this.about = message.hello; this.gpuNames = message.gpu_names;
      this.unixOffset = message.unix_ms - t;
    }
    for (const [number, name, version, slo, sizeMax, state, reason] of message.models || [])
      Object.assign(this.model(number), { name, version, slo, sizeMax, state, reason });
    if (message.history && !this.isKnown) this.past(message);
    this.isKnown = true;
    this.t = t;
    const told = new Set();
    for (const row of message.rows || []) { told.add(row[0]); this.model(row[0]).look(t, row); }
    if (!message.hello)
      for (const model of this.models.values()) if (model.row && !told.has(model.number)) model.look(t, model.row);
    for (const [number, outcome, token, total] of message.reasons || [])
      if (outcome !== "cancelled") this.model(number).reasonCounted(t, token, total);
    if (message.node) this.node = this.named(message.node);
    if (message.health !== undefined) this.health = message.health;
    const gpus = message.gpus || [];
    for (let i = 0; i < gpus.length; i += 3) {
      const gpu = i / 3, busy = gpus[i] / 1000;
      this.gpuBusy[gpu] = this.gpuBusy[gpu] === undefined ? busy : this.gpuBusy[gpu] * 0.8 + busy * 0.2;
      this.gpuStates[gpu] = gpus[i + 1];
    }
    if (message.bars && !(message.history && this.bars.total)) this.bars.put(message.bars);
    if (message.sizes && message.sizes.length && !message.history) this.sizes.push([t, message.sizes]);
    while (this.sizes.length && this.sizes[0][0] < t - SIZE_SPAN_MS) this.sizes.shift();
    if (message.batches) this.missed += message.batches[1];
    for (const [at, kind, text, number, gpu] of message.events || [])
      if (!(message.history && this.events.length)) this.events.push({ at: at / 1000, kind, text, number, gpu });
    if (this.events.length > EVENTS_MAX) this.events.splice(0, this.events.length - EVENTS_MAX);
    if (t - this.pointAt >= 990 && message.node) this.addPoint(t, this.node);
    return true;
  }

  named(values) {
    const node = {};
    FIELDS.node.split(" ").forEach((name, index) => { node[name] = values[index]; });
    return node;
  }

  // Take the seconds before this page came.
  past(message) {
    const rows = new Map(message.base.map((row) => [row[0], row]));
    for (const row of message.base) this.model(row[0]).row = this.model(row[0]).point = row;
    for (const [atUs, node, changed] of message.history) {
      for (const row of changed) rows.set(row[0], row);
      for (const [number, row] of rows) this.model(number).row = row;
      this.addPoint(atUs / 1000, this.named(node));
    }
    for (const model of this.models.values()) model.looks = [];
  }

  addPoint(t, node) {
    const passed = (t - this.pointAt) / 1000, isGap = this.pointAt === 0 || passed > 5;
    this.pointAt = t;
    this.times.push((t + this.unixOffset) / 1000);
    this.nodeSeries.busy.push(node.gpus_busy); this.nodeSeries.needed.push(node.gpus_needed); this.nodeSeries.count.push(node.gpu_count);
    let series = 0;
    for (const model of this.models.values()) {
      if (model.series) series++;
      if (!model.row) continue;
      if (!model.series && model.row[1] + badOf(model.row) > 0 && series < SERIES_MODELS_MAX) {
        const empty = () => new Array(this.times.length - 1).fill(null);
        model.series = { good: empty(), offered: empty(), bad: empty(), queue: empty() };
        series++;
      }
      if (!model.series) { model.point = model.row; continue; }
      const old = model.point && model.row[1] >= model.point[1] ? model.point : null;
      const good = old && !isGap ? (model.row[1] - old[1]) / passed : null;
      const bad = old && !isGap ? (badOf(model.row) - badOf(old)) / passed : null;
      model.series.good.push(good); model.series.offered.push(good === null ? null : good + bad);
      model.series.bad.push(good === null || good + bad <= 0 ? null : (100 * bad) / (good + bad));
      model.series.queue.push(model.row[7]);
      model.point = model.row;
    }
    if (this.times.length > SERIES_POINTS_MAX) {
      this.times.shift();
      for (const list of Object.values(this.nodeSeries)) list.shift();
      for (const model of this.models.values()) if (model.series) for (const list of Object.values(model.series)) list.shift();
    }
  }

  // Models with traffic, those that do most first.
  busiest(limit) {
    return [...this.models.values()].filter((model) => model.series).sort((a, b) => b.row[1] + badOf(b.row) - a.row[1] - badOf(a.row)).slice(0, limit).sort((a, b) => a.number - b.number);
  }

  // Models that are ready or asked for, those that hurt most first.
  ranked() {
    return [...this.models.values()].filter((model) => model.number > 0).sort((a, b) =>
      (b.badRate > BAD_RATE) - (a.badRate > BAD_RATE) || b.bad * (b.badRate > BAD_RATE) - a.bad * (a.badRate > BAD_RATE) || (b.offered > 0) - (a.offered > 0) || a.number - b.number);
  }
}
