// Logs alice in to a `sekisho up` on this machine. In place of a person, the code is read from the simulated phone.
//
//   node login.js [data dir] [binary|structured]
import { demo } from "./demo.js";
import { Gateway } from "./gateway.js";

const [dir = "../../../.sekisho", mode = "binary"] = process.argv.slice(2);
const { servers, seed, password, codeOnPhone } = demo(dir);

const gateway = await Gateway.connect({ servers, name: "example", seed, mode });
const id = await gateway.request({ app: "demo", user: "alice", password });
console.log(`requested ${id}`);
for await (const state of gateway.watch(id)) {
  console.log(state.status, state.hint ?? "");
  if (state.status === "challenge") {
    await gateway.answer(id, state, await codeOnPhone("09012341234"));
  } else if (state.status === "granted") {
    console.log(`user ${state.user}, amr ${state.amr}, acr ${state.acr}, until ${state.expires}`);
  }
}
await gateway.close();
