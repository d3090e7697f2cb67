// Against a running `sekisho up`; SEKISHO_DATA_DIR is its data dir.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection, createServer } from "node:net";
import { test } from "node:test";
import { demo } from "./demo.js";
import { Gateway } from "./gateway.js";

const { servers, seed, password, codeOnPhone } = demo(process.env.SEKISHO_DATA_DIR ?? "../../../.sekisho");

// Two instances serve one login: the second takes it up from the stream, and two answers at the same time take two attempts.
test("two instances of a gateway", async (t) => {
  const instances = [await Gateway.connect({ servers, name: "example", seed }), await Gateway.connect({ servers, name: "example", seed })];
  t.after(() => Promise.all(instances.map((i) => i.close())));

  const id = await instances[0].request({ app: "demo", user: "alice", password });
  const first = instances[0].watch(id);
  const challenge = await until(first, (state) => state.status === "challenge");
  const second = instances[1].watch(id);
  assert.deepEqual((await second.next()).value, challenge);

  const code = await codeOnPhone("09012341234");
  const wrong = String((Number(code) + 1) % 1e6).padStart(6, "0");
  const taken = await Promise.all(instances.map((i) => i.answer(id, challenge, wrong)));
  assert.deepEqual(taken.sort(), [1, 2]);
  for (const states of [first, second]) await until(states, (state) => state.attemptsLeft === 3);

  assert.equal(await instances[1].answer(id, challenge, code), 3);
  for (const states of [first, second]) {
    const granted = await until(states, (state) => state.status === "granted");
    assert.deepEqual(granted.amr, ["pwd", "sms"]);
    assert.ok((await states.next()).done);
  }
});

// The login ends while an instance is cut off from the bus: it learns so when it is back.
test("a connection that is lost", async (t) => {
  const line = await cable(servers);
  const cutOff = await Gateway.connect({ servers: line.address, name: "example", seed });
  const other = await Gateway.connect({ servers, name: "example", seed });
  t.after(async () => {
    await Promise.all([cutOff.close(), other.close()]);
    await line.cut();
  });

  const id = await cutOff.request({ app: "demo", user: "alice", password });
  const states = cutOff.watch(id);
  const challenge = await until(states, (state) => state.status === "challenge");
  await line.cut();
  const told = until(states, (state) => state.status === "granted");
  const others = other.watch(id);
  await others.next();
  await other.answer(id, challenge, await codeOnPhone("09012341234"));
  await until(others, (state) => state.status === "granted");
  await line.mend();
  await told;
});

test("a login that nobody answers", async (t) => {
  const gateway = await Gateway.connect({ servers, name: "example", seed });
  t.after(() => gateway.close());
  const id = await gateway.request({ app: "demo", user: "alice", password, lasts: 1_000 });
  const states = gateway.watch(id);
  await until(states, (state) => state.status === "expired");
  assert.ok((await states.next()).done);
});

test("a seed is good for its own gateway only", async () => {
  await assert.rejects(Gateway.connect({ servers, name: "web", seed }), /not that of gateway web/);
});

test("a login that nobody requested", async (t) => {
  const gateway = await Gateway.connect({ servers, name: "example", seed });
  t.after(() => gateway.close());
  await assert.rejects(gateway.watch("01900000-0000-7000-8000-000000000000").next(), /has no login/);
});

// cable is a way to an address that can be cut, and mended.
async function cable(to) {
  const [host, port] = to.split(":");
  const sockets = new Set();
  const server = createServer((near) => {
    const far = createConnection({ host, port });
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    }
    near.pipe(far).pipe(near);
  });
  const listen = async (port) => once(server.listen(port, "127.0.0.1"), "listening");
  await listen(0);
  const { port: own } = server.address();
  return {
    address: `127.0.0.1:${own}`,
    mend: () => listen(own),
    cut() {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      return closed;
    },
  };
}

// until takes states from a watch up to one that is as wanted.
async function until(states, wanted) {
  for (;;) {
    const { value, done } = await states.next();
    assert.ok(!done, "the login has ended");
    if (wanted(value)) return value;
  }
}
