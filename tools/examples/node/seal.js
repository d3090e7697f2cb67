// Seals values to one worker: only it can open them, and only in the place that they were sealed for.
import { webcrypto } from "node:crypto";
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";

const utf8 = new TextEncoder();
export const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes256Gcm() });
export const info = utf8.encode("sekisho sealing v1");
export const label = utf8.encode("sekisho value key v1");

// associatedData binds a value to its event's subject, its field and its recipient.
export const associatedData = (subject, field, recipient) => utf8.encode(`${subject}\0${field}\0${recipient}`);

// valueKey makes the AES-256-GCM key of an HPKE context, sender's or recipient's.
export async function valueKey(context) {
  return webcrypto.subtle.importKey("raw", await context.export(label, 32), "AES-GCM", false, ["encrypt", "decrypt"]);
}

// sealer sets up HPKE once for a key as it stands in the KEYS stream, {recipient, id, key}. What it returns seals any
// number of values; an exchange of keys per value would cost as much as the rest of the login.
export async function sealer({ recipient, id, key }) {
  const recipientPublicKey = await suite.kem.deserializePublicKey(Buffer.from(key, "base64"));
  const context = await suite.createSenderContext({ recipientPublicKey, info });
  const aes = await valueKey(context);
  return async (subject, field, value) => {
    const iv = webcrypto.getRandomValues(new Uint8Array(12));
    const additionalData = associatedData(subject, field, recipient);
    const box = await webcrypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData }, aes, utf8.encode(JSON.stringify(value)));
    return {
      key: id,
      enc: Buffer.from(context.enc).toString("base64"),
      box: Buffer.concat([iv, Buffer.from(box)]).toString("base64"),
    };
  };
}
