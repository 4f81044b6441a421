// How many copies of a layer it takes to find its weights in memory, and what this machine's caches hold.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { copiesFor } from '../../bench/copies.ts';
import { lastLevelCacheBytes } from '../../bench/last-level-cache.ts';

const MB = 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), 'caches-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('copies', () => {
  it.each([
    ['twice the cache in what is read', { all: 100 * MB, read: 10 * MB }, 32, 1e12, 7],
    ['one of a layer that passes that by itself', { all: 300 * MB, read: 64 * MB }, 32, 1e12, 1],
    ['two of one that is just larger than the cache', { all: 33 * MB, read: 33 * MB }, 32, 1e12, 2],
    ['no more than half the memory holds', { all: 100 * MB, read: 10 * MB }, 32, 800 * MB, 4],
    ['one where not even that fits', { all: 100 * MB, read: 10 * MB }, 32, 150 * MB, 1],
    ['no more than 256 of a tiny one', { all: 1000, read: 1000 }, 32, 1e12, 256],
  ])('%s', (_, bytes, cacheMB, available, expected) => {
    expect(copiesFor(bytes, cacheMB * MB, available)).toBe(expected);
  });
});

describe('the last-level cache', () => {
  const write = (name: string, cpu: number, index: number, values: Record<string, string>) => {
    const cache = join(folder, name, `cpu${cpu}`, 'cache', `index${index}`);
    mkdirSync(cache, { recursive: true });
    for (const [file, value] of Object.entries(values)) writeFileSync(join(cache, file), `${value}\n`);
  };

  it('is the sum of those that do not share processors, and not of lower levels', () => {
    for (const cpu of [0, 1, 2, 3]) {
      write('two', cpu, 2, { level: '2', size: '1024K', shared_cpu_list: `${cpu}` });
      write('two', cpu, 3, {
        level: '3',
        size: cpu < 2 ? '32M' : '32768K',
        shared_cpu_list: cpu < 2 ? '0-1' : '2-3',
      });
    }
    mkdirSync(join(folder, 'two', 'cpufreq'));
    expect(lastLevelCacheBytes(join(folder, 'two'))).toBe(64 * MB);
  });

  it('is 64 MB where the system does not say', () => {
    write('odd', 0, 3, { level: '3', size: '', shared_cpu_list: '0' });
    for (const name of ['nowhere', 'odd']) expect(lastLevelCacheBytes(join(folder, name))).toBe(64 * MB);
  });
});
