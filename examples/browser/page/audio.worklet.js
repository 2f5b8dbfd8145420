// What runs in the browser's audio thread: the microphone's sound to 16 kHz, and the assistant's speech without
// gaps. It talks with talk.js by messages, and knows nothing of sockets.

const CAPTURE_RATE = 16000; // what the service listens to
const FRAME = 512; // samples of it in a message: 32 ms, as AWS advises
const REPORT = 0.05; // seconds between two reports of a level
const HOLD = 0.06; // seconds of speech that are awaited before it begins: the second piece comes after 20 ms
const FADE = 0.005; // seconds in which speech that is cut fades out, so that it does not crack

// Filters of resampling: a sinc under a Kaiser window. 24 zero crossings and a cutoff of 0.9 keep what would fold
// back 80 dB down, and all of a voice up to 6 kHz at 16 kHz.
const CROSSINGS = 24;
const CUTOFF = 0.9;
const BETA = 8;

const bessel = (x) => {
  let sum = 1;
  for (let k = 1, term = 1; term > 1e-12 * sum; k++) sum += term *= (x / 2 / k) ** 2;
  return sum;
};
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const divisor = (a, b) => (b ? divisor(b, a % b) : a);

/** Changes the rate of sound that comes in pieces. */
class Resampler {
  constructor(from, to) {
    const common = divisor(from, to);
    this.up = to / common;
    this.down = from / common;
    const cutoff = CUTOFF * Math.min(1, to / from);
    this.half = Math.ceil(CROSSINGS / cutoff);
    // One row of weights for each place that a new sample can have between two old ones.
    this.rows = Array.from({ length: this.up }, (_, row) =>
      Float32Array.from({ length: 2 * this.half }, (_, tap) => {
        const distance = tap + 1 - this.half - row / this.up;
        const edge = 1 - (distance / this.half) ** 2;
        return edge <= 0 ? 0 : (cutoff * sinc(cutoff * distance) * bessel(BETA * Math.sqrt(edge))) / bessel(BETA);
      }),
    );
    this.reset();
  }

  /** Forgets what came before. */
  reset() {
    this.held = new Float32Array(this.half - 1); // silence came before
    this.row = 0;
  }

  /** Returns what a piece gives; some samples more, or fewer, than its share. */
  push(piece) {
    const all = new Float32Array(this.held.length + piece.length);
    all.set(this.held);
    all.set(piece, this.held.length);
    const out = [];
    let at = 0; // where the weights of the next sample begin
    while (at + 2 * this.half <= all.length) {
      const weights = this.rows[this.row];
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap++) sum += weights[tap] * all[at + tap];
      out.push(sum);
      this.row += this.down;
      at += Math.floor(this.row / this.up);
      this.row %= this.up;
    }
    this.held = all.slice(at);
    return Float32Array.from(out);
  }
}

/** Sums up how loud something is, and says so now and then. */
class Meter {
  constructor(report) {
    this.report = report;
    this.power = this.count = 0;
  }

  add(samples) {
    for (const each of samples) this.power += each * each;
    this.count += samples.length;
    if (this.count < REPORT * sampleRate) return;
    this.report(Math.sqrt(this.power / this.count));
    this.power = this.count = 0;
  }
}

/** Microphone in; `{pcm}` with 32 ms of 16-bit samples out, and `{level}`. */
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, CAPTURE_RATE);
    this.meter = new Meter((level) => this.port.postMessage({ level }));
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
  }

  process([[sound]]) {
    if (!sound) return true; // nothing is connected
    this.meter.add(sound);
    for (const each of this.resampler.push(sound)) {
      this.frame[this.filled++] = Math.max(-1, Math.min(1, each)) * 32767;
      if (this.filled < FRAME) continue;
      this.port.postMessage({ pcm: this.frame.buffer }, [this.frame.buffer]);
      this.frame = new Int16Array(FRAME);
      this.filled = 0;
    }
    return true;
  }
}

/** 16-bit samples in, or "stop"; sound out, and `{level}` and `{playing}`. */
class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.resampler = new Resampler(rate, sampleRate);
    this.meter = new Meter((level) => this.port.postMessage({ level }));
    this.playing = false;
    this.drop();
    this.port.onmessage = ({ data }) => (data === "stop" ? this.stop() : this.add(new Int16Array(data)));
  }

  add(samples) {
    if (this.fading) this.drop(); // what is cut does not mix with what comes after
    if (!this.queued) this.due = currentTime + HOLD;
    const sound = this.resampler.push(Float32Array.from(samples, (each) => each / 32768));
    this.queue.push(sound);
    this.queued += sound.length;
  }

  stop() {
    if (this.playing) this.fading = Math.round(FADE * sampleRate);
    else this.drop();
  }

  drop() {
    this.queue = [];
    this.queued = this.read = this.fading = 0;
    this.resampler.reset();
  }

  next() {
    const [piece] = this.queue;
    const sample = piece[this.read++];
    this.queued--;
    if (this.read === piece.length) {
      this.queue.shift();
      this.read = 0;
    }
    return sample;
  }

  process(_, [[out]]) {
    if (!this.playing && this.queued) this.playing = this.queued >= HOLD * sampleRate || currentTime >= this.due;
    for (let at = 0; this.playing && at < out.length; at++) {
      if (!this.queued) {
        this.playing = false;
      } else if (this.fading) {
        out[at] = (this.next() * this.fading) / (FADE * sampleRate);
        if (--this.fading === 0) {
          this.drop();
          this.playing = false;
        }
      } else {
        out[at] = this.next();
      }
    }
    this.meter.add(out);
    if (this.playing !== this.told) this.port.postMessage({ playing: (this.told = this.playing) });
    return true;
  }
}

registerProcessor("capture", Capture);
registerProcessor("playback", Playback);
