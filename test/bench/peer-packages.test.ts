// Where a peer's packages come from: the project's own, or fetched once into the user's cache, by an npm that is not the real one here.

import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { fetchPackages, peerVersion, requirePeer } from '../../bench/peers/packages.ts';

/** Installs what package.json asks for, as npm does: the list of it comes last. */
const INSTALLS = `#!/usr/bin/env node
const { mkdirSync, readFileSync, writeFileSync, existsSync } = require('node:fs');
writeFileSync('asked', process.argv.slice(2).join(' '));
if (!existsSync('package-lock.json')) process.exit(1);
for (const [name, version] of Object.entries(JSON.parse(readFileSync('package.json')).dependencies)) {
  mkdirSync('node_modules/' + name, { recursive: true });
  writeFileSync('node_modules/' + name + '/package.json', JSON.stringify({ name, version }));
}
writeFileSync('node_modules/.package-lock.json', '{}');
`;
const FAILS = `#!/bin/sh
echo 'npm error code ENOTFOUND' >&2
echo 'npm error network request to https://registry.npmjs.org/a failed, reason: getaddrinfo ENOTFOUND' >&2
exit 1
`;
const NAME = 'onnxruntime-node';

let folder: string;
const cached = (...path: string[]) => join(folder, 'cache/moe-kernels/peers', NAME, ...path);
const back = process.cwd();

beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'moe-kernels-')));
  vi.stubEnv('XDG_CACHE_HOME', join(folder, 'cache'));
  vi.stubEnv('PATH', `${folder}${delimiter}${process.env.PATH}`);
  mkdirSync(join(folder, 'project/src'), { recursive: true });
  process.chdir(join(folder, 'project/src'));
});
afterEach(() => {
  process.chdir(back);
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

async function fetching(npm: string): Promise<{ reason: string | undefined; said: string[] }> {
  writeFileSync(join(folder, 'npm'), npm);
  chmodSync(join(folder, 'npm'), 0o755);
  const said: string[] = [];
  return { reason: await fetchPackages(NAME, line => said.push(line)), said };
}

it('are fetched once, of the pinned versions, without install scripts, and not silently', async () => {
  const { reason, said } = await fetching(INSTALLS);
  expect(reason).toBeUndefined();
  const line = `fetching ${NAME} 1.30.0 from the npm registry into ${cached()}`;
  expect(said).toEqual([line]);
  expect(readFileSync(cached('asked'), 'utf8')).toMatch(/^ci --ignore-scripts /);
  expect(peerVersion(NAME, NAME)).toBe('1.30.0');
  expect(await fetching(FAILS)).toEqual({ reason: undefined, said: [] });
});

it.each([
  [
    'of another version',
    () => writeFileSync(cached('node_modules', NAME, 'package.json'), '{"version":"1"}'),
  ],
  ['not all there', () => rmSync(cached('node_modules/.package-lock.json'))],
])('are fetched again where they are %s', async (_, damage) => {
  await fetching(INSTALLS);
  damage();
  expect((await fetching(INSTALLS)).said).toHaveLength(1);
  expect(peerVersion(NAME, NAME)).toBe('1.30.0');
});

it('that cannot be fetched are a reason in one line', async () => {
  const { reason } = await fetching(FAILS);
  const said = 'network request to https://registry.npmjs.org/a failed, reason: getaddrinfo ENOTFOUND';
  expect(reason).toBe(`a fetch that failed: ${said}`);
});

it('of the project that the current folder is in are used, whatever their version', async () => {
  const own = join(folder, 'project/node_modules', NAME);
  mkdirSync(own, { recursive: true });
  writeFileSync(join(own, 'package.json'), '{"version":"1.2.3"}');
  writeFileSync(join(own, 'index.js'), 'module.exports = "its own"');
  expect(await fetching(FAILS)).toEqual({ reason: undefined, said: [] });
  expect([peerVersion(NAME, NAME), requirePeer(NAME, NAME)]).toEqual(['1.2.3', 'its own']);
});
