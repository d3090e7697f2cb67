// What the app shows: functions from texts and data to elements. What the user does goes to the functions in `on`.

import { el } from "./dom.js";

const heading = (text) => el("h1", { tabindex: "-1" }, text);
const notice = (kind, text, more) => el("p", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : "status", ...more }, text);
const button = (kind, text, onclick, more) => el("button", { class: kind, type: "button", onclick, ...more }, text);
const fact = (name, ...value) => value.some(Boolean) && el("div", {}, el("dt", {}, name), el("dd", {}, ...value));
const seal = (kind, sign) => el("div", { class: `seal ${kind}`, "aria-hidden": "true" }, sign);
const section = (id, title, ...content) => el("section", { "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title`, tabindex: "-1" }, title), ...content);

// form calls submit with the value of its one field. wrong says that this is what the problem above is about.
function form(id, label, input, text, submit, wrong) {
  const field = el("input", { id, required: true, autocomplete: "off", "aria-describedby": wrong && "problem", "aria-invalid": wrong && "true", ...input });
  return el("form", { onsubmit: (event) => { event.preventDefault(); submit(field.value.trim()); } },
    el("div", { class: "field" }, el("label", { for: id }, label), field),
    el("button", { class: "primary" }, text));
}

export const unsupported = (t) => [seal("", "!"), heading(t("unsupported.title")), el("p", {}, t("unsupported.detail"))];

export const welcome = (t, { problem, link }, on) => [
  heading(t("welcome.title")),
  problem && notice("bad", t(`welcome.${problem}`), { id: "problem" }),
  el("p", {}, t("welcome.detail")),
  form("link", t("welcome.link"), { type: "text", inputmode: "url", spellcheck: "false", autocapitalize: "none", value: link }, t("welcome.submit"), on.link, problem === "bad_link"),
];

export const activate = (t, { name, previous, problem, busy }, on) => [
  heading(t("activate.title")),
  problem && notice("bad", t(`activate.${problem}`), { id: "problem" }),
  previous && notice("warn", t("activate.previous", { user: previous })),
  el("p", {}, t("activate.detail")),
  form("name", t("activate.name"), { type: "text", maxlength: "64", value: name, disabled: busy }, t(busy ? "activate.busy" : "activate.submit"), on.activate, problem === "bad_name"),
  previous && button("quiet", t("activate.cancel"), () => on.cancel()),
];

// home has slots that are filled as things change; see the functions below.
export const home = (t) => [
  heading(t("home.title")),
  el("p", { class: "owner", id: "owner" }),
  ...["connection", "prompts", "notices", "notifications", "devices"].map((id) => el("div", { id })),
];

export const owner = (t, device) => device && [t("home.owner", device)];

export const connection = (t, state) => [el("p", { class: `connection ${state}`, role: "status" }, t(`connection.${state}`))];

export const prompts = (t, all, on) => all && [
  all.length > 0
    ? section("waiting", t("prompts.title"), el("ul", { class: "rows" }, all.map((prompt) =>
        el("li", {}, button("secondary request", [el("strong", {}, t.app(prompt)), el("span", {}, [t.place(prompt.place ?? ""), prompt.browser, t.clock(prompt.asked)].filter(Boolean).join(" · "))], () => on.open(prompt), { id: `prompt-${prompt.login}-${prompt.round}` })))))
    : el("p", { class: "empty" }, t("prompts.none")),
];

export const notices = (t, all, on) => all.length > 0 && [
  section("news", t("notices.title"), el("ul", { class: "rows" }, Array.from(gathered(all), ([key, group]) =>
    el("li", {}, group.length === 1 ? single(t, group[0], on) : several(t, key, group, on))))),
];

// gathered are notices of one kind, and of one browser where they tell of it, by what they have in common.
function gathered(all) {
  const groups = new Map();
  for (const item of all) {
    const key = `${item.kind} ${item.browser ?? ""}`;
    groups.set(key, [...(groups.get(key) ?? []), item]);
  }
  return groups;
}

const opened = new Set(); // groups that the user looks into: drawn anew, they stay so

function several(t, key, group, on) {
  const [{ kind, browser }] = group;
  const newest = Math.max(...group.map(({ at }) => Date.parse(at)));
  return el("details", { open: opened.has(key), ontoggle: ({ target }) => (target.open ? opened.add(key) : opened.delete(key)) },
    el("summary", { id: encodeURIComponent(key) }, el("strong", {}, t(`gathered.${kind}`, { count: group.length })),
      el("span", {}, [browser, t("notices.newest", { time: t.moment(newest) })].filter(Boolean).join(" · "))),
    el("ul", { class: "rows" }, group.map((item) => el("li", {}, single(t, item, on)))));
}

const single = (t, item, on) => [
  el("p", {}, el("strong", {}, t(`notice.${item.kind}`, { device: item.device ?? "", app: t.app(item) })), " ",
    el("span", {}, [t.place(item.place ?? ""), item.browser, t.moment(item.at)].filter(Boolean).join(" · "))),
  ...(item.kind === "unknown_environment"
    ? [el("div", { class: "pair" },
        button("secondary", t("notices.was_me"), () => on.notice(item, "seen"), { id: `seen-${item.id}` }),
        button("danger", t("notices.not_me"), () => on.notice(item, "not_me"), { id: `not-me-${item.id}` }))]
    : [el("p", {}, t("notices.phone")), button("secondary", t("notices.seen"), () => on.notice(item, "seen"), { id: `seen-${item.id}` })]),
];

export const notifications = (t, state, on) => state && [
  section("notify", t("notifications.title"),
    ["on", "off", "trying"].includes(state) ? el("p", { role: "status" }, t(`notifications.${state}`)) : notice("warn", t(`notifications.${state}`)),
    ["off", "failed"].includes(state) && button("secondary", t("notifications.turn_on"), on.notifications, { id: "turn-on" })),
];

export const devices = (t, all, on) => all.length > 0 && [
  section("phones", t("devices.title"), el("ul", { class: "rows" }, all.map((item) => {
    const row = el("li", {});
    const ask = (...content) => { row.className = "asking"; row.replaceChildren(...content); row.querySelector("input, button").focus(); };
    const close = (opener) => { row.className = ""; row.replaceChildren(...plain); opener.focus(); };
    const rename = button("quiet", t("devices.rename"), () => ask(
      form(`name-${item.id}`, t("devices.name"), { type: "text", maxlength: "64", value: item.name }, t("devices.save"), (name) => on.rename(item, name, () => close(rename))),
      button("quiet", t("devices.keep"), () => close(rename))), { id: `rename-${item.id}`, "aria-label": `${t("devices.rename")}: ${item.name}` });
    const remove = button("quiet", t("devices.remove"), () => ask(
      el("p", { role: "alert" }, t(item.this ? "devices.remove_this" : "devices.remove_other", { name: item.name })),
      el("div", { class: "pair" },
        button("secondary", t("devices.keep"), () => close(remove)),
        button("danger", t("devices.remove"), () => on.remove(item, () => close(remove))))), { id: `remove-${item.id}`, "aria-label": `${t("devices.remove")}: ${item.name}` });
    const facts = el("p", {}, el("strong", {}, item.name), item.this && el("em", {}, t("devices.this")), " ",
      el("span", {}, t("devices.seen", { time: t.moment(item.seen ?? item.enrolled) })));
    const plain = [facts, el("div", { class: "pair" }, rename, remove)];
    row.append(...plain);
    return row;
  }))),
];

// prompt asks for a decision. Approve takes the six digits that the login page shows, unless the app does without. While one is
// on its way, busy says which. The slot is filled when other prompts come and go.
export function prompt(t, { prompt, problem, left, busy, number = "" }, on) {
  const word = (decision) => t(busy === decision ? "prompt.busy" : `prompt.${decision}`);
  const mark = (decision) => ({ disabled: Boolean(busy), "aria-disabled": busy === decision && "true" });
  const approve = el("button", { class: "primary", ...mark("approve") }, word("approve"));
  const typed = () => {
    const digits = input.value.normalize("NFKC").replace(/\D/g, "").slice(0, 6); // people type full-width digits and paste spaces
    if (digits !== input.value) input.value = digits;
    approve.disabled = Boolean(busy) || digits.length !== 6;
  };
  const input = prompt.number && el("input", {
    id: "number", class: "code", type: "text", inputmode: "numeric", autocomplete: "off", maxlength: "6", required: true, disabled: Boolean(busy), value: number,
    "aria-describedby": problem ? "problem detail" : "detail", "aria-invalid": problem === "wrong" && "true",
    oninput: (event) => { if (!event.isComposing) typed(); }, // an input method would lose what it composes
    oncompositionend: typed,
    onpaste: (event) => { // maxlength would cut "123 456"
      event.preventDefault();
      input.value = event.clipboardData.getData("text");
      typed();
    },
  });
  if (input && !busy) typed();
  return [
    heading(t("prompt.title")),
    problem && el("p", { class: "notice bad", id: "problem", role: "alert" }, t(`prompt.${problem}`, { left })),
    el("dl", { class: "facts" },
      fact(t("prompt.app"), t.app(prompt)), fact(t("prompt.place"), t.place(prompt.place ?? "")), fact(t("prompt.browser"), prompt.browser),
      fact(t("prompt.asked"), t.clock(prompt.asked)), fact(t("prompt.left"), el("span", { id: "left" }))),
    el("form", { onsubmit: (event) => { event.preventDefault(); on.decide("approve", input ? input.value : ""); } },
      el("p", { id: "detail" }, t(prompt.number ? "prompt.number_detail" : "prompt.tap_detail")),
      input && el("div", { class: "field" }, el("label", { for: "number" }, t("prompt.number")), input),
      approve),
    button("secondary", word("deny"), () => on.decide("deny", ""), mark("deny")),
    button("danger", word("not_me"), () => on.decide("not_me", ""), mark("not_me")),
    el("div", { id: "others", role: "status" }),
  ];
}

export const others = (t, { waiting, busy }, on) => waiting && [
  el("p", {}, t("prompt.others")),
  button("quiet", t("prompt.back"), on.back, { disabled: busy }),
];

export const result = (t, { kind }, on) => [
  seal(kind === "approved" ? "good" : "", { approved: "✓", denied: "✕", not_me: "✕" }[kind] ?? "!"),
  heading(t(`result.${kind}`)),
  el("p", {}, t(`result.${kind}.detail`)),
  button("primary", t("result.done"), on.done),
];

export const removed = (t, _, on) => [
  seal("", "!"), heading(t("removed.title")), el("p", {}, t("removed.detail")), button("primary", t("removed.again"), on.again),
];
