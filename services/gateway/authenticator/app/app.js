// Sekisho's authenticator: the phone that approves logins.

import { Channel } from "./channel.js";
import { answer, call, enroll, forget, keep, now, recall, Refused, Removed } from "./device.js";
import { standing, subscribe, turnOff, turnOn } from "./push.js";
import { load, preferred } from "./texts.js";
import * as views from "./views.js";

// takeCode takes the activation code out of the address, where history and shoulders would see it.
function takeCode() {
  const code = location.hash.slice(1);
  if (code) history.replaceState(null, "", location.pathname);
  return code;
}
let code = takeCode();

let t; // texts
let device; // null while this browser is none
let channel;
let shown = {}; // what is on the screen: name, and draw to draw it again
const known = { connection: "connecting", prompts: [], notices: [], notifications: "", devices: [] };

// The screen.

function show(name, data, on, more = {}) {
  const draw = () => {
    const content = views[name](t, data, on).filter(Boolean);
    document.querySelector("main").replaceChildren(...content);
    document.title = `${content.find((element) => element.tagName === "H1").textContent} – Sekisho`;
    fill();
    count();
  };
  shown = { name, draw, ...more };
  draw();
  document.querySelector("h1").focus(); // so that a screen reader says where the user is
}

// fill draws those parts of the home screen that have changed, and leaves alone where the user is typing.
function fill() {
  if (shown.name !== "home") return;
  for (const [id, data] of Object.entries(known)) {
    const slot = document.getElementById(id);
    const drawn = JSON.stringify(data);
    if (slot.drawn === drawn || slot.contains(document.activeElement) && document.activeElement.tagName === "INPUT") continue;
    slot.drawn = drawn;
    slot.replaceChildren(...(views[id](t, data, actions) || []));
  }
}

// count keeps the time that a prompt has left.
function count() {
  const { prompt, busy } = shown;
  if (!prompt) return;
  const left = Math.ceil((Date.parse(prompt.expires) - now()) / 1000);
  if (left <= 0) {
    if (!busy) showResult("expired"); // else the answer that is on its way tells what came of it
    return;
  }
  document.getElementById("left").textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  if (left % 5 === 0) channel?.hurry(); // nobody tells that a login went another way, or was given up
}
setInterval(count, 1000);

function showHome() {
  show("home", { device }, actions);
}

// showNext opens what came meanwhile, if it is one prompt; several are for the user to choose from.
function showNext() {
  const open = known.prompts.filter((prompt) => Date.parse(prompt.expires) > now());
  if (open.length === 1) showPrompt(open[0]);
  else showHome();
}

function showWelcome(problem) {
  show("welcome", { problem }, actions);
}

async function showActivate(state = {}) {
  const name = state.name ?? await model();
  show("activate", { name, previous: device?.user, ...state }, actions);
}

function showPrompt(prompt, state = {}) {
  show("prompt", { prompt, several: known.prompts.length > 1, ...state }, actions, { prompt, busy: state.busy });
  if (state.problem) document.getElementById("number")?.focus();
}

function showResult(kind) {
  show("result", { kind }, actions);
}

// model is what people call this device, as far as the browser tells.
async function model() {
  const values = await navigator.userAgentData?.getHighEntropyValues(["model"]).catch(() => null);
  return values?.model || /iPhone|iPad|Android|Windows|Mac|Linux/.exec(navigator.userAgent)?.[0] || "";
}

// What is new.

// news fetches what waits for this device. It fails if the server can not be reached.
async function news() {
  const mine = device;
  let there;
  try {
    there = await call(mine, "GET", "/v1/authenticator/prompts");
  } catch (error) {
    if (error instanceof Removed && device === mine) await showRemoved();
    throw error;
  }
  if (device !== mine) return;
  const before = known.prompts;
  const prompts = there.prompts.filter((prompt) => !decided.some((other) => same(other, prompt)));
  Object.assign(known, { prompts, notices: there.notices });
  follow(before);
  fill();
}

// decided are prompts that were answered here. A list that was asked for before may still have them, and so may one for a
// moment after: what is answered is not asked again.
let decided = [];

const same = (a, b) => a.login === b.login && a.round === b.round;

// follow opens a prompt that comes alone, and closes one that is over: answered on another phone, replaced or withdrawn.
function follow(before) {
  const { prompts } = known;
  if (shown.prompt && !shown.busy && !prompts.some((prompt) => same(prompt, shown.prompt))) showResult("over");
  const fresh = prompts.filter((prompt) => !before.some((old) => same(old, prompt)));
  if (shown.name === "home" && prompts.length === 1 && fresh.length === 1 && !document.querySelector("main input:focus")) showPrompt(prompts[0]);
}

async function loadDevices() {
  const { devices, vapid } = await call(device, "GET", "/v1/authenticator/devices");
  known.devices = devices;
  const self = devices.find((item) => item.this);
  if (device.vapid !== vapid || self && device.name !== self.name) {
    Object.assign(device, { vapid, name: self?.name ?? device.name });
    await keep("device", device);
    if (shown.name === "home") showHome();
  }
  fill();
}

async function loadNotifications() {
  known.notifications = await standing(device);
  fill();
  if (known.notifications === "on") await subscribe(device, await navigator.serviceWorker.ready);
}

function start() {
  known.connection = "connecting";
  showHome();
  channel = new Channel(device, news, (state) => {
    const back = state !== "offline" && known.connection !== state;
    known.connection = state;
    fill();
    if (back) Promise.all([loadDevices(), loadNotifications()]).catch(() => {}); // the next time that the connection changes
  });
  channel.run();
  loadNotifications().catch(() => {}); // without a connection; tried again with the next
}

