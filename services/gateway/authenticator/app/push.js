// Notifications by Web Push (RFC 8030), which reach a phone while the page is closed.

import { call } from "./device.js";

// standing is what stands between the user and notifications: "unsupported", "denied", "off" or "on".
export async function standing(device) {
  if (!device.vapid || !("Notification" in self) || !("PushManager" in self) || !navigator.serviceWorker) return "unsupported";
  if (Notification.permission === "denied") return "denied";
  const registration = await navigator.serviceWorker.getRegistration("/authenticator");
  if (!registration) return "unsupported"; // the browser takes no service worker
  return Notification.permission === "granted" && (await registration.pushManager.getSubscription()) ? "on" : "off";
}

// subscribe makes the push service's address of this browser, and tells it to the server.
export async function subscribe(device, registration) {
  const options = { userVisibleOnly: true, applicationServerKey: device.vapid };
  let subscription = await registration.pushManager.getSubscription();
  if (subscription && !sameKey(subscription, device.vapid)) {
    await subscription.unsubscribe(); // of a server key that has been replaced
    subscription = null;
  }
  subscription ??= await registration.pushManager.subscribe(options);
  const { endpoint, keys } = subscription.toJSON();
  await call(device, "PUT", "/v1/authenticator/subscription", { transport: "webpush", target: { endpoint, keys: { p256dh: keys.p256dh, auth: keys.auth } } });
}

function sameKey(subscription, vapid) {
  const key = new Uint8Array(subscription.options.applicationServerKey ?? []);
  return btoa(String.fromCharCode(...key)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "") === vapid;
}

const patience = 10_000; // ms; a browser that does not reach its push service goes on trying without end

// turnOn asks the user, then subscribes. It fails where the push service can not be reached.
export async function turnOn(device) {
  if ((await Notification.requestPermission()) !== "granted") return;
  const late = new Promise((_, reject) => setTimeout(reject, patience, new Error("the push service does not answer")));
  await Promise.race([navigator.serviceWorker.ready.then((registration) => subscribe(device, registration)), late]);
}

// turnOff makes the address of this browser void.
export async function turnOff() {
  const registration = await navigator.serviceWorker?.getRegistration("/authenticator");
  await (await registration?.pushManager?.getSubscription())?.unsubscribe();
}
