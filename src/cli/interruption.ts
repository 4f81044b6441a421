// Commands that measure for long end at a signal with one sentence, and what they have finished is kept.

import { writeError } from './output.ts';

/** 128 and the signal's number, as shells have it. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

export interface Progress {
  readonly finished: number;
  readonly total: number;
  /** The file that holds what is finished, if one was asked for. */
  readonly out: string | undefined;
}

/**
 * Ends the process at Ctrl-C or SIGTERM, until disposed of.
 * @param stop shows what is finished, and says how much that is
 */
export function onInterruption(stop: () => Progress, json: boolean): Disposable {
  const handlers = Object.entries(EXIT_CODES).map(([signal, code]) => {
    const end = () => {
      writeError({ code: 'ERR_INTERRUPTED', message: describeStop(stop()) }, json);
      process.exit(code);
    };
    process.once(signal, end);
    return { signal, end };
  });
  return {
    [Symbol.dispose]() {
      for (const { signal, end } of handlers) process.off(signal, end);
    },
  };
}

function describeStop({ finished, total, out }: Progress): string {
  const counted = `stopped with ${finished} of ${total} results finished`;
  return out === undefined
    ? `${counted}; with --out FILE they would be kept, and the same command would go on with the rest`
    : `${counted}, which ${out} holds; the same command goes on with the rest`;
}
