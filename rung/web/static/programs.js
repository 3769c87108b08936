// Chat requests as programs that send exactly the same. A key is never written into them.

// For a shell: one command for each request.
export const asCurl = (requests, base, keyed) => requests.map((request) => curl(request, base, keyed)).join("\n\n");

function curl(request, base, keyed) {
  const fields = Object.entries(request).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  return [
    `curl ${request.stream ? "-N " : ""}${base}/chat/completions`,
    ...(keyed ? ['-H "Authorization: Bearer $RUNG_API_KEY"'] : []),
    "-H 'Content-Type: application/json'",
    `-d ${quoted(`{${fields.join(",\n      ")}}`)}`,
  ].join(" \\\n  ");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// With OpenAI's client.
export function asPython(requests, base, keyed) {
  const key = keyed ? 'os.environ["RUNG_API_KEY"]' : '"none"';
  return [
    ...(keyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(base)}, api_key=${key})`,
    ...requests.flatMap(call),
  ].join("\n");
}

function call(request) {
  const fields = Object.entries(request).map(([name, value]) => `    ${name}=${literal(value)},`);
  const made = ["answer = client.chat.completions.create(", ...fields, ")"];
  if (!request.stream) return [...made, "print(answer.choices[0].message.content)"];
  return [
    ...made,
    "for chunk in answer:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    "print()",
  ];
}

// JSON's strings and numbers are Python's, too.
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const fields = Object.entries(value).map(([name, part]) => `${JSON.stringify(name)}: ${literal(part)}`);
  return `{${fields.join(", ")}}`;
}
