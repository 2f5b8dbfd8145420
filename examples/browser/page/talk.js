// The page: sound in and out, the socket, and what was said. `messages.py` tells what goes over the socket.

const API = new URL("api/nova-sonic/", document.baseURI);
const SPEECH_RATE = 24000; // of the assistant's speech
const BEHIND = 64 * 1024; // bytes that wait to be sent: two seconds of speech. More would be heard too late
const THINKING = 8000; // ms; what the service takes for speech may be a cough, and then nothing follows

const NEAR = 48; // pixels from the end of the transcript

const $ = (id) => document.getElementById(id);

// --- sound ---------------------------------------------------------------------------------------------------

/** Microphone and loudspeaker. */
class Sound {
  static async open(heard) {
    if (!isSecureContext) throw new Error("browsers give sound only to pages of this machine, or by HTTPS");
    const sound = new Sound();
    sound.context = new AudioContext({ latencyHint: "interactive" });
    await sound.context.audioWorklet.addModule(new URL("audio.worklet.js", import.meta.url));
    sound.playback = new AudioWorkletNode(sound.context, "playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rate: SPEECH_RATE },
    });
    sound.playback.port.onmessage = ({ data }) => heard.playback(data);
    sound.playback.connect(sound.context.destination);
    sound.heard = heard;
    await sound.context.resume();
    return sound;
  }

  /** Turns the microphone on; the browser may ask the user first. */
  async listen() {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    if (this.context.state === "closed") return stop(stream); // the conversation is over by now
    this.deafen();
    this.stream = stream;
    stream.getAudioTracks()[0].onended = () => this.heard.lost();
    this.source = this.context.createMediaStreamSource(stream);
    this.capture = new AudioWorkletNode(this.context, "capture", {
      channelCount: 1,
      channelCountMode: "explicit", // the browser mixes what has more channels
    });
    this.capture.port.onmessage = ({ data }) => this.heard.microphone(data);
    this.source.connect(this.capture).connect(this.context.destination); // nothing comes out of it: it is only run
  }

  /** Turns the microphone off. */
  deafen() {
    if (!this.stream) return;
    this.source.disconnect();
    this.capture.disconnect();
    this.capture.port.onmessage = null;
    stop(this.stream);
    this.stream = null;
  }

  play(samples) {
    this.playback.port.postMessage(samples, [samples]);
  }

  silence() {
    this.playback.port.postMessage("stop");
  }

  close() {
    this.deafen();
    this.playback.port.onmessage = null;
    if (this.context.state !== "closed") this.context.close();
  }
}

const stop = (stream) => stream.getTracks().forEach((track) => track.stop());

// --- what was said -------------------------------------------------------------------------------------------

/** The transcript: what is planned is dim, what was heard is solid, what never was is struck out. */
class Transcript {
  constructor(list) {
    this.list = list;
    this.following = true; // unless the user has scrolled back to read
    list.onscroll = () => (this.following = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR);
    new ResizeObserver(() => this.follow()).observe(list);
    this.clear();
  }

  clear() {
    this.list.replaceChildren();
    this.answers = new Map(); // by turn
    this.user = null; // what the user is saying
    this.tools = new Map();
  }

  /** The user said, or typed. */
  said({ text, turn }) {
    if (this.user?.turn !== turn) this.user = { turn, words: this.entry("you", "You") };
    this.user.words.append(spaced(this.user.words, text));
    this.follow();
  }

  typed(text) {
    this.entry("you", "You").append(text);
    this.user = null;
    this.follow();
  }

