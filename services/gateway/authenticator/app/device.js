// The device: its key, and requests to the device API that prove it. The page and the service worker share this module.
//
// The key is made by the browser, which never gives its private half away, and stays in IndexedDB.

const base64url = (bytes) =>
  btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const utf8 = (text) => new TextEncoder().encode(text);
const sha256 = async (text) => base64url(await crypto.subtle.digest("SHA-256", utf8(text)));
const curve = { name: "ECDSA", namedCurve: "P-256" };

// Unreachable: there was no answer, or one that asks to try again later.
export class Unreachable extends Error {}
// Removed: the key of this device is not known any more.
export class Removed extends Error {}
// Refused: the answer was no.
export class Refused extends Error {
  constructor(status, field) {
    super(`status ${status}`);
    this.status = status;
    this.field = field;
  }
}

// What is kept: "device" {id, name, user, vapid, key} and "language".

function transaction(mode, use) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("sekisho-authenticator", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("kept");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const database = opening.result;
      const tx = database.transaction("kept", mode);
      const request = use(tx.objectStore("kept"));
      tx.oncomplete = () => { database.close(); resolve(request.result); };
      tx.onabort = () => { database.close(); reject(tx.error); };
    };
  });
}
export const recall = (what) => transaction("readonly", (kept) => kept.get(what));
export const keep = (what, value) => transaction("readwrite", (kept) => kept.put(value, what));
export const forget = (what) => transaction("readwrite", (kept) => kept.delete(what));

// The server's clock: what is signed is good for a minute, and the phone's own clock may be wrong by more.

let skew = 0;
export const now = () => Date.now() + skew;

function setClock(response) {
  const ahead = Date.parse(response.headers.get("Date")) + 500 - Date.now(); // the header has whole seconds
  if (ahead) skew = Math.abs(ahead) < 2_000 ? 0 : ahead;
}

// sign makes a JWS in compact form (RFC 7515), for one request. WebCrypto's signatures have the form that ES256 wants (RFC 7518 section 3.4).
async function sign(key, header, claims) {
  const jti = base64url(crypto.getRandomValues(new Uint8Array(18)));
  const parts = [{ alg: "ES256", ...header }, { ...claims, jti, iat: Math.floor(now() / 1000) }];
  const input = parts.map((part) => base64url(utf8(JSON.stringify(part)))).join(".");
  const signature = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, key, utf8(input));
  return `${input}.${base64url(signature)}`;
}

// send makes a request that proves the key. signed gives its body, and its headers if it has any, signed anew for each try: a wrong clock
// is mended by the answer that it caused, so what is refused is tried once more.
async function send(method, path, signed, signal) {
  for (let again = false; ; again = true) {
    const { body, headers = {} } = await signed();
    if (body) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method, headers, body: body || undefined, signal, cache: "no-store", credentials: "omit", redirect: "error" });
    } catch (cause) {
      throw new Unreachable("no answer", { cause });
    }
    setClock(response);
    if (response.status !== 401 || again) return response;
  }
}

// proven is a request with a proof beside its body.
const proven = (identity, key, method, path, body, signal) => send(method, path, async () => {
  const proof = await sign(key, { typ: "sekisho-device+jwt", ...identity }, { htm: method, htu: path, body: await sha256(body) });
  return { body, headers: { Authorization: `Device ${proof}` } };
}, signal);

async function content(response) {
  if (response.status === 204) return undefined;
  try {
    return await response.json();
  } catch (cause) {
    throw new Unreachable("the answer broke off", { cause });
  }
}

// judge turns an answer that is none into an error. Only the device API itself can say that the key is unknown: others
// on the way, such as a proxy, have schemes of their own.
async function judge(response) {
  if (response.ok) return response;
  if (response.status === 401 && response.headers.get("WWW-Authenticate")?.startsWith("Device")) throw new Removed();
  if (response.status === 401 || response.status === 429 || response.status >= 500) throw new Unreachable(`status ${response.status}`);
  const problem = await response.json().catch(() => ({}));
  throw new Refused(response.status, problem.field);
}

const patience = 15_000; // ms; the gateway itself gives up sooner

// call asks the device API as the device.
export async function call(device, method, path, value) {
  const body = value === undefined ? "" : JSON.stringify(value);
  return content(await judge(await proven({ kid: device.id }, device.key, method, path, body, AbortSignal.timeout(patience))));
}

// stream opens the stream of hints. It lasts until signal or the server ends it.
export const stream = async (device, signal) =>
  (await judge(await proven({ kid: device.id }, device.key, "GET", "/v1/authenticator/stream", "", signal))).body;

// enroll makes a key and has it registered, then keeps it.
export async function enroll(activation, name) {
  const { privateKey: key, publicKey } = await crypto.subtle.generateKey(curve, false, ["sign"]);
  const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", publicKey);
  const point = base64url(await crypto.subtle.exportKey("raw", publicKey));
  const body = JSON.stringify({ activation, name, public_key: point });
  const response = await proven({ jwk: { kty, crv, x, y } }, key, "POST", "/v1/authenticator/devices", body, AbortSignal.timeout(patience));
  const answer = await content(await judge(response));
  const device = { ...answer.device, vapid: answer.vapid, key };
  await keep("device", device);
  return device;
}

const prompts = "/v1/authenticator/prompts";

// answer signs what the user decided about a prompt, and sends it: that is the request's proof too. A refusal does not say that the device
// was removed. It may be for what somebody on the way delivered twice, or from a server that knows assertions with a proof only; so a
// request with a proof asks.
export async function answer(device, { login, round, nonce }, decision, number) {
  const response = await send("POST", prompts, async () => {
    const assertion = await sign(device.key, { typ: "sekisho-assertion+jwt", kid: device.id }, { login, round, nonce, number, decision });
    return { body: JSON.stringify({ assertion }) };
  }, AbortSignal.timeout(patience));
  if (response.status === 401) {
    await call(device, "GET", prompts);
    throw new Unreachable("status 401");
  }
  return content(await judge(response));
}
