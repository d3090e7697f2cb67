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

let leaving; // the timer of a result, which leaves by itself

function show(name, data, on, more = {}) {
  const draw = () => {
    const content = views[name](t, data, on).filter(Boolean);
    document.querySelector("main").replaceChildren(...content);
    document.title = `${content.find((element) => element.tagName === "H1").textContent} – Sekisho`;
    fill();
    count();
  };
  clearTimeout(leaving);
  say(""); // it would lie over the buttons of what is shown now
  shown = { name, draw, ...more };
  draw();
  const at = document.querySelector("main [aria-invalid]") ?? document.querySelector("h1"); // so that a screen reader says where the user is
  at.focus();
  at.select?.(); // what is pasted or typed takes its place
}

// fill draws those parts of the screen that have changed, and leaves alone where the user is asked for a name or a decision.
function fill() {
  for (const [id, data] of Object.entries(parts())) {
    const slot = document.getElementById(id);
    const drawn = JSON.stringify(data);
    if (slot.drawn === drawn || slot.querySelector(".asking")) continue;
    const focused = slot.contains(document.activeElement) && document.activeElement;
    slot.drawn = drawn;
    slot.replaceChildren(...(views[id](t, data, actions) || []));
    if (focused) refocus(slot, focused.id);
  }
}

// refocus gives the focus back to what had it before its slot was drawn, also in a group that it has gone into, or to the title above
// if it is gone.
function refocus(slot, id) {
  const same = document.getElementById(id);
  same?.closest("details > ul")?.parentElement.setAttribute("open", "");
  (same ?? slot.querySelector("h2") ?? document.querySelector("h1")).focus({ preventScroll: true });
}

// parts are what fill draws on this screen, by the id of the slot.
function parts() {
  const { prompt, busy } = shown;
  if (prompt) return { others: { waiting: open(prompt).length > 0, busy: Boolean(busy) } };
  if (shown.name !== "home") return {};
  const waiting = open();
  const told = waiting.length > 0 || ["live", "polling"].includes(known.connection); // else nobody knows whether there are any
  return { owner: device && { user: device.user, name: device.name }, ...known, prompts: told && waiting };
}

// open are the prompts that can still be answered, but for one.
const open = (but) => known.prompts.filter((prompt) => Date.parse(prompt.expires) > now() && !(but && same(but, prompt)));

// count keeps the time that a prompt has left.
function count() {
  const { prompt, busy } = shown;
  if (!prompt) return;
  const left = Math.ceil((Date.parse(prompt.expires) - now()) / 1000);
  if (left <= 0) {
    if (!busy) showResult("expired", prompt); // else the answer that is on its way tells what came of it
    return;
  }
  document.getElementById("left").textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  if (left % 5 === 0) channel?.hurry(); // nobody tells that a login went another way, or was given up
}
setInterval(() => {
  fill(); // nobody tells either that a prompt in a list has run out
  count();
}, 1000);

function showHome() {
  show("home", {}, actions);
  if (channel) loadDevices().catch(() => {}); // the next time; without a channel it comes with the connection
}

// showNext opens what waits beside what a result is about, if it is one prompt; several are for the user to choose from.
function showNext() {
  const waiting = open(shown.about);
  if (waiting.length === 1) showPrompt(waiting[0]);
  else showHome();
}

function showWelcome(problem, link) {
  show("welcome", { problem, link }, actions);
}

async function showActivate(state = {}) {
  const name = state.name ?? await model();
  show("activate", { name, previous: device?.user, ...state }, actions);
}

function showPrompt(prompt, state = {}) {
  show("prompt", { prompt, ...state }, actions, { prompt, busy: state.busy });
  if (state.problem) document.getElementById("number")?.focus();
}

const reading = 10_000; // ms, for a result

// showResult tells what came of a prompt, if it is about one, and goes on when it was read: nothing waits behind it for a tap.
function showResult(kind, about) {
  show("result", { kind }, actions, { about });
  leaving = setTimeout(showNext, reading);
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
  const before = { ...known };
  const prompts = there.prompts.filter((prompt) => !decided.some((other) => same(other, prompt)));
  const notices = there.notices.filter((notice) => !settled.has(notice.id));
  Object.assign(known, { prompts, notices });
  follow(before);
  fill();
}

// decided are prompts that were answered here, and settled the ids of notices. A list that was asked for before may still have
// them, and so may one for a moment after: what is answered is not asked again.
let decided = [];
const settled = new Set();

// drop takes a prompt off the list for good.
function drop(prompt) {
  decided = [...decided.filter((other) => Date.parse(other.expires) > now()), prompt];
  known.prompts = known.prompts.filter((other) => !same(other, prompt));
}

