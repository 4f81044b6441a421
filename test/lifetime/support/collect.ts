// The garbage collector on request. Finalisers run after it, in later turns of the event loop, so collecting means waiting.

import { setImmediate, setTimeout } from 'node:timers/promises';

function collect(): void {
  if (globalThis.gc === undefined) throw new Error('these tests need node --expose-gc');
  globalThis.gc();
}

/** Collects until `condition` holds; false if it still does not after many collections. */
export async function collectUntil(condition: () => boolean | Promise<boolean>): Promise<boolean> {
  for (let attempt = 0; attempt < 50; attempt++) {
    collect();
    await setImmediate();
    if (await condition()) return true;
    await setTimeout(attempt);
  }
  return false;
}

/** Collects all that can be, finalisers included. */
export async function collectAll(): Promise<void> {
  for (let i = 0; i < 4; i++) {
    collect();
    await setImmediate();
  }
}
