// The service worker: keeps the app's shell for when there is no network, and tells of requests while the page is closed.

import { call, recall } from "./device.js";
import { subscribe } from "./push.js";
import { load, preferred } from "./texts.js";

// The server fills these in. A new version is a new worker, which keeps a whole new shell before it takes over, so that
// files of two versions never meet.
const version = "@version";
const shell = ["@shell"];

const slow = 4_000; // ms; a phone often has a network that does not carry anything

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));

async function install() {
  const cache = await caches.open(version);
  await cache.addAll(shell.map((path) => new Request(path, { cache: "reload" })));
  await self.skipWaiting();
}

async function activate() {
  for (const name of await caches.keys()) if (name !== version) await caches.delete(name);
  await self.clients.claim();
}

self.addEventListener("fetch", (event) => {
  const { pathname, origin } = new URL(event.request.url);
  if (event.request.method === "GET" && origin === self.location.origin && shell.includes(pathname)) event.respondWith(fromNetwork(event.request, pathname));
});

async function fromNetwork(request, path) {
  try {
    const response = await fetch(request, { signal: AbortSignal.timeout(slow) });
    if (response.ok) return response;
  } catch {
    // no network
  }
  return (await caches.match(path, { cacheName: version })) ?? Response.error();
}

self.addEventListener("push", (event) => event.waitUntil(announce()));

// announce says that something waits, and nothing of what: a notification can be read on a locked phone.
async function announce() {
  const windows = await self.clients.matchAll({ type: "window" });
  for (const window of windows) window.postMessage("news");
  if (windows.some((window) => window.visibilityState === "visible")) return;
  const t = await load(await preferred());
  const kind = await waiting();
  await self.registration.showNotification(t(`push.${kind}`), {
    body: t(`push.${kind}.detail`), tag: "sekisho", lang: t.language, icon: "/authenticator/icon-192.png", requireInteraction: kind === "prompt",
  });
}

// waiting is what the notification is about. Browsers want one for every push, even when it came too late.
async function waiting() {
  try {
    const device = await recall("device");
    const { prompts, notices } = await call(device, "GET", "/v1/authenticator/prompts");
    if (prompts.length > 0) return "prompt";
    return notices.length > 0 ? "notice" : "over";
  } catch {
    return "prompt"; // the page finds out
  }
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open());
});

async function open() {
  const [window] = await self.clients.matchAll({ type: "window" });
  return window ? window.focus() : self.clients.openWindow("/authenticator");
}

// The push service has replaced the address.
self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew()));

async function renew() {
  const device = await recall("device");
  if (device) await subscribe(device, self.registration);
}
