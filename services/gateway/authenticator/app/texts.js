// Texts in the user's language. The page and the service worker share this module.

import { recall } from "./device.js";

const languages = ["en", "ja"];

// preferred is the language that was chosen here, else the browser's.
export async function preferred() {
  const chosen = await recall("language").catch(() => undefined);
  const wanted = [chosen, ...navigator.languages.map((language) => language.slice(0, 2))];
  return wanted.find((language) => languages.includes(language)) ?? "en";
}

// load gives a function that says a text by its key, {name} replaced by values.name, and words for times, places and apps.
export async function load(language) {
  const file = `/authenticator/${language}.json`;
  // The worker's own requests do not pass through it, and the network may be none that carries anything.
  const texts = await ((await globalThis.caches?.match(file).catch(() => undefined)) ?? (await fetch(file))).json();
  const t = (key, values = {}) => (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const clock = new Intl.DateTimeFormat(language, { timeStyle: "medium" }); // with seconds: two requests may be of one minute
  const moment = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  const regions = new Intl.DisplayNames(language, { type: "region" });
  return Object.assign(t, {
    language,
    clock: (time) => clock.format(new Date(time)),
    moment: (time) => moment.format(new Date(time)),
    // The app of a prompt or a notice, in the user's language if it has a name there.
    app: ({ app, app_names: names }) => names?.[language] ?? app ?? "",
    // A proxy may say where a network is by the code of a region: "JP (192.0.2.1)".
    place: (place) => place.replace(/^[A-Z]{2}(?= |$)/, (code) => regions.of(code)),
  });
}
