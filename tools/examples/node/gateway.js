// A gateway: asks for logins on the bus, hears what becomes of them, and answers their challenges.
import { randomBytes } from "node:crypto";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";
import { jetstream, JetStreamApiError } from "@nats-io/jetstream";
import { CloudEvent } from "cloudevents";
import { decode, encode } from "./message.js";
import { sealer } from "./seal.js";

const attempts = 5; // answers in one login
const rounds = 6; // challenges in one login
const reread = 2_000; // ms after which a login that nothing was heard of is read from the stream
const keyAge = 600_000; // ms after which a sealing key is read again; an old one stays good for much longer
const subjectTaken = 10077; // JetStream: this subject has its one message already
const otherEnding = [10071, 10164]; // JetStream: the login is closed, so that it can not lapse

export class Gateway {
  #name;
  #mode;
  #nc;
  #js;
  #direct; // reads stored messages
  #keys = new Map(); // recipient → {since, seal}
  #logins = new Map(); // id → {seen, trace, deadline, wake}, of logins that are watched here; one watcher each

  // connect connects as the gateway that the seed belongs to. Its events go out in the given mode of CloudEvents.
  static async connect({ servers, name, seed, mode = "binary" }) {
    const gateway = new Gateway();
    gateway.#name = name;
    gateway.#mode = mode;
    gateway.#nc = await connect({
      servers,
      name: `gateway/${name}`,
      authenticator: nkeyAuthenticator(seed),
      inboxPrefix: `_INBOX_${name}`, // the only inboxes that the broker lets it listen to
      maxReconnectAttempts: -1,
      pingInterval: 5_000, // a broker that hangs is left after some 15 s; by default it would be after minutes
    });
    gateway.#js = jetstream(gateway.#nc);
    gateway.#direct = (await gateway.#js.jetstreamManager(false)).direct;
    const heard = gateway.#nc.subscribe(`deliver.${name}.>`, { callback: (err, message) => err || gateway.#hear(message) });
    await gateway.#nc.flush(); // from here on nothing that is stored is missed
    if (heard.isClosed()) {
      await gateway.#nc.close();
      throw new Error(`the seed is not that of gateway ${name}`);
    }
    return gateway;
  }

  close() {
    return this.#nc.drain();
  }

  // request asks for a login by password and returns its id, to be watched.
  async request({ app, user, password, lasts = 300_000 }) {
    const id = uuidv7();
    const deadline = new Date(Date.now() + lasts);
    const trace = `00-${randomBytes(16).toString("hex")}-${randomBytes(8).toString("hex")}-01`;
    const login = { seen: new Map(), trace, deadline, wake: () => {} };
    this.#logins.set(id, login); // before the publish, so that nothing of it is missed
    try {
      const identity = await this.#seal("identityverifier", this.#subject(id, "requested"), "identity", { user, password });
      await this.#publish(id, "requested", 0, { app, method: "password", deadline: deadline.toISOString(), identity });
    } catch (err) {
      this.#logins.delete(id);
      throw err;
    }
    return id;
  }

  // watch yields where a login stands each time that something happened to it, and ends with the login:
  // {status: "pending"}, {status: "challenge", …}, or the data of `closed` with its outcome as status. One that has lapsed ends
  // as expired. The login may have been requested by another instance of the gateway.
  async *watch(id) {
    const login = this.#logins.get(id) ?? (await this.#join(id));
    try {
      for (let shown = -1; ; ) {
        if (login.seen.size > shown) {
          shown = login.seen.size;
          const state = stateOf(login.seen);
          yield state;
          if (state.outcome) return;
        } else if (await this.#silence(login)) {
          await this.#catchUp(id, login).catch(() => {}); // the bus is away: what is known stays true, and is looked at again
        }
      }
    } finally {
      this.#logins.delete(id);
    }
  }

  // answer answers a challenge that a watch, still going on, has yielded. It takes the next free attempt and says which;
  // undefined if all are used.
  async answer(id, challenge, code) {
    const { seen } = this.#logins.get(id);
    for (let n = 1; n <= attempts; n++) {
      if (seen.has(`rejected.${n}`)) continue;
      const sealed = await this.#seal("otpvalidator", this.#subject(id, "answered", n), "code", code);
      const data = { round: challenge.round, factor: challenge.factor, code: sealed };
      if (await this.#publish(id, "answered", n, data)) return n;
    }
  }

  // hear takes in what LOGIN has stored and says again as deliver.<gateway>.<step>.<login>[.<n>]. Every instance of a
  // gateway hears all of its logins.
  #hear(message) {
    const [, , step, id, n] = message.subject.split(".");
    const login = this.#logins.get(id);
    if (!login || step === "revoked") return; // a session that has ended is no step of its login
    login.seen.set(place(step, n), decode(message).data);
    login.wake();
  }

  // silence waits until something is heard of a login, and tells whether nothing was for a while.
  #silence(login) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, reread, true);
      login.wake = () => {
        clearTimeout(timer);
        resolve(false);
      };
    });
  }

  // catchUp is for a login of which nothing was heard for a while.
  async #catchUp(id, login) {
    if (Date.now() > login.deadline) await this.#publish(id, "lapsed", 0, {});
    await this.#read(id, login.seen);
  }

  // join takes up a login that another instance requested.
  async #join(id) {
    const requested = await this.#stored(id, "requested");
    if (!requested) throw new Error(`gateway ${this.#name} has no login ${id}`);
    const login = { seen: new Map(), trace: requested.traceparent, deadline: new Date(requested.data.deadline), wake: () => {} };
    this.#logins.set(id, login);
    await this.#read(id, login.seen);
    return login;
  }

  // read reads from the stream what may have been missed: what is heard can be lost, what is stored can not.
  async #read(id, seen) {
    for (let before = -1; seen.size > before; ) {
      before = seen.size;
      const missing = ["lapsed", "closed"];
      const next = Math.min(lastRound(seen) + 1, rounds);
      missing.push(`challenged.${next}`, `undelivered.${next}`);
      for (let n = 1; n <= attempts && next > 1; n++) missing.push(`rejected.${n}`);
      for (const at of missing.filter((at) => !seen.has(at))) {
        const event = await this.#stored(id, ...at.split("."));
        if (event) seen.set(at, event.data);
      }
    }
  }

  async #stored(id, step, n) {
    const message = await this.#direct.getMessage("LOGIN", { last_by_subj: this.#subject(id, step, n) });
    return message && decode({ headers: message.header, string: () => message.string() });
  }

  // publish stores an event under its subject, which takes one message, and tells whether what is there is ours. A publish
  // whose acknowledgement did not arrive is repeated: then the nonce tells.
  async #publish(id, step, n, data) {
    const nonce = randomBytes(16).toString("hex");
    const login = this.#logins.get(id);
    const event = new CloudEvent({
      id: [this.#name, id, step, n].filter(Boolean).join("/"),
      source: `gateway/${this.#name}`,
      type: `sekisho.login.${step}.v1`,
      subject: `${this.#name}/${id}`,
      datacontenttype: "application/json",
      data,
      nonce,
      traceparent: login.trace,
      expirytime: login.deadline.toISOString(),
    });
    const { headers, payload } = encode(event, this.#mode);
    if (step === "lapsed") {
      // A login ends once: the broker takes this only while the login is not closed.
      headers.set("Nats-Expected-Last-Subject-Sequence", "0");
      headers.set("Nats-Expected-Last-Subject-Sequence-Subject", this.#subject(id, "closed"));
    }
    for (let left = 3; ; left--) {
      try {
        await this.#js.publish(this.#subject(id, step, n), payload, { headers, timeout: 2_000 });
        return true;
      } catch (err) {
        if (err instanceof JetStreamApiError && err.code === subjectTaken) {
          return (await this.#stored(id, step, n))?.nonce === nonce;
        }
        if (err instanceof JetStreamApiError && otherEnding.includes(err.code)) return false;
        if (err instanceof JetStreamApiError || left === 1) throw err;
      }
    }
  }

  #subject(id, step, n) {
    return ["login", step, this.#name, id, n].filter(Boolean).join(".");
  }

  async #seal(recipient, subject, field, value) {
    let key = this.#keys.get(recipient);
    if (!key || Date.now() - key.since > keyAge) {
      const message = await this.#direct.getMessage("KEYS", { last_by_subj: `keys.${recipient}` });
      key = { since: Date.now(), seal: await sealer(message.json()) };
      this.#keys.set(recipient, key);
    }
    return key.seal(subject, field, value);
  }
}

const place = (step, n) => (n ? `${step}.${n}` : step);

// lastRound is the highest round of which it was seen that its challenge was sent, or could not be; 0 if there is none.
function lastRound(seen) {
  const ofRound = /^(?:challenged|undelivered)\.(\d)$/;
  return Math.max(0, ...[...seen.keys()].map((at) => Number(ofRound.exec(at)?.[1] ?? 0)));
}

// stateOf is where a login stands by what was seen of it, in whatever order that came. A round ends when the next is
// challenged, not before.
function stateOf(seen) {
  const closed = seen.get("closed");
  if (closed) return { ...closed, status: closed.outcome };
  if (seen.has("lapsed")) return { outcome: "expired", status: "expired" }; // `closed` may follow, and says the same
  for (let round = rounds; round > 0; round--) {
    const challenged = seen.get(`challenged.${round}`);
    if (!challenged) continue;
    const rejected = [...seen].filter(([at]) => at.startsWith("rejected.")).map(([, data]) => data);
    return { ...challenged, status: "challenge", round, attemptsLeft: Math.min(attempts, ...rejected.map((r) => r.attempts_left)) };
  }
  return { status: "pending" };
}

// uuidv7 is a new id (RFC 9562 section 5.7). Its time must be right within two minutes.
function uuidv7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
