// JSON.parse without its forgiveness: a key named twice and hostile nesting are errors.

const MAX_DEPTH = 32;

/**
 * The value of a JSON text. An object's `__proto__` key is an own property like any other.
 * @throws SyntaxError, whose message is a phrase, also for a repeated key or more than 32 levels
 */
export function parseStrictJson(text: string): unknown {
  refuseRepeatedKeys(text);
  return JSON.parse(text);
}

/** A scan that trusts nothing, for it runs before JSON.parse; what it lets through by mistake is refused there. */
function refuseRepeatedKeys(text: string): void {
  const open: Set<string>[] = [];
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '{' || char === '[') {
      if (open.push(new Set()) > MAX_DEPTH) throw new SyntaxError(`more than ${MAX_DEPTH} levels of nesting`);
    } else if (char === '}' || char === ']') open.pop();
    else if (char === '"') {
      const start = at;
      at = closingQuote(text, start);
      if (!colonFollows(text, at + 1)) continue;
      const key = JSON.parse(text.slice(start, at + 1)) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) throw new SyntaxError(`the key ${JSON.stringify(key.slice(0, 40))} twice`);
      keys?.add(key);
    }
  }
}

function closingQuote(text: string, openingQuote: number): number {
  let at = openingQuote + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
  return at;
}

/** In valid JSON a colon follows a string exactly where the string is a key. */
function colonFollows(text: string, afterString: number): boolean {
  let at = afterString;
  while (at < text.length && ' \t\n\r'.includes(text[at]!)) at++;
  return text[at] === ':';
}