  /** The assistant is about to say, or has said. A piece that was heard comes under another id than it was planned. */
  answered({ text, isFinal, turn, contentId }) {
    if (!this.answers.has(turn)) this.answers.set(turn, { words: this.entry("nova", "Nova"), pieces: [] });
    const { words, pieces } = this.answers.get(turn);
    let piece = pieces.find((each) => (isFinal ? each.heardId : each.id) === contentId);
    if (!piece && isFinal) {
      piece = pieces.find((each) => !each.heardId);
      if (piece) {
        piece.heardId = contentId;
        piece.span.className = "said";
        piece.span.removeAttribute("title");
        return;
      }
    } else if (piece?.heardId) {
      return; // more of a piece that stands there whole
    }
    if (!piece) {
      const span = document.createElement("span");
      span.className = isFinal ? "said" : "planned";
      if (!isFinal) span.title = "about to be said";
      piece = { id: contentId, heardId: isFinal ? contentId : null, span };
      words.append(spaced(words, ""), span);
      pieces.push(piece);
    }
    piece.span.append(piece.span.textContent ? text : text.trimStart());
    this.follow();
  }

  /** The user broke in. The sentence in which it was counts as said, and its confirmation is still to come. */
  interrupted({ turn }) {
    for (const { span, heardId } of this.answers.get(turn)?.pieces ?? []) {
      if (heardId) continue;
      span.className = "unsaid";
      span.title = "was not said";
    }
  }

  /** A tool is at work, or was. */
  tool({ id, name, status, arguments: given }) {
    if (!this.tools.has(id)) {
      const values = Object.entries(given ?? {}).map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
      this.tools.set(id, { note: this.note(""), what: values.length ? `${name} (${values.join(", ")})` : name });
    }
    const { note, what } = this.tools.get(id);
    note.textContent = { running: `Looking up ${what} …`, done: `Looked up ${what}`, failed: `${what} did not work` }[status] ?? what;
  }

  note(text) {
    const item = document.createElement("li");
    item.className = "note";
    item.textContent = text;
    this.list.append(item);
    this.follow();
    return item;
  }

  entry(kind, who) {
    const item = document.createElement("li");
    const [name, words] = [document.createElement("span"), document.createElement("div")];
    [item.className, name.className, words.className] = [kind, "who", "words"];
    name.textContent = who;
    item.append(name, words);
    this.list.append(item);
    return words;
  }

  follow() {
    if (this.following) this.list.scrollTop = this.list.scrollHeight;
  }
}

/** Returns a text with a blank before it, where it needs one. */
function spaced(before, text) {
  const needs = before.textContent && !/\s$/.test(before.textContent) && !/^\s/.test(text);
  return (needs ? " " : "") + text;
}

// --- the conversation ----------------------------------------------------------------------------------------

/** One socket, and the sound that goes over it. */
class Conversation {
  constructor(view) {
    this.view = view;
    this.ready = false; // whether the server listens
    this.over = false;
    this.waiting = []; // what was typed before it did
    this.user = "listening"; // what goes on while the assistant does not speak
    this.playing = this.mending = false;
  }

