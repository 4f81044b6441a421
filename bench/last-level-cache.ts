// How much of a layer may still be in a cache from the run before.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Where the system does not say. */
const USUAL_BYTES = 64 * 2 ** 20;
const UNITS: Readonly<Record<string, number>> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes of all last-level caches of this machine together, as Linux tells them. */
export function lastLevelCacheBytes(folder = '/sys/devices/system/cpu'): number {
  try {
    const caches = readdirSync(folder)
      .filter(name => /^cpu\d+$/.test(name))
      .flatMap(name => cachesOf(join(folder, name, 'cache')));
    const last = Math.max(...caches.map(({ level }) => level));
    const sizes = new Map(
      caches.filter(({ level }) => level === last).map(({ cpus, bytes }) => [cpus, bytes]),
    );
    return [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0) || USUAL_BYTES;
  } catch {
    return USUAL_BYTES;
  }
}

function cachesOf(folder: string): { level: number; cpus: string; bytes: number }[] {
  return readdirSync(folder)
    .filter(name => name.startsWith('index'))
    .map(name => {
      const read = (file: string) => readFileSync(join(folder, name, file), 'utf8').trim();
      const [, number, unit] = /^(\d+)([KMG])$/.exec(read('size'))!;
      return {
        ...{ level: Number(read('level')), cpus: read('shared_cpu_list') },
        bytes: Number(number) * UNITS[unit!]!,
      };
    });
}
