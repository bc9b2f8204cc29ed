"use strict";
// The charts, by uPlot: made anew when their series change, otherwise given new data once a second.

const CHART_MODELS_MAX = 8;
const SIZES_SHOWN_MAX = 6;

class Charts {
  constructor(store) {
    this.store = store;
    this.span = 120; // seconds shown
    this.plots = {};
    this.shape = "";
    new ResizeObserver(() => this.resize()).observe(document.getElementById("chart-good"));
  }

  restyle() { this.shape = ""; this.draw(); }

  resize() {
    for (const [name, plot] of Object.entries(this.plots)) {
      const box = document.getElementById("chart-" + name);
      plot.setSize({ width: box.clientWidth, height: box.clientHeight });
    }
  }

  draw() {
    const { store } = this;
    if (!store.times.length) return;
    const models = store.busiest(CHART_MODELS_MAX), alone = this.alone;
    const shown = alone === null || alone === undefined ? models : models.filter((model) => model.number === alone);
    const sized = this.sizes(shown);
    const shape = shown.map((model) => model.number + model.name).join() + "|" + sized.models.map((model) => model.number).join();
    if (shape !== this.shape) { this.shape = shape; this.build(shown, sized.models); }
    const last = store.times[store.times.length - 1], from = last - this.span;
    let first = 0;
    while (first < store.times.length - 1 && store.times[first] < from) first++;
    const cut = (list) => list.slice(first), times = cut(store.times);
    const stacks = [], sum = new Array(times.length).fill(0), offered = new Array(times.length).fill(null);
    for (const model of shown) {
      const values = cut(model.series.good), asked = cut(model.series.offered);
      stacks.push(values.map((value, i) => (value === null && !sum[i] ? null : (sum[i] += value || 0))));
      asked.forEach((value, i) => { if (value !== null) offered[i] = (offered[i] || 0) + value; });
    }
    const scales = { x: { min: last - this.span, max: last } };
    this.put("good", [times, ...stacks.reverse(), offered], scales);
    this.put("bad", [times, ...shown.map((model) => cut(model.series.bad))], scales);
    this.put("queue", [times, ...shown.map((model) => cut(model.series.queue))], scales);
    this.put("gpus", [times, cut(store.nodeSeries.busy), cut(store.nodeSeries.needed), cut(store.nodeSeries.count)], scales);
    if (this.plots.sizes && sized.sizes.length) this.plots.sizes.setData([sized.sizes, ...sized.shares]);
  }

  put(name, data, scales) {
    const plot = this.plots[name];
    plot.batch(() => { plot.setData(data, false); plot.setScale("x", scales.x); });
  }

  // Return, for models with batches in the last minute, the share of each size, stacked: {models, sizes, shares}.
  sizes(shown) {
    const counts = new Map(); // number -> Map size -> count
    let largest = 1;
    for (const [, flat] of this.store.sizes) {
      for (let i = 0; i < flat.length; i += 3) {
        let own = counts.get(flat[i]);
        if (!own) counts.set(flat[i], (own = new Map()));
        own.set(flat[i + 1], (own.get(flat[i + 1]) || 0) + flat[i + 2]);
        if (flat[i + 1] > largest) largest = flat[i + 1];
      }
    }
    const models = shown.filter((model) => counts.has(model.number)).slice(0, SIZES_SHOWN_MAX);
    let total = 0;
    for (const model of models) for (const value of counts.get(model.number).values()) total += value;
    // Wide ranges are told in steps, so that a bar keeps a width that can be seen.
    const step = Math.max(1, Math.ceil(largest / 40)), sizes = [], stack = [], shares = [];
    for (let size = 1; size <= largest; size += step) { sizes.push(size); stack.push(0); }
    for (const model of models) {
      for (const [size, value] of counts.get(model.number)) stack[Math.floor((size - 1) / step)] += (100 * value) / total;
      shares.push(stack.slice());
    }
    return { models, sizes, shares: shares.reverse() };
  }

