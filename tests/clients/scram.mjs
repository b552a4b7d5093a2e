// SCRAM-SHA-256 (RFC 5802, RFC 7677) from the client's side, as MQTT.js lets its user do it.

import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";

export const method = "SCRAM-SHA-256";
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

/// One exchange: `first` goes to the broker, `answer` takes its challenge and gives what goes back, `isRight` checks
/// that the broker knows the password too.
export class Scram {
  constructor(user, password) {
    this.password = password;
    this.nonce = randomBytes(18).toString("base64");
    this.bare = `n=${user.replaceAll("=", "=3D").replaceAll(",", "=2C")},r=${this.nonce}`;
  }

  get first() {
    return Buffer.from(`n,,${this.bare}`);
  }

  answer(challenge) {
    const text = challenge.toString();
    const fields = Object.fromEntries(text.split(",").map((field) => [field[0], field.slice(2)]));
    if (!fields.r.startsWith(this.nonce) || fields.r === this.nonce) throw new Error(`a nonce that is not ours: ${text}`);
    const salted = pbkdf2Sync(this.password, Buffer.from(fields.s, "base64"), Number(fields.i), 32, "sha256");
    const clientKey = hmac(salted, "Client Key");
    const withoutProof = `c=biws,r=${fields.r}`;
    const message = `${this.bare},${text},${withoutProof}`;
    const signature = hmac(createHash("sha256").update(clientKey).digest(), message);
    const proof = Buffer.from(clientKey.map((byte, at) => byte ^ signature[at]));
    this.expected = `v=${hmac(hmac(salted, "Server Key"), message).toString("base64")}`;
    return Buffer.from(`${withoutProof},p=${proof.toString("base64")}`);
  }

  isRight(signature) {
    return signature?.toString() === this.expected;
  }
}
