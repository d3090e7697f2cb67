// Enhances the pages. Each of them works without this module, and goes on working when any part of it
// fails: what it hears from the server is only a hint to fetch the same page again.

const main = () => document.querySelector("main");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// A request that hangs, on a network that carries nothing, must not be waited for without end. The gateway answers a page at
// once, a form after a few seconds, and a poll after the time that it is asked to wait.
const patience = 10_000; // ms

// Forms: one submission each, and the button that was used shows that it is busy. The button is not
// disabled, since the browser would then leave its value out of the form.

document.addEventListener("submit", (event) => {
  const form = event.target;
  if ("busy" in form.dataset) {
    event.preventDefault();
    return;
  }
  form.dataset.busy = "";
  event.submitter?.setAttribute("aria-disabled", "true");
  setTimeout(() => release(form), patience); // nothing tells that the person has stopped the browser
});

function release(form) {
  delete form.dataset.busy;
  form.querySelector("[aria-disabled]")?.removeAttribute("aria-disabled");
  if (main().dataset.login) catchUp(0); // what happened meanwhile was left for the page that was to come
}

// A page that comes back from the browser's cache is a new chance.
window.addEventListener("pageshow", () => document.querySelectorAll("form[data-busy]").forEach(release));

document.addEventListener("change", ({ target }) => {
  const reveals = target.closest("[data-reveals]")?.dataset.reveals;
  if (reveals) document.getElementById(reveals).type = target.checked ? "text" : "password";
});

// Codes: people paste spaces and type full-width digits. A complete code is sent at once, but only the
// first of a round: attempts are few, so after a mistake the person decides when to send.

let autosubmittedRound;

function codeTyped(input) {
  const most = Number(input.dataset.digits ?? input.maxLength); // of an older release there is the latter only
  const digits = input.value.normalize("NFKC").replace(/\D/g, "").slice(0, most);
  if (digits !== input.value) input.value = digits;
  const { round } = main().dataset;
  if ("autosubmit" in input.dataset && digits.length === most && autosubmittedRound !== round) {
    autosubmittedRound = round;
    input.form.requestSubmit();
  }
}

document.addEventListener("input", (event) => {
  if (event.target.id === "code" && !event.isComposing) codeTyped(event.target);
});
document.addEventListener("compositionend", ({ target }) => {
  if (target.id === "code") codeTyped(target);
});
// A code that is pasted takes the place of what was typed.
document.addEventListener("paste", (event) => {
  if (event.target.id !== "code") return;
  event.preventDefault();
  event.target.value = event.clipboardData.getData("text");
  codeTyped(event.target);
});

// Times: in the person's own zone, counted by the server's clock.

let skew = 0;
const secondsUntil = (time) => Math.max(0, Math.ceil((Date.parse(time) - Date.now() - skew) / 1000));

const { lang } = document.documentElement;
const shown = {
  moment: new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "short" }),
  countdown: new Intl.DateTimeFormat(lang, { timeStyle: "short" }),
};

function tick() {
  for (const time of document.querySelectorAll("time[data-shown=countdown]")) {
    const left = secondsUntil(time.dateTime);
    const clock = shown.countdown.format(new Date(time.dateTime));
    const minutes = Math.floor(left / 60);
    const seconds = String(left % 60).padStart(2, "0");
    if (left === 0 && "again" in time.dataset && !leaving()) {
      delete time.dataset.again; // once at a time: the page that comes says what to do now
      refresh().catch(() => pause(5_000).then(() => (time.dataset.again = "")));
    }
    time.textContent = left > 0 ? `${clock} (${minutes}:${seconds})` : time.dataset.over;
    if (left === 0 && invited()) runOut();
  }
  for (const button of document.querySelectorAll("[data-resend-at]")) {
    const left = secondsUntil(button.dataset.resendAt);
    button.disabled = left > 0;
    button.querySelector(".left").textContent = left > 0 ? `(${left})` : "";
  }
}

function enhance() {
  const { now } = main().dataset;
  if (now) skew = Date.parse(now) - Date.now();
  for (const element of document.querySelectorAll("[data-reveals]")) element.hidden = false;
  for (const time of document.querySelectorAll("time[data-shown=moment]")) {
    time.textContent = shown.moment.format(new Date(time.dateTime));
  }
  tick();
}

// Following a login: the page is fetched again whenever the login has a newer version than the page.

const api = () => `/v1/logins/${main().dataset.login}`;
const open = () => ["pending", "challenge"].includes(main().dataset.status);
const version = () => Number(main().dataset.version);
const leaving = () => document.querySelector("form[data-busy]") !== null;

