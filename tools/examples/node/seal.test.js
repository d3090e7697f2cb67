// The test vectors of schemas/examples/sealing.json, whose base64 is that of the wire.
import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { associatedData, info, label, sealer, suite, valueKey } from "./seal.js";

const vectors = JSON.parse(readFileSync(new URL("../../../schemas/examples/sealing.json", import.meta.url), "utf8"));
const bytes = (base64) => Uint8Array.from(Buffer.from(base64, "base64"));
const base64 = (bytes) => Buffer.from(bytes).toString("base64");

for (const v of vectors) {
  test(`vector for ${v.recipient}`, async () => {
    const recipientPublicKey = await suite.kem.deserializePublicKey(bytes(v.public_key));
    const context = await suite.createSenderContext({ recipientPublicKey, info, ekm: bytes(v.ephemeral_ikm).buffer });
    assert.equal(base64(context.enc), v.sealed.enc);
    assert.equal(base64(await context.export(label, 32)), v.value_key);
    assert.equal(base64(associatedData(v.subject, v.field, v.recipient)), v.associated_data);
    assert.equal(v.sealed.key, v.key);
    assert.equal(base64(bytes(v.sealed.box).slice(0, 12)), v.nonce);
    assert.equal(await open(v, v.sealed), v.plaintext);
  });

  test(`a value sealed to ${v.recipient}`, async () => {
    const seal = await sealer({ recipient: v.recipient, id: v.key, key: v.public_key });
    const sealed = await seal(v.subject, v.field, JSON.parse(v.plaintext));
    assert.equal(sealed.key, v.key);
    assert.equal(await open(v, sealed), v.plaintext);
    assert.notEqual((await seal(v.subject, v.field, JSON.parse(v.plaintext))).box, sealed.box);
    await assert.rejects(open({ ...v, subject: `${v.subject}.2` }, sealed), { name: "OperationError" });
  });
}

// open opens a value as its recipient does.
async function open({ private_key, subject, field, recipient }, { enc, box }) {
  const recipientKey = await suite.kem.deserializePrivateKey(bytes(private_key));
  const aes = await valueKey(await suite.createRecipientContext({ recipientKey, enc: bytes(enc), info }));
  const additionalData = associatedData(subject, field, recipient);
  const iv = bytes(box).slice(0, 12);
  const plain = await webcrypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData }, aes, bytes(box).slice(12));
  return new TextDecoder().decode(plain);
}
