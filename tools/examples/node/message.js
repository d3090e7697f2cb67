// CloudEvents as NATS messages. In binary mode each attribute is a header `ce-<attribute>` and the payload is the data; in
// structured mode the payload is the whole event. That is the HTTP binding but for the header of the data's type.
import { headers } from "@nats-io/transport-node";
import { HTTP } from "cloudevents";

// encode gives the headers and the payload of an event; mode is "binary" or "structured".
export function encode(event, mode) {
  const message = HTTP[mode](event);
  const h = headers();
  for (const [name, value] of Object.entries(message.headers)) {
    h.set(mode === "binary" && name === "content-type" ? "ce-datacontenttype" : name, String(value));
  }
  return { headers: h, payload: message.body };
}

// decode takes an event from a message in either mode.
export function decode(message) {
  const h = Object.fromEntries([...message.headers].map(([name, [value]]) => [name.toLowerCase(), value]));
  return HTTP.toEvent({ headers: { "content-type": h["ce-datacontenttype"], ...h }, body: message.string() });
}