const same = (a, b) => a.login === b.login && a.round === b.round;

// follow opens a prompt that comes alone, and closes one that is over: answered on another phone, replaced or withdrawn. A result
// makes way for what is new.
function follow(before) {
  const { prompts, notices } = known;
  const waiting = open();
  const over = shown.prompt && !shown.busy && !prompts.some((prompt) => same(prompt, shown.prompt));
  if (over) showResult("over", shown.prompt);
  const fresh = waiting.filter((prompt) => !before.prompts.some((old) => same(old, prompt)) && !(shown.about && same(shown.about, prompt)));
  const news = notices.filter((notice) => !before.notices.some((old) => old.id === notice.id));
  if (shown.name === "home" && waiting.length === 1 && fresh.length === 1 && !document.querySelector("main input:focus")) showPrompt(waiting[0]);
  else if (shown.name === "result" && fresh.length > 0) {
    showNext();
    if (over) say(t("result.over")); // the one that was just there, and looks alike
  } else if (shown.name === "result" && news.length > 0) showHome();
  if (shown.name === "home" && news.length > 0) say(t("push.notice.detail"));
  if (news.some((notice) => notice.kind.startsWith("device_"))) loadDevices().catch(() => {}); // with the next, or when home is shown
}

let asked = 0; // for the list of phones: an answer that a newer one has overtaken says nothing

async function loadDevices() {
  const mine = device;
  const turn = ++asked;
  const { devices, vapid } = await call(mine, "GET", "/v1/authenticator/devices");
  if (device !== mine || turn !== asked) return;
  known.devices = devices;
  const self = devices.find((item) => item.this);
  if (device.vapid !== vapid || self && device.name !== self.name) {
    Object.assign(device, { vapid, name: self?.name ?? device.name });
    await keep("device", device);
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
    else showWelcome("bad_link", text);
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
    showPrompt(prompt, { busy: decision, number });
    try {
      const { result, attempts_left: left } = await answer(device, prompt, decision, number);
      if (result === "wrong" && left > 0) {
        showPrompt(prompt, { problem: "wrong", left });
        return;
      }
      drop(prompt);
      showResult({ approved: "approved", denied: decision === "not_me" ? "not_me" : "denied" }[result] ?? "exhausted", prompt);
    } catch (error) {
      if (error instanceof Removed) await showRemoved();
      else if (error instanceof Refused && error.status === 409) {
        drop(prompt); // also where the list goes on having it: the account is locked
        showResult("void", prompt);
      } else if (error instanceof Refused) showResult("failed", prompt);
      else showPrompt(prompt, { problem: "unreachable", number });
    }
  },
  async notice(item, decision) {
    if (!(await doing(call(device, "POST", `/v1/authenticator/notices/${item.id}`, { decision })))) return;
    settled.add(item.id);
    known.notices = known.notices.filter((other) => other.id !== item.id);
    if (decision === "seen") say(t("notices.noted"));
    else if (shown.prompt) say(t("result.reported")); // it came meanwhile
    else showResult("reported");
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
  // rename and remove close what asked for them when the list can take its place.
  async rename(item, name, close) {
    if (!(await doing(call(device, "PATCH", `/v1/authenticator/devices/${item.id}`, { name })))) return;
    await doing(loadDevices());
    close();
    fill();
    say(t("notice.device_renamed", { device: name }));
  },
  async remove(item, close) {
    if (!(await doing(call(device, "DELETE", `/v1/authenticator/devices/${item.id}`)))) return;
    if (item.this) {
      if (!(await wipe())) showWelcome();
    } else {
      await doing(loadDevices());
      close();
      fill();
    }
    say(t("notice.device_removed", { device: item.name }));
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

let said; // the timer of what was said last

function say(text) {
  const live = document.getElementById("live");
  live.textContent = text;
  clearTimeout(said);
  said = setTimeout(() => { live.textContent = ""; }, 8_000);
}

async function setLanguage(language) {
  t = await load(language);
  document.documentElement.lang = language;
  document.querySelector(".motto").textContent = t("brand.motto");
  const other = document.getElementById("language");
  other.textContent = t("language.other");
  other.lang = language === "ja" ? "en" : "ja";
  other.hidden = false;
}

document.getElementById("language").addEventListener("click", async ({ currentTarget }) => {
  await keep("language", currentTarget.lang);
  await setLanguage(currentTarget.lang);
  const typed = Array.from(document.querySelectorAll("main input"), ({ id, value }) => ({ id, value }));
  shown.draw();
  for (const { id, value } of typed) {
    const input = document.getElementById(id);
    if (!input) continue; // a new name of a phone, whose row has closed
    input.value = value;
    input.dispatchEvent(new Event("input"));
  }
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