function stop() {
  channel?.stop();
  channel = null;
  Object.assign(known, { connection: "connecting", prompts: [], notices: [], notifications: "", devices: [] });
}

// wipe makes this browser no device, and reports whether it is one all the same: another tab has activated it anew. The key is
// gone for good: there was no other copy of it.
async function wipe() {
  const gone = device;
  stop();
  device = null;
  const kept = await recall("device");
  if (kept && kept.id !== gone?.id) {
    device = kept;
    start();
    return true;
  }
  await forget("device");
  await turnOff().catch(() => {}); // the server does not send to a device that it does not know
  return false;
}

async function showRemoved() {
  if (!(await wipe())) show("removed", {}, actions);
}

// What the user does.

const actions = {
  link(text) {
    code = text.slice(text.indexOf("#") + 1).trim();
    if (/^[\w-]{16,128}$/.test(code)) showActivate();
    else showWelcome("bad_link");
  },
  async activate(name) {
    await showActivate({ name, busy: true });
    const previous = device;
    try {
      device = await enroll(code, name);
    } catch (error) {
      if (error instanceof Refused && error.field === "activation") {
        actions.cancel("used");
      } else {
        const refused = error instanceof Refused && (error.field === "name" ? "bad_name" : error.status === 409 && "too_many");
        await showActivate({ name, problem: refused || "unreachable" });
      }
      return;
    }
    code = "";
    stop();
    if (previous) call(previous, "DELETE", `/v1/authenticator/devices/${previous.id}`).catch(() => {}); // then it stays in the list
    start();
  },
  cancel(problem) {
    code = "";
    if (!device) showWelcome(problem);
    else if (channel) showHome();
    else start();
    if (device && problem) say(t(`welcome.${problem}`));
  },
  open: (prompt) => showPrompt(prompt),
  back: showHome,
  done: showNext,
  again: () => showWelcome(),
  async decide(decision, number) {
    const { prompt } = shown;
    showPrompt(prompt, { busy: true });
    try {
      const { result, attempts_left: left } = await answer(device, prompt, decision, number);
      if (result === "wrong" && left > 0) {
        showPrompt(prompt, { problem: "wrong", left });
        return;
      }
      decided = [...decided.filter((other) => Date.parse(other.expires) > now()), prompt];
      known.prompts = known.prompts.filter((other) => !same(other, prompt));
      showResult({ approved: "approved", denied: decision === "not_me" ? "not_me" : "denied" }[result] ?? "exhausted");
    } catch (error) {
      if (error instanceof Removed) await showRemoved();
      else if (error instanceof Refused) showResult(error.status === 409 ? "over" : "failed");
      else showPrompt(prompt, { problem: "unreachable" });
    }
  },
  async notice(item, decision) {
    if (!(await doing(call(device, "POST", `/v1/authenticator/notices/${item.id}`, { decision })))) return;
    known.notices = known.notices.filter((other) => other.id !== item.id);
    if (decision === "not_me") showResult("reported");
    fill();
  },
  async notifications() {
    known.notifications = "trying";
    fill();
    try {
      await turnOn(device);
      known.notifications = await standing(device);
    } catch {
      known.notifications = "failed"; // most often the push service can not be reached
    }
    fill();
  },
  async rename(item, name) {
    document.activeElement?.blur();
    if (await doing(call(device, "PATCH", `/v1/authenticator/devices/${item.id}`, { name }))) await doing(loadDevices());
  },
  async remove(item) {
    if (!(await doing(call(device, "DELETE", `/v1/authenticator/devices/${item.id}`)))) return;
    if (item.this) {
      if (!(await wipe())) showWelcome();
    } else {
      await doing(loadDevices());
    }
  },
};

// doing says so when something could not be done, and reports whether it was.
async function doing(task) {
  try {
    await task;
    return true;
  } catch (error) {
    if (error instanceof Removed) await showRemoved();
    else say(t("failed"));
    return false;
  }
}

function say(text) {
  const live = document.getElementById("live");
  live.textContent = text;
  setTimeout(() => { if (live.textContent === text) live.textContent = ""; }, 8_000);
}

async function setLanguage(language) {
  t = await load(language);
  document.documentElement.lang = language;
  document.querySelector(".motto").textContent = t("brand.motto");
  const other = document.getElementById("language");
  other.textContent = t("language.other");
  other.lang = language === "ja" ? "en" : "ja";
}

document.getElementById("language").addEventListener("click", async ({ currentTarget }) => {
  await keep("language", currentTarget.lang);
  await setLanguage(currentTarget.lang);
  shown.draw();
});

// The worker is an addition: without it there is no shell offline and no notification, and the page says so.
async function registerWorker() {
  const policy = globalThis.trustedTypes?.createPolicy("authenticator", { createScriptURL: (url) => url });
  const script = "/authenticator/sw.js";
  await navigator.serviceWorker?.register(policy?.createScriptURL(script) ?? script, { scope: "/authenticator", type: "module" });
}

navigator.serviceWorker?.addEventListener("message", () => channel?.hurry());
addEventListener("online", () => channel?.hurry());
addEventListener("offline", () => channel?.hurry());
document.addEventListener("visibilitychange", () => { if (!document.hidden) channel?.hurry(); });
addEventListener("hashchange", () => {
  code = takeCode() || code;
  if (code) showActivate();
});

await setLanguage(await preferred());
if (!crypto.subtle || !(await recall("device").then(() => true, () => false))) {
  show("unsupported", {}, actions);
} else {
  registerWorker().then(() => device && loadNotifications()).catch(() => {});
  device = (await recall("device")) ?? null;
  if (code) await showActivate();
  else if (device) start();
  else showWelcome();
}
