// What a `sekisho up` on this machine has written down, and the phone that it simulates.
import { readFileSync } from "node:fs";
import { join } from "node:path";

export function demo(dir) {
  const read = (...path) => readFileSync(join(dir, ...path), "utf8").trim();
  const { nats, sim } = JSON.parse(read("addresses.json"));
  return {
    servers: nats,
    seed: new TextEncoder().encode(read("credentials", "example.nk")),
    password: read("demo-password"),
    // codeOnPhone is the code in the newest text message to a number.
    async codeOnPhone(number) {
      const [newest] = await (await fetch(`http://${sim}/sim/sms/messages?to=${number}`)).json();
      return newest.body.match(/\d{6}/)[0];
    },
  };
}
