"use strict";
// The timeline as a Chrome trace, which ui.perfetto.dev opens: a row a GPU, a slice a batch, the windows as arguments.

const TRACE_BARS_MAX = 200000;

function traceOf(store) {
  const events = [], { bars } = store;
  events.push({ ph: "M", name: "process_name", pid: 1, args: { name: "GPUs" } });
  store.gpuNames.forEach((name, gpu) => {
    events.push({ ph: "M", name: "thread_name", pid: 1, tid: gpu + 1, args: { name } });
    events.push({ ph: "M", name: "thread_sort_index", pid: 1, tid: gpu + 1, args: { sort_index: gpu } });
  });
  const fates = ["good", "late", "failed"];
  let left = Math.min(TRACE_BARS_MAX, bars.total, BAR_CAPACITY);
  const first = bars.total - left;
  for (let bar = first; left > 0; bar++, left--) {
    const at = bar & (BAR_CAPACITY - 1), model = store.models.get(bars.model[at]);
    events.push({
      ph: "X", pid: 1, tid: bars.gpu[at] + 1, name: model ? model.name : "others", cat: fates[bars.fate[at]],
      ts: Math.round(bars.start[at] * 1000), dur: Math.max(1, Math.round(bars.length[at] * 1000)),
      args: { requests: bars.size[at], batches: bars.count[at], fate: fates[bars.fate[at]], window_opens_us: Math.round(bars.frontrun[at] * 1000), window_closes_us: Math.round(bars.latest[at] * 1000) },
    });
  }
  for (const event of store.events) {
    const model = store.models.get(event.number);
    events.push({ ph: "i", s: "g", pid: 1, tid: Math.max(0, event.gpu + 1), ts: Math.round(event.at * 1000), name: `${event.kind}: ${model && event.number ? model.name + " " : ""}${event.text}` });
  }
  store.times.forEach((time, i) => {
    const ts = Math.round((time * 1000 - store.unixOffset) * 1000);
    events.push({ ph: "C", pid: 1, name: "GPUs at work", ts, args: { gpus: store.nodeSeries.busy[i] } });
  });
  return { displayTimeUnit: "ms", traceEvents: events, otherData: store.about };
}

function saveTrace(store) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(traceOf(store))], { type: "application/json" }));
  link.download = `symphony-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