  async open(settings, microphone) {
    this.view.show("connecting");
    this.sound = await Sound.open({
      microphone: ({ pcm, level }) => (pcm ? this.sendSound(pcm) : this.view.level("you", level)),
      playback: ({ playing, level }) => (playing === undefined ? this.view.level("nova", level) : this.played(playing)),
      lost: () => {
        this.mute();
        this.view.fail("The microphone is gone. Plug it in and turn it on again, or type.");
      },
    });
    if (this.over) return this.sound.close();
    this.view.sounding();
    if (microphone) await this.unmute();
    if (this.over) return;
    const { token, ...wishes } = settings;
    const address = new URL("stream", API);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address, token ? ["novasonic", `bearer.${base64url(token)}`] : ["novasonic"]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.send({ type: "initialize", audioFormat: "binary", ...wishes });
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.told(JSON.parse(data)) : this.sound.play(data));
    this.socket.onclose = ({ code, reason }) => this.closed(code, reason);
  }

  /** Turns the microphone on, and says in words why not. */
  async unmute() {
    try {
      await this.sound.listen();
    } catch (error) {
      this.view.fail(MICROPHONE[error.name] ?? `The microphone does not work (${error.name}). You can type.`);
    }
    this.view.microphone(Boolean(this.sound.stream));
  }

  mute() {
    this.sound.deafen();
    this.view.level("you", 0);
    this.view.microphone(false);
  }

  type(text) {
    if (this.ready) this.send({ type: "text_message", text });
    else this.waiting.push(text);
    this.view.transcript.typed(text);
  }

  /** Says goodbye; the server closes the socket. */
  end() {
    this.sound?.silence();
    if (this.socket?.readyState === WebSocket.OPEN && this.ready) this.send({ type: "end_conversation" });
    else this.leave("You have left.");
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  sendSound(pcm) {
    if (this.ready && this.socket.readyState === WebSocket.OPEN && this.socket.bufferedAmount < BEHIND) this.socket.send(pcm);
  }

  told(message) {
    const { view } = this;
    switch (message.type) {
      case "initialized":
        this.ready = true;
        this.tell();
        this.waiting.splice(0).forEach((text) => this.send({ type: "text_message", text }));
        break;
      case "transcription":
        view.transcript.said(message);
        break;
      case "text_response":
        view.transcript.answered(message);
        break;
      case "audio_response": // only as binary frames, as this page asks for them
        break;
      case "interrupted":
        this.sound.silence();
        view.transcript.interrupted(message);
        break;
      case "tool_use":
        view.transcript.tool(message);
        break;
      case "state":
        this.changed(message.state);
        break;
      case "error":
        view.fail(message.message, message.retryable);
        break;
      case "conversation_ended":
        this.reason = message.reason;
        break;
    }
  }

  /** The user has begun to speak, or has spoken; or the way to the service is being mended. */
  changed(state) {
    clearTimeout(this.timer);
    if (state === "hearing") this.user = "hearing";
    if (state === "heard") this.think();
    if (state === "reconnecting" || state === "reconnected") this.mending = state === "reconnecting";
    this.tell();
  }

  think() {
    this.user = "thinking";
    this.timer = setTimeout(() => {
      this.user = "listening";
      this.tell();
    }, THINKING);
  }

  played(playing) {
    this.playing = playing;
    if (playing) this.user = "listening";
    this.tell();
  }

  tell() {
    if (this.ready && !this.over) this.view.show(this.mending ? "reconnecting" : this.playing ? "speaking" : this.user);
  }

  async closed(code, reason) {
    if (this.over) return;
    const ready = this.ready;
    this.leave(ENDS[this.reason] ?? ENDS[code] ?? (ready ? "The connection was lost. Start again." : ""));
    // A browser does not say why a socket was refused, but an ordinary request is told.
    if (!ready && code === 1006) {
      if (await this.view.learn()) this.view.fail("The server took no conversation. Try again in a minute.");
    } else if (code !== 1000 && reason && !this.reason) this.view.fail(`The server closed the conversation: ${reason}.`);
  }

  leave(why) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.timer);
    this.socket?.close();
    this.sound?.close();
    this.view.ended(why);
  }
}

const utf8 = (text) => String.fromCharCode(...new TextEncoder().encode(text)); // a header holds bytes, not letters
const base64url = (text) => btoa(utf8(text)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

const MICROPHONE = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it beside the page’s address, or type.",
  NotFoundError: "There is no microphone. Plug one in, or type.",
  NotReadableError: "Another program holds the microphone. Close that one, or type.",
};

const RESTARTED = "The server is being restarted. Try again in a minute.";
const ENDS = {
  client_request: "You have ended the conversation.",
  idle: "The conversation has ended, as nobody spoke for a while.",
  server_cleanup: "The server has ended the conversation.",
  service_ended: "The service has ended the conversation.",
  error: "The conversation has ended by an error.",
  server_shutdown: RESTARTED,
  1012: RESTARTED,
};

// --- the page ------------------------------------------------------------------------------------------------