  build(models, sizedModels) {
    for (const plot of Object.values(this.plots)) plot.destroy();
    this.plots = {};
    const muted = cssVariable("--muted"), line = cssVariable("--line"), text = cssVariable("--text"), warn = cssVariable("--warn"), accent = cssVariable("--accent");
    const axis = (extra) => Object.assign({ stroke: muted, font: "11px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { show: false }, size: 26 }, extra);
    const values = (plot, splits) => splits.map((value) => (value >= 1e4 ? value / 1e3 + " k" : String(value)));
    const timeAxis = axis({ values: (plot, splits, i, space, step) => splits.map((value) => (step >= 60 ? clockTime(value * 1000).slice(0, 5) : clockTime(value * 1000))), space: 78 });
    const make = (name, series, y = {}, more = {}) => {
      const box = document.getElementById("chart-" + name);
      this.plots[name] = new uPlot(Object.assign({
        width: box.clientWidth, height: box.clientHeight, legend: { show: false }, padding: [6, 8, 0, 0],
        cursor: { sync: { key: "symphony" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: { x: { time: true }, y: { range: (plot, low, high) => [0, Math.max(y.least || 1, (high || 0) * 1.08)] } },
        series: [{}, ...series], axes: [timeAxis, axis({ values, size: 42, ...y.axis })],
      }, more), [[], ...series.map(() => [])], box);
      this.tips(name, series);
    };
    const strokes = (model, width = 1.8) => ({ label: model.name, stroke: colourOf(model.number), width, points: { show: false }, spanGaps: true });
    const stacked = models.slice().reverse().map((model, i, all) => ({ ...strokes(model, 1), fill: colourOf(model.number), below: all.length - 1 - i }));
    make("good", [...stacked, { label: "offered", stroke: text, width: 1.4, dash: [4, 4], points: { show: false } }]);
    make("bad", models.map((model) => strokes(model)), { least: 4, axis: { values: (plot, splits) => splits.map((value) => value + " %") } });
    make("queue", models.map((model) => strokes(model)), { least: 8 });
    make("gpus", [
      { label: "at work", stroke: accent, width: 1, fill: accent + "66", points: { show: false } },
      { label: "load needs", stroke: warn, width: 2, points: { show: false } },
      { label: "there are", stroke: text, width: 1.4, dash: [4, 4], points: { show: false } },
    ]);
    const columns = sizedModels.slice().reverse().map((model, i, all) => ({ label: model.name, stroke: colourOf(model.number), width: 0, fill: colourOf(model.number), points: { show: false }, paths: uPlot.paths.bars({ size: [0.86, 40], align: 0 }), below: all.length - 1 - i }));
    if (columns.length) make("sizes", columns, { least: 5, axis: { values: (plot, splits) => splits.map((value) => value + " %") } }, {
      scales: { x: { time: false, range: (plot, low, high) => [0.4, Math.max(8, high) + 0.6] }, y: { range: (plot, low, high) => [0, Math.max(5, (high || 0) * 1.08)] } },
      axes: [axis({ values: (plot, splits) => splits.map((value) => (Number.isInteger(value) && value > 0 ? value : "")) }), axis({ values: (plot, splits) => splits.map((value) => value + " %"), size: 42 })],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    });
  }

  // Show the values under the pointer; of stacked series what each adds.
  tips(name, series) {
    const plot = this.plots[name], tip = document.getElementById("tip");
    plot.over.addEventListener("mousemove", (event) => {
      const at = plot.cursor.idx;
      if (at === null || at === undefined || plot.data[0][at] === undefined) { tip.hidden = true; return; }
      const x = plot.data[0][at], lines = [name === "sizes" ? `batch of ${x}` : clockTime(x * 1000)];
      series.forEach((one, i) => {
        let value = plot.data[i + 1][at];
        if (value === null || value === undefined) return;
        if (one.below !== undefined && one.below > 0) value -= plot.data[i + 2][at] || 0;
        const unit = name === "bad" || name === "sizes" ? value.toFixed(1) + " %" : name === "good" ? count(value) + "/s" : count(value);
        lines.push(`${one.label}  ${unit}`);
      });
      tip.textContent = lines.join("\n"); tip.hidden = false;
      tip.style.left = Math.min(innerWidth - 200, event.clientX + 14) + "px"; tip.style.top = Math.min(innerHeight - 150, event.clientY + 14) + "px";
    });
    plot.over.addEventListener("mouseleave", () => { tip.hidden = true; });
  }
}
