// The command line of the JavaScript checks.
//
// URL [--ca FILE] [--cert FILE --key FILE] [--user NAME --password WORD] [--identity NAME] [--only PART-OF-A-NAME].
// URL is mqtt://, mqtts://, ws:// or wss://; --identity is the user that the broker must know the client as.

import { parseArgs } from "node:util";

const options = Object.fromEntries(["ca", "cert", "key", "user", "password", "identity", "only"].map((name) => [name, { type: "string" }]));
const parsed = parseArgs({ options, allowPositionals: true });

export const url = parsed.positionals[0];
export const values = parsed.values;
