"use strict";
// The last batches, in typed arrays of fixed size: an hour of them takes no more memory than a minute.

const BAR_CAPACITY = 1 << 18;
const FRAME_CAPACITY = 1 << 14; // over an hour at four a second

class Bars {
  constructor() {
    this.start = new Float64Array(BAR_CAPACITY); // ms on the stream's clock
    this.length = new Float32Array(BAR_CAPACITY); // ms
    this.frontrun = new Float32Array(BAR_CAPACITY); // ms from the start
    this.latest = new Float32Array(BAR_CAPACITY);
    this.gpu = new Uint16Array(BAR_CAPACITY);
    this.model = new Uint16Array(BAR_CAPACITY);
    this.size = new Uint32Array(BAR_CAPACITY);
    this.count = new Uint32Array(BAR_CAPACITY);
    this.fate = new Uint8Array(BAR_CAPACITY);
    this.total = 0; // bars ever put
    // Each frame's first bar and the time that its bars cover.
    this.frameFirst = new Float64Array(FRAME_CAPACITY);
    this.frameFrom = new Float64Array(FRAME_CAPACITY);
    this.frameTo = new Float64Array(FRAME_CAPACITY);
    this.frames = 0;
  }

  // Take a frame's flat list: gpu, model, size, start_us, duration_us, frontrun_us, latest_us, fate, count.
  put(flat) {
    if (!flat.length) return;
    let from = Infinity, to = -Infinity;
    const frame = this.frames % FRAME_CAPACITY;
    this.frameFirst[frame] = this.total;
    for (let i = 0; i + 8 < flat.length; i += 9) {
      const at = this.total++ & (BAR_CAPACITY - 1);
      const start = flat[i + 3] / 1000, length = flat[i + 4] / 1000;
      this.gpu[at] = flat[i]; this.model[at] = flat[i + 1]; this.size[at] = flat[i + 2];
      this.start[at] = start; this.length[at] = length;
      this.frontrun[at] = flat[i + 5] / 1000; this.latest[at] = flat[i + 6] / 1000;
      this.fate[at] = flat[i + 7]; this.count[at] = flat[i + 8];
      if (start < from) from = start;
      if (start + length > to) to = start + length;
    }
    this.frameFrom[frame] = from; this.frameTo[frame] = to;
    this.frames++;
  }

  clear() { this.total = 0; this.frames = 0; }

  // Call visit(index) for the bars that overlap [from, to] ms, in the order of their coming.
  each(from, to, visit) {
    const oldest = Math.max(0, this.frames - FRAME_CAPACITY);
    let low = oldest, high = this.frames; // the first frame that may reach into the range: ends hardly ever go back
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.frameTo[middle % FRAME_CAPACITY] < from) low = middle + 1; else high = middle;
    }
    const kept = Math.max(0, this.total - BAR_CAPACITY);
    for (let frame = Math.max(oldest, low - 2); frame < this.frames; frame++) {
      const slot = frame % FRAME_CAPACITY;
      if (this.frameFrom[slot] > to) { if (this.frameFrom[slot] > to + 2000) break; continue; }
      const end = frame + 1 < this.frames ? this.frameFirst[(frame + 1) % FRAME_CAPACITY] : this.total;
      for (let bar = Math.max(kept, this.frameFirst[slot]); bar < end; bar++) {
        const at = bar & (BAR_CAPACITY - 1);
        if (this.start[at] <= to && this.start[at] + this.length[at] >= from) visit(at);
      }
    }
  }
}