function swap(page) {
  const before = main();
  const after = page.querySelector("main");
  const focused = document.activeElement;
  const typed = before.querySelector("#code");
  const code = after.querySelector("#code");
  const sameRound = before.dataset.round === after.dataset.round;
  if (typed && code && sameRound && !code.hasAttribute("aria-invalid")) code.value = typed.value;

  const focusWasInside = before.contains(focused) || focused === document.body;
  before.replaceWith(after);
  document.title = page.title;
  if (focusWasInside) {
    const same = sameRound && focused.id && document.getElementById(focused.id);
    (same || after.querySelector("[autofocus]") || after.querySelector("h1")).focus();
  }
  const news = after.querySelectorAll("h1, #notice");
  document.getElementById("live").textContent = Array.from(news, (element) => element.textContent).join(". ");
  enhance();
  goOnward();
}

// replace, not assign: the back button must not lead to a page that sends the person forward again.
function goOnward() {
  const onward = main().querySelector("a[data-onward]");
  if (onward) location.replace(onward.href);
}

async function refresh() {
  const response = await fetch(location.href, { redirect: "manual", headers: { Accept: "text/html" }, signal: AbortSignal.timeout(patience) });
  if (response.status >= 500) throw new Error(`status ${response.status}`); // it passes: this page stays until then
  if (!response.ok) {
    location.reload(); // a redirect or an error: a page of its own
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!leaving()) swap(page);
}

let newest = 0;
let catchingUp = false;

// The instance that answers may be a moment behind the one that told, so this asks until it is not.
async function catchUp(heard) {
  newest = Math.max(newest, heard);
  if (catchingUp) return;
  catchingUp = true;
  while (version() < newest && open() && !leaving()) {
    await refresh().catch(() => {}); // offline for a moment: the next round tries again
    if (version() < newest && open()) await pause(1000);
  }
  catchingUp = false;
}

// A connection that has died, or a proxy that holds everything back, raises no error.
const opening = 10_000; // ms, for the first word of a stream
const silence = 40_000; // ms, after which it counts as dead: the server says something every 15 s

function follow() {
  const source = new EventSource(`${api()}/events?alive`);
  let failures = 0;
  let watchdog;
  const giveUp = () => {
    clearTimeout(watchdog);
    source.close();
    poll();
  };
  const within = (time) => {
    clearTimeout(watchdog);
    watchdog = setTimeout(giveUp, time);
  };
  within(opening);
  source.addEventListener("alive", () => within(silence));
  source.addEventListener("message", async ({ data }) => {
    failures = 0;
    within(silence);
    await catchUp(JSON.parse(data).version);
    if (!open()) {
      clearTimeout(watchdog);
      source.close();
    }
  });
  source.addEventListener("error", () => {
    failures += 1;
    if (source.readyState === EventSource.CLOSED || failures === 3) giveUp();
    else within(opening);
  });
}

async function poll() {
  while (open()) {
    try {
      const response = await fetch(`${api()}?after=${version()}&wait=25s`, { signal: AbortSignal.timeout(25_000 + patience) });
      if (!response.ok) throw new Error(`status ${response.status}`);
      await catchUp((await response.json()).version);
      await pause(1000);
    } catch {
      await pause(5000);
      // Nothing is lost by a reload where the person types nothing.
      if ("waiting" in main().dataset) location.reload();
    }
  }
}

// An invitation: its link can be copied, and the page leads back to the list when the phone is there or the time is up.

const invited = () => "invited" in main().dataset;
const say = (text) => (document.getElementById("live").textContent = text);

document.addEventListener("click", async ({ target }) => {
  const { copies, copied } = target.dataset;
  if (!copies) return;
  const link = document.getElementById(copies);
  try {
    await navigator.clipboard.writeText(link.textContent);
    target.textContent = copied;
    say(copied);
  } catch {
    getSelection().selectAllChildren(link); // the person's own hand may still copy it
  }
});

function runOut() {
  const over = document.getElementById("invitation-over");
  if (!over.hidden) return;
  document.getElementById("invitation-open").hidden = true;
  over.hidden = false;
  say(over.textContent);
}

const phones = async () => {
  const response = await fetch("/v1/devices", { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(patience) });
  if (response.status === 401) location.replace("/devices"); // the session has ended: the list leads to a login
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()).devices.map(({ id }) => id);
};

// awaitPhone looks for a phone that was not there when the page came. replace, not assign: the link is of no use any more.
async function awaitPhone() {
  document.getElementById("copy").hidden = !navigator.clipboard; // only a secure address has one
  document.getElementById("invitation-waiting").hidden = false;
  for (let before; document.getElementById("invitation-over").hidden; await pause(3_000)) {
    const there = await phones().catch(() => before); // offline for a moment
    before ??= there;
    if (there?.some((id) => !before.includes(id))) {
      location.replace("/devices");
      return;
    }
  }
}

enhance();
setInterval(tick, 1000);
if (invited()) awaitPhone();
if (main().dataset.login) {
  goOnward();
  if (open()) follow();
}
