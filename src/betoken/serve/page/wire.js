/** What goes to the server and what comes back. */

/** What a user is told went wrong: a refusal, an error inside a stream, or a stream that is none. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Server-sent events, as the standard has them: bytes in, cut anywhere; the data of complete events out. */
export class EventParser {
  #decoder = new TextDecoder("utf-8", { fatal: true });
  #line = "";
  #data = [];
  #afterReturn = false;

  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    const half = this.#afterReturn && text[0] === "\n"; // of a CRLF that was cut in two
    this.#afterReturn = text.endsWith("\r");
    if (half) text = text.slice(1);
    const lines = (this.#line + text).split(/\r\n|\n|\r/);
    this.#line = lines.pop();
    return lines.flatMap((line) => this.#take(line));
  }

  #take(line) {
    if (line === "") {
      const event = this.#data;
      this.#data = [];
      return event.length ? [event.join("\n")] : [];
    }
    const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
    if (field === "data") this.#data.push(value ?? ""); // a comment has an empty field; event, id and retry say nothing here
    return [];
  }
}

export function headers(key) {
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

export async function reached(url, options) {
  try {
    return await fetch(url, { cache: "no-store", ...options });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new ServerError("The server cannot be reached.");
  }
}

export async function refusal(response) {
  const text = await response.text().catch(() => "");
  let message = `The server answered with status ${response.status}.`;
  try {
    message = JSON.parse(text).error.message ?? message;
  } catch {
    // not one of the API's errors: the status has to do
  }
  return new ServerError(message, response.status);
}

function parsed(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ServerError("The stream holds something that is no JSON.");
  }
  if (chunk?.error) throw new ServerError(chunk.error.message ?? "The server reports an error without a message.");
  return chunk;
}

async function discard(reader) {
  while (!(await reader.read()).done);
}

/** The chunks of one streamed answer. Throws ServerError, or AbortError where the signal says so. */
export async function* chunks(url, body, key, signal) {
  const response = await reached(url, { method: "POST", headers: headers(key), body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  const type = response.headers.get("Content-Type") ?? "nothing";
  if (!type.startsWith("text/event-stream")) throw new ServerError(`The server answered with ${type}, not with an event stream.`);
  const reader = response.body.getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ServerError("The stream ended before it was complete.");
      for (const data of parser.push(value)) {
        if (data === "[DONE]") return;
        yield parsed(data);
      }
    }
  } catch (failure) {
    if (failure instanceof ServerError || failure.name === "AbortError") throw failure;
    throw new ServerError(`The stream broke off: ${failure.message}.`);
  } finally {
    discard(reader).catch(() => {}); // a cancelled reader would look to the server like a client that left
  }
}
