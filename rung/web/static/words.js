// Figures and texts as they are shown: text in, text out.

const MOST_CELLS = 4_000_000;

export const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

export const duration = (ms) =>
  ms < 10_000 ? `${Math.round(ms).toLocaleString("en")} ms` : `${(ms / 1000).toFixed(1)} s`;

export const mebibytes = (bytes) => `${Math.round(bytes / 2 ** 20).toLocaleString("en")} MiB`;

// A probability as the report writes scores: .879
export function chance(p) {
  if (p >= 0.9995) return p === 1 ? "1.00" : ">.999";
  return p < 0.0005 ? "<.001" : p.toFixed(3).slice(1);
}

// JSON with one value a line, whole or not yet. Its strings and numbers stay letter for letter.
export function indented(text) {
  let made = "";
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  for (const [part] of text.matchAll(/"(?:[^"\\]|\\.)*"?|\{\s*\}|\[\s*\]|[^\s"]|\s+/gs)) {
    if (!part.trim()) continue;
    if (part === "}" || part === "]") {
      depth = Math.max(0, depth - 1);
      made += line();
    }
    made += part.length > 1 && "{[".includes(part[0]) ? part[0] + part.at(-1) : part;
    if (part === "{" || part === "[") {
      depth += 1;
      made += line();
    }
    if (part === ",") made += line();
    if (part === ":") made += " ";
  }
  return made;
}

export function isWholeJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

// Words, signs and the space between them.
export const parts = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

// The places in each of two lists that the other one lacks, by their longest common subsequence.
// Null where they are too long to compare.
export function lacking(a, b) {
  const width = b.length + 1;
  if ((a.length + 1) * width > MOST_CELLS) return null;
  const common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      common[at] = a[i] === b[j] ? common[at + width + 1] + 1 : Math.max(common[at + width], common[at + 1]);
    }
  }
  const own = [new Set(), new Set()];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      i += 1;
      j += 1;
    } else if (j === b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      own[0].add(i++);
    } else {
      own[1].add(j++);
    }
  }
  return own;
}
