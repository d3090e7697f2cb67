// The service worker: keeps the app's shell for when there is no network, and tells of requests while the page is closed.

import { call, recall } from "./device.js";
import { subscribe } from "./push.js";
import { load, preferred } from "./texts.js";

// The server fills these in. A new version is a new worker, which keeps a whole new shell before it takes over. The shell is
// always taken from there, so that a page is never made of files of two versions.
const version = "@version";
const shell = ["@shell"];

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
  if (event.request.method === "GET" && origin === self.location.origin && shell.includes(pathname)) event.respondWith(fromShell(event.request, pathname));
});

// fromShell asks the network only where the browser has thrown the cache away.
const fromShell = async (request, path) => (await caches.match(path, { cacheName: version })) ?? fetch(request);

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
