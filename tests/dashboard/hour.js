// Play an hour of 64 GPUs and 1,250 batches (10,000 requests) a second into the page, as fast as it takes it.
(async () => {
  source.close();
  const gpuCount = 64, barCount = 312, modelCount = 8, first = 100, start = store.t * 1000;
  const range = (count, make) => Array.from({ length: count }, (_, i) => make(i));
  const breathe = () => new Promise((go) => setTimeout(go, 0));
  heard({
    hello: { version: "0", policy: "deferred" }, t: start, unix_ms: Date.now(),
    fields: Object.fromEntries(Object.entries(FIELDS).map(([key, text]) => [key, text.split(" ")])),
    gpu_names: range(gpuCount, (i) => "cuda:" + i),
    models: range(modelCount, (i) => [first + i, "model" + i, "1", 50, 64, "READY", ""]),
    rows: [], reasons: [],
  });
  const frame = (n) => {
    const t = start + n * 250000, bars = [];
    for (let i = 0; i < barCount; i++) {
      const at = t - 250000 + Math.floor(i / gpuCount) * 50000 + 1000;
      bars.push(i % gpuCount, first + ((i * 7 + n) % modelCount), 8, at, 48000, -3000, 4000, i % 97 ? 0 : 1, 1);
    }
    return {
      t, health: "", node: [gpuCount, 60, 4, 0, 58.5, 60, 100, 300], gpus: Array(gpuCount).fill([940, 1, 8]).flat(),
      rows: range(modelCount, (i) => [first + i, n * 310, n, n * 2, 0, 0, 0, 5, 9, n * 39, n * 312, n * 1.9e6, 42000]),
      sizes: range(modelCount, (i) => [first + i, 8, 39]).flat(), bars, batches: [barCount, 0],
      reasons: n % 4 ? [] : [[first, "dropped", "would_miss", n]],
      events: n % 4 ? [] : [[t, "drop", n + " requests dropped", first, -1]],
    };
  };
  const took = [];
  window.hour = {
    took,
    // Frames `from` to `to`, taken in alone, or shown, too.
    async play(from, to, isShown) {
      for (let n = from; n < to; n++) {
        const message = frame(n), began = performance.now();
        if (isShown) { heard(message); took.push(performance.now() - began); } else store.apply(message);
        if (n % 100 === 0) await breathe();
      }
    },
    // How long the timeline takes to draw 2, 10 and 60 seconds, at its best on a machine that others use.
    async draws() {
      timeline.isLive = false; timeline.end = store.t;
      const best = [];
      for (const view of [2000, 10000, 60000]) {
        timeline.view = view;
        let least = Infinity;
        for (let i = 0; i < 8; i++) {
          const began = performance.now();
          timeline.draw();
          (await createImageBitmap(timeline.canvas, 0, 0, 1, 1)).close(); // so that it is painted, not only noted down
          least = Math.min(least, performance.now() - began);
        }
        best.push(least);
      }
      return best;
    },
  };
  await window.hour.play(1, 1200, false);
})()
