// A channel hears when there is something new: over a stream while that works, else by asking every few seconds, so that
// an outage of one of them locks nobody out.

import { stream } from "./device.js";

const every = 5_000; // between two questions without a stream
const shortest = 2_000; // before the stream is tried again, doubling to the longest
const longest = 60_000;
const opening = 10_000; // for the first word of a stream, during which nothing is asked
const silence = 40_000; // after which a stream counts as dead: the server says something every 15 s

export class Channel {
  #device;
  #news;
  #tell;
  #stopped = false;
  #offline = false;
  #hurry = () => {};
  #abort = new AbortController();

  // news fetches what is new, and fails if that is not possible. tell is told "live", "polling" or "offline".
  constructor(device, news, tell) {
    this.#device = device;
    this.#news = news;
    this.#tell = tell;
  }

  // hurry is for moments in which things have probably changed: the page is seen again, the network is back.
  hurry() {
    this.#hurry();
  }

  stop() {
    this.#stopped = true;
    this.#abort.abort();
    this.#hurry();
  }

  async run() {
    for (let wait = shortest; !this.#stopped; ) {
      if (await this.#follow()) {
        wait = shortest;
        await this.#pause(1_000);
      } else {
        wait = (await this.#poll(wait)) ? shortest : Math.min(2 * wait, longest);
      }
    }
  }

  // follow reads the stream to its end, and reports whether there was one. It is open when something comes out of it: a
  // proxy may hold back what should go on at once.
  async #follow() {
    this.#abort = new AbortController();
    const end = () => this.#abort.abort();
    let watchdog = setTimeout(end, opening);
    let open = false;
    try {
      const body = await stream(this.#device, this.#abort.signal);
      this.#hurry = () => this.#news().catch(end);
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(watchdog);
        watchdog = setTimeout(end, silence);
        const events = (text + value).split("\n\n");
        text = events.pop();
        if (!open || events.some((event) => event.startsWith("event: prompts"))) await this.#news();
        if (!open && !this.#stopped) this.#tell("live");
        open = true;
        this.#offline = false;
      }
    } catch {
      // whatever it was, asking tells whether the server can be reached
    } finally {
      clearTimeout(watchdog);
      end();
    }
    return open;
  }

  // poll asks for a while, and reports whether the stream should be tried at once: the server is back, or the user is.
  async #poll(time) {
    const until = Date.now() + time;
    do {
      const offline = this.#offline;
      this.#offline = !(await this.#news().then(() => true, () => false));
      if (this.#stopped) return false;
      this.#tell(this.#offline ? "offline" : "polling");
      if (offline && !this.#offline) return true;
      if (await this.#pause(Math.min(every, time))) return true;
    } while (Date.now() < until);
    return false;
  }

  // pause reports whether it was cut short.
  #pause(time) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), time);
      this.#hurry = () => { clearTimeout(timer); resolve(true); };
      if (this.#stopped) this.#hurry();
    });
  }
}