const STATES = {
  off: "Not connected",
  connecting: "Connecting …",
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking …",
  speaking: "Speaking",
  reconnecting: "Reconnecting …",
};
const OFFLINE = "Offline demonstration: an emulator answers. It understands nothing, so say whatever you like.";
const SAID_ALOUD = new Set(["off", "connecting", "reconnecting"]); // a screen reader need not tell of each turn

/** All that the user sees. */
export const view = {
  transcript: new Transcript($("log")),

  show(state) {
    $("state").dataset.state = state;
    $("state").textContent = STATES[state];
    if (SAID_ALOUD.has(state)) $("announced").textContent = STATES[state];
  },

  level(whose, level) {
    const decibels = 20 * Math.log10(level || 1e-9); // from -60, which is silence, to 0
    const shown = Math.round(Math.max(0, Math.min(100, (decibels + 60) / 0.6)));
    $(`${whose}-level`).style.setProperty("--level", shown);
    $(`${whose}-level`).ariaValueNow = shown;
  },

  microphone(on) {
    $("microphone").setAttribute("aria-pressed", on);
  },

  fail(words, retryable = false) {
    $("error").textContent = retryable ? `${words} You may try again.` : words;
    $("error").hidden = false;
  },

  begun() {
    $("error").hidden = true;
    $("start").textContent = "End";
    $("start").dataset.action = "end";
    $("fields").disabled = true;
    $("settings").open = false;
    this.transcript.clear();
    if (!$("offline").hidden) this.transcript.note(OFFLINE);
  },

  sounding() {
    $("microphone").disabled = false;
  },

  ended(why) {
    $("start").textContent = "Start";
    delete $("start").dataset.action;
    $("microphone").disabled = true;
    $("fields").disabled = false;
    for (const whose of ["you", "nova"]) this.level(whose, 0);
    this.microphone(false);
    this.show("off");
    if (why) this.transcript.note(why);
    conversation = null;
  },

  /** Asks the server about itself, and returns whether all is well; if not, the user is told. */
  async learn() {
    const token = $("token").value;
    try {
      const answer = await fetch(new URL("status", API), { headers: token ? { Authorization: `Bearer ${utf8(token)}` } : {} });
      $("token-field").hidden = answer.status !== 401 && !token;
      if (answer.status === 401) {
        if (token) this.fail("The server does not know this access token. Correct it under Settings.");
        else this.fail("This server needs an access token. Enter it under Settings.");
        $("settings").open = true;
      } else if (!answer.ok) {
        this.fail(`The server refuses (${answer.status}): ${await answer.text()}`);
      } else {
        const { voices, emulated } = await answer.json();
        const [first] = $("voice").options;
        $("voice").replaceChildren(first, ...voices.map(({ name, language }) => new Option(`${name}, ${language}`, name)));
        $("offline").hidden = !emulated;
        $("offline").textContent = OFFLINE;
        return true;
      }
    } catch {
      this.fail("The server cannot be reached. Is it running?");
    }
    return false;
  },
};

let conversation = null;

async function begin({ microphone }) {
  const starting = (conversation = new Conversation(view));
  view.begun();
  const settings = { token: $("token").value, voiceId: $("voice").value, systemPrompt: $("system").value };
  try {
    await starting.open(settings, microphone);
  } catch (error) {
    starting.leave("");
    if (await view.learn()) view.fail(`This does not work here: ${error.message}.`);
  }
}

$("start").onclick = () => (conversation ? conversation.end() : begin({ microphone: true }));
$("microphone").onclick = () => (conversation.sound?.stream ? conversation.mute() : conversation.unmute());
$("form").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  if (!conversation) begin({ microphone: false });
  conversation.type(text);
  $("text").value = "";
};
$("token").onchange = () => view.learn();
document.onvisibilitychange = () => conversation?.sound?.context.resume(); // phones suspend it

$("token").value = decodeURIComponent(location.hash.slice(1));
view.learn();
